// Nearest neighbours between clouds, and the matrix of Chamfer distances: see pcgen/ops/reference/distances.py.
#include "search.h"

namespace pcgen {
namespace {

template <class T> constexpr T INF = std::numeric_limits<T>::infinity();
template <class T> constexpr T NOT_A_NUMBER = std::numeric_limits<T>::quiet_NaN();

template <class T, int D> using Leaf = typename BoxTree<T, D>::Leaf;
template <class T, int D> using Node = typename BoxTree<T, D>::Node;

// The smallest squared distance of each query to the points of a leaf. Two chains, for the latency of a minimum.
template <class T, int D> inline Pack<T> nearest_in(const Leaf<T, D>& leaf, const Pack<T>* q) {
    Pack<T> even = to_point<T, D>(q, leaf, 0), odd = to_point<T, D>(q, leaf, 1);
    for (int j = 2; j < LANES; j += 2) {
        even = least(even, to_point<T, D>(q, leaf, j));
        odd = least(odd, to_point<T, D>(q, leaf, j + 1));
    }
    return least(even, odd);
}

// The nearest squared distance of each query, and the leaf where it is found: of several, that with the lowest id.
template <class T, int D> struct Found {
    Pack<T> best = Pack<T>::all(INF<T>);
    int32_t leaf[LANES] = {};

    Found(const Queries<T, D>& x, const BoxTree<T, D>& tree) {
        constexpr int32_t UNKNOWN = -1;
        int32_t lowest[LANES];  // id in the leaf, found when first asked for
        std::fill_n(lowest, LANES, UNKNOWN);
        const auto id_of = [&](int i) {
            if (lowest[i] == UNKNOWN) lowest[i] = id_in(x, i, tree, leaf[i]);
            return lowest[i];
        };
        const auto wanted = [&](const Node<T, D>& node, int child) {
            const Pack<T> bound = to_box<T, D>(x.q, node, child);
            uint32_t queries = below(bound, best);
            if (queries) return queries;
            // As near as the best: what the child has must come before. Else coinciding points would all be visited.
            for_each_bit(equal(bound, best), [&](int i) {
                queries |= uint32_t(node.id[child] < id_of(i)) << i;
            });
            return queries;
        };
        search<T, D>(tree, x.box, [&] { return largest(best); }, wanted, [&](int32_t n, uint32_t) {
            const Pack<T> here = nearest_in<T, D>(tree.leaves[n], x.q);
            const uint32_t tied = equal(here, best);
            for_each_bit(below(here, best), [&](int i) { leaf[i] = n, lowest[i] = UNKNOWN; });
            best = least(best, here);
            for_each_bit(tied, [&](int i) {
                const int32_t id = id_in(x, i, tree, n);
                if (id < id_of(i)) leaf[i] = n, lowest[i] = id;
            });
        });
    }

    // The lowest id in leaf n of a point at the best distance of query i; 0 where every distance has overflown.
    int32_t id_in(const Queries<T, D>& x, int i, const BoxTree<T, D>& tree, int32_t n) const {
        T distance[LANES];
        best.store(distance);
        if (distance[i] == INF<T>) return 0;
        const Leaf<T, D>& points = tree.leaves[n];
        return points.id[first_bit(equal(from_point<T, D>(x.c, i, points), Pack<T>::all(distance[i])))];
    }
};

// For each point of each x the nearest of the y of the same number; NaN and -1 where a coordinate is not finite.
template <class T, int D>
void nearest_of(const std::vector<BoxTree<T, D>>& x, const Span* spans, const std::vector<BoxTree<T, D>>& y, T* distance,
                int64_t* index, int64_t threads) {
    const auto good = [&](size_t b) { return x[b].finite && y[b].finite && y[b].size; };
    for (size_t b = 0; b < x.size(); b++) {
        if (good(b)) continue;
        std::fill_n(distance + spans[b].start, spans[b].count, NOT_A_NUMBER<T>);
        std::fill_n(index + spans[b].start, spans[b].count, int64_t(-1));
    }
    for_each_leaf(x, threads, [&](int64_t b, int64_t leaf) {
        if (!good(b)) return;
        const Queries<T, D> queries(x[b], leaf);
        const Found<T, D> found(queries, y[b]);
        T best[LANES];
        found.best.store(best);
        for (int i = 0; i < queries.count; i++) {
            const int64_t row = spans[b].start + x[b].leaves[leaf].id[i];
            distance[row] = best[i];
            index[row] = found.id_in(queries, i, y[b], found.leaf[i]);
        }
    });
}

// The sum over the points of x of the distances to their nearest neighbours in y, lane by lane.
template <class T, int D> double one_way(const BoxTree<T, D>& x, const BoxTree<T, D>& y, bool squared) {
    double sums[LANES] = {};
    for (int64_t n = 0; n < int64_t(x.leaves.size()); n++) {
        const Queries<T, D> queries(x, n);
        Pack<T> best = Pack<T>::all(INF<T>);
        const auto wanted = [&](const Node<T, D>& node, int child) {
            return below(to_box<T, D>(queries.q, node, child), best);
        };
        search<T, D>(y, queries.box, [&] { return largest(best); }, wanted, [&](int32_t leaf, uint32_t) {
            best = least(best, nearest_in<T, D>(y.leaves[leaf], queries.q));
        });
        T distance[LANES];
        (squared ? best : root(best)).store(distance);
        for (int i = queries.count; i < LANES; i++) distance[i] = 0;
        for (int i = 0; i < LANES; i++) sums[i] += distance[i];
    }
    double sum = 0;
    for (double part : sums) sum += part;
    return sum;
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// Where y_distance is not null, the other direction too, from the same trees.
PCGEN_EXPORT int pcgen_nearest(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans, const void* y,
                               const Span* y_spans, int64_t batch, void* x_distance, int64_t* x_index, void* y_distance,
                               int64_t* y_index, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const auto left = plant<T, D>((const T*)x, x_spans, batch, threads);
            const auto right = plant<T, D>((const T*)y, y_spans, batch, threads);
            nearest_of(left, x_spans, right, (T*)x_distance, x_index, threads);
            if (y_distance) nearest_of(right, y_spans, left, (T*)y_distance, y_index, threads);
        });
    });
}

PCGEN_EXPORT int pcgen_chamfer_matrix(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans, int64_t S,
                                      const void* y, const Span* y_spans, int64_t R, int64_t squared, int64_t symmetric,
                                      double* out, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const auto left = plant<T, D>((const T*)x, x_spans, S, threads);
            const auto right = plant<T, D>((const T*)y, y_spans, symmetric ? 0 : R, threads);
            parallel_for(S * R, threads, 4, [&](int64_t pair) {
                const int64_t s = pair / R, r = pair % R;
                if (symmetric && r < s) return;
                const auto &a = left[s], &b = symmetric ? left[r] : right[r];
                const double value = a.finite && b.finite
                    ? one_way(a, b, squared) / a.size + one_way(b, a, squared) / b.size : NOT_A_NUMBER<double>;
                out[s * R + r] = value;
                if (symmetric) out[r * R + s] = value;
            });
        });
    });
}
