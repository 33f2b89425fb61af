// Farthest point sampling: pcgen/ops/reference/sampling.py says what it is.
#include "search.h"

namespace pcgen {
namespace {

// How far the points of a cloud are from those chosen so far, and of every branch of its tree the farthest point.
template <class T, int D> class Remaining {
public:
    explicit Remaining(const BoxTree<T, D>& tree) : tree(tree), place(tree.size) {
        levels.emplace_back(tree.leaves.size());
        for (size_t n = 0; n < tree.leaves.size(); n++)
            for (int i = 0; i < LANES; i++) {
                const int32_t id = tree.leaves[n].id[i];
                levels[0][n].distance[i] = id < 0 ? T(-1) : std::numeric_limits<T>::infinity();
                levels[0][n].id[i] = id;
                if (id >= 0) place[id] = int32_t(n * LANES + i);
            }
        for (const auto& nodes : tree.levels) {
            const std::vector<Farthest> below = levels.back();
            levels.emplace_back(nodes.size());
            for (size_t i = 0; i < below.size(); i++) levels.back()[i / LANES].set(i % LANES, below[i]);
        }
    }

    int32_t farthest() const { return levels.back()[0].lowest(levels.back()[0].largest()); }

    void choose(int32_t id) {
        const int64_t at = place[id];
        levels[0][at / LANES].distance[at % LANES] = -1;  // never again, even where all the others coincide with it
        Box<T, D> point;
        for (int k = 0; k < D; k++) point.lo[k] = point.hi[k] = tree.leaves[at / LANES].c[k][at % LANES];
        approach(point, at / LANES, int(levels.size()) - 1, 0);
    }

private:
    // Of sixteen points, or of sixteen branches.
    struct alignas(64) Farthest {
        T distance[LANES];  // squared, to the nearest point chosen; -1 for points that are chosen or missing
        int32_t id[LANES];

        Farthest() { std::fill_n(distance, LANES, T(-1)), std::fill_n(id, LANES, -1); }

        T largest() const { return pcgen::largest(Pack<T>::load(distance)); }

        int32_t lowest(T tied) const {
            int32_t least = std::numeric_limits<int32_t>::max();
            for_each_bit(equal(Pack<T>::load(distance), Pack<T>::all(tied)), [&](int i) { least = std::min(least, id[i]); });
            return least;
        }

        void set(int i, const Farthest& branch) {
            const T most = branch.largest();
            distance[i] = most;
            id[i] = branch.lowest(most);
        }
    };

    const BoxTree<T, D>& tree;
    std::vector<int32_t> place;                 // id -> number of its lane, leaf after leaf
    std::vector<std::vector<Farthest>> levels;  // levels[0] has the leaves, levels[l + 1] the nodes tree.levels[l]

    // Brings a branch up to date after a point was chosen. A branch whose box is as far from it as the farthest of its
    // points is from those before stays as it is, except that on the way to the leaf `own` where one was chosen.
    void approach(const Box<T, D>& point, int64_t own, int level, int64_t n) {
        Farthest& here = levels[level][n];
        const Pack<T> before = Pack<T>::load(here.distance);
        if (level == 0) {
            Pack<T> d[D];
            for (int k = 0; k < D; k++) d[k] = Pack<T>::load(tree.leaves[n].c[k]) - Pack<T>::all(point.lo[k]);
            least(before, squared_length<T, D>(d)).store(here.distance);
            return;
        }
        uint32_t open = below(bounds<T, D>(point, tree.levels[level - 1][n]), before);
        const int64_t way = own >> 4 * (level - 1);  // 4 bits for each level of sixteen branches
        if (way / LANES == n) open |= 1u << way % LANES;
        for_each_bit(open, [&](int i) {
            approach(point, own, level - 1, n * LANES + i);
            here.set(i, levels[level - 1][n * LANES + i]);
        });
    }
};

template <class T, int D>
void sample(const BoxTree<T, D>& tree, int64_t start, int64_t count, int64_t* index) {
    std::fill_n(index, count, int64_t(-1));
    if (!tree.finite || start < 0 || start >= tree.size) return;
    Remaining<T, D> remaining(tree);
    for (int64_t i = 0; i < std::min(count, tree.size); i++) {
        index[i] = i ? remaining.farthest() : start;
        remaining.choose(int32_t(index[i]));
    }
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

PCGEN_EXPORT int pcgen_farthest_point_sampling(int64_t is_double, int64_t dimension, const void* x, const Span* spans,
                                               int64_t batch, const int64_t* start, int64_t count, int64_t* index,
                                               int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const auto trees = plant<T, D>((const T*)x, spans, batch, threads);
            parallel_for(batch, threads, 1, [&](int64_t b) { sample(trees[b], start[b], count, index + b * count); });
        });
    });
}
