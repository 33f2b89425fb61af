// The annealed earth mover's distances: pcgen/ops/reference/annealed.py says what they are.
//
// Both clouds lie in leaves of sixteen. For each leaf of x and each level, one exponential a pair serves three sums:
// the row sums K R of this level, those of the mass that the level before has moved, whose kernel is the fourth power
// (levels differ by a factor of four), and, from a buffer of sixteen rows, the column sums Kᵀ ratio. What a pair costs
// is found at the end, in one sweep over all levels, which takes one root a pair in place of one a level and serves
// the gradient too. Pairs of leaves so far apart that exp(λ d²) < exp(-40) are left out: with ratios of at most 1e9
// one of them moves no more than 1e-8 of a point's mass.
#include <memory>

#include "boxtree.h"
#include "exponential.h"

namespace pcgen {
namespace {

constexpr int LEVELS = 9;         // λ = -4^7, -4^6 … -4^-1, and then, for squared costs, 0
constexpr int GROUP = 3;          // levels whose kernels are powers of one exponential in the last sweep
constexpr int CHUNKS = 16;        // parts of x, each with its own column sums: the same for any number of threads
constexpr double REACH = 40;      // -λ d² beyond which a pair of leaves is skipped
constexpr double TINY = 1e-9;     // the definition's, against division by 0
constexpr int ROWS = 4;           // rows of a leaf that share what is loaded from the other cloud

constexpr double steepness(int level) { return level == LEVELS - 1 ? 0.25 : double(int64_t(1) << 2 * (7 - level)); }

// A cloud in leaves, in the order of its tree. A last leaf with fewer points repeats its last one, without mass.
template <class T, int D> struct Cloud {
    struct alignas(64) Leaf {
        T c[D][LANES];
    };

    BoxTree<T, D> tree;
    std::vector<Leaf> leaves;

    void build(const T* x, int64_t count, int64_t threads) {
        tree.build(x, count, threads);
        leaves.resize(tree.leaves.size());
        for (int64_t n = 0; n < int64_t(leaves.size()); n++)
            for (int k = 0; k < D; k++)
                for (int i = 0; i < LANES; i++)
                    leaves[n].c[k][i] = tree.leaves[n].c[k][tree.leaves[n].id[i] < 0 ? count - n * LANES - 1 : i];
    }

    int64_t slots() const { return int64_t(leaves.size()) * LANES; }
    int32_t id(int64_t slot) const { return tree.leaves[slot / LANES].id[slot % LANES]; }
};

template <class T, int D> inline Pack<T> differences(const typename Cloud<T, D>::Leaf& x, int i,
                                                     const typename Cloud<T, D>::Leaf& y, Pack<T>* d) {
    for (int k = 0; k < D; k++) d[k] = Pack<T>::all(x.c[k][i]) - Pack<T>::load(y.c[k]);
    return squared_length<T, D>(d);
}

// exp(λ d²), and not less than 2^LOWEST, which is as good as 0.
template <class T> struct Kernel {
    Pack<T> factor, limit;
    explicit Kernel(double steepness)
        : factor(Pack<T>::all(T(-steepness * LOG2_E))),
          limit(Pack<T>::all(T(-Exponential<T>::LOWEST / (steepness * LOG2_E)))) {}
    __attribute__((always_inline)) Pack<T> operator()(Pack<T> d2) const {
        return power_of_two(least(d2, limit), factor);
    }
};

template <class T> inline Pack<T> fourth_power(Pack<T> a) {
    const Pack<T> square = a * a;
    return square * square;
}

// The plan is Σ over levels of ratio_left · exp(λ d²) · ratio_right.
template <class T, int D> struct Plan {
    const Cloud<T, D>&x, &y;
    const bool squared;
    const int levels;
    std::vector<T> left, right;  // (levels, slots)

    Plan(const Cloud<T, D>& x, const Cloud<T, D>& y, bool squared)
        : x(x), y(y), squared(squared), levels(LEVELS + squared), left(levels * x.slots()), right(levels * y.slots()) {}

    T* left_at(int level) { return left.data() + level * x.slots(); }
    T* right_at(int level) { return right.data() + level * y.slots(); }
    const T* left_at(int level) const { return left.data() + level * x.slots(); }
    const T* right_at(int level) const { return right.data() + level * y.slots(); }
};

// Calls visit(leaf of y, squared distance of the boxes) for all leaves of y.
template <class T, int D, class Visit>
inline void for_leaves(const Cloud<T, D>& x, int64_t n, const Cloud<T, D>& y, double reach, Visit&& visit) {
    const Box<T, D> box = x.tree.box(n);
    for (size_t node = 0; node < y.tree.levels[0].size(); node++) {
        const Pack<T> bound = bounds<T, D>(box, y.tree.levels[0][node]);
        T distance[LANES];
        bound.store(distance);
        for_each_bit(at_most(bound, Pack<T>::all(T(reach))),
                     [&](int i) { visit(int32_t(node * LANES + i), double(distance[i])); });
    }
}

template <class F> void for_chunks(int64_t leaves, int64_t threads, F&& work) {
    parallel_for(CHUNKS, threads, 1, [&](int64_t chunk) {
        work(chunk, leaves * chunk / CHUNKS, leaves * (chunk + 1) / CHUNKS);
    });
}

// What remains to be moved, and the annealing that moves it.
template <class T, int D> class Annealing {
public:
    Annealing(Plan<T, D>& plan, int64_t threads)
        : plan(plan), threads(threads), supply(plan.x.slots()), demand(plan.y.slots()), sums(CHUNKS * plan.y.slots()) {
        const int64_t n = plan.x.tree.size, m = plan.y.tree.size;
        std::fill_n(supply.begin(), n, T(std::max<int64_t>(1, m / n)));
        std::fill_n(demand.begin(), m, T(std::max<int64_t>(1, n / m)));
        for (int level = 0; level < LEVELS; level++) {
            std::fill(sums.begin(), sums.end(), T(0));
            for_chunks(plan.x.leaves.size(), threads, [&](int64_t chunk, int64_t begin, int64_t end) {
                const std::unique_ptr<Pack<T>[]> buffer(new Pack<T>[plan.y.slots()]);
                for (int64_t n = begin; n < end; n++) sweep(level, n, buffer.get(), &sums[chunk * plan.y.slots()]);
            });
            consume(level);
        }
    }

    // The level λ = 0, where every K is 1; `moved` holds the mass that each point of x gave at the level before.
    void finish(const std::vector<double>& moved) {
        double rest = 0;
        for (T r : demand) rest += r;
        for (int64_t i = 0; i < plan.x.slots(); i++) {
            supply[i] = T(std::max(0.0, supply[i] - moved[i]));
            plan.left_at(LEVELS)[i] = T(supply[i] / (TINY + rest));
        }
        double ratios = 0;
        for (int64_t i = 0; i < plan.x.slots(); i++) ratios += plan.left_at(LEVELS)[i];
        for (int64_t j = 0; j < plan.y.slots(); j++)
            plan.right_at(LEVELS)[j] = T(std::min(demand[j] / (ratios * demand[j] + TINY), 1.0) * demand[j]);
    }

private:
    Plan<T, D>& plan;
    const int64_t threads;
    std::vector<T> supply, demand;
    std::vector<T> sums;  // (CHUNKS, slots): Kᵀ ratio

    // One leaf of x at one level.
    void sweep(int level, int64_t n, Pack<T>* buffer, T* column_sums) {
        // Leaves that the level before reaches too come first.
        std::vector<int32_t> near, far;
        const double reach = REACH / steepness(level);
        for_leaves(plan.x, n, plan.y, reach,
                   [&](int32_t leaf, double d2) { (level && d2 <= reach / 4 ? near : far).push_back(leaf); });
        const Kernel<T> kernel(steepness(level));
        for (int i = 0; i < LANES; i += ROWS) {
            Pack<T> offered[ROWS], moved[ROWS];
            for (int r = 0; r < ROWS; r++) offered[r] = moved[r] = Pack<T>::all(T(0));
            rows<true>(level, n, i, near, kernel, buffer, offered, moved);
            rows<false>(level, n, i, far, kernel, buffer + near.size() * LANES, offered, moved);
            for (int r = 0; r < ROWS; r++) {
                const int64_t slot = n * LANES + i + r;
                const T gone = level ? plan.left_at(level - 1)[slot] * total(moved[r]) : T(0);
                supply[slot] = std::max(T(0), supply[slot] - gone);
                plan.left_at(level)[slot] = supply[slot] / (T(TINY) + total(offered[r]));
            }
        }
        columns(level, n, near, buffer, column_sums);
        columns(level, n, far, buffer + near.size() * LANES, column_sums);
    }

    // Adds to the row sums of ROWS points of x: K R, and where NEAR those of the level before, K⁴ ratio_right.
    template <bool NEAR>
    void rows(int level, int64_t n, int i, const std::vector<int32_t>& leaves, const Kernel<T>& kernel, Pack<T>* buffer,
              Pack<T>* offered, Pack<T>* moved) const {
        const auto& x = plan.x.leaves[n];
        const auto* y = plan.y.leaves.data();
        const T* before = NEAR ? plan.right_at(level - 1) : nullptr;
        Pack<T> sums[ROWS], sums_before[ROWS];  // in registers
        for (int r = 0; r < ROWS; r++) sums[r] = offered[r], sums_before[r] = moved[r];
        for (const int32_t leaf : leaves) {
            const Pack<T> demands = Pack<T>::load(&demand[leaf * int64_t(LANES)]);
            Pack<T> ratios;
            if (NEAR) ratios = Pack<T>::load(before + leaf * int64_t(LANES));
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                Pack<T> d[D];
                const Pack<T> K = kernel(differences<T, D>(x, i + r, y[leaf], d));
                sums[r] = fma(K, demands, sums[r]);
                if (NEAR) sums_before[r] = fma(fourth_power(K), ratios, sums_before[r]);
                buffer[i + r] = K;
            }
            buffer += LANES;
        }
        for (int r = 0; r < ROWS; r++) offered[r] = sums[r], moved[r] = sums_before[r];
    }

    void columns(int level, int64_t n, const std::vector<int32_t>& leaves, const Pack<T>* K, T* column_sums) const {
        Pack<T> ratio[LANES];
        for (int i = 0; i < LANES; i++) ratio[i] = Pack<T>::all(plan.left_at(level)[n * LANES + i]);
        for (size_t k = 0; k < leaves.size(); k++, K += LANES) {
            Pack<T> even = K[0] * ratio[0], odd = K[1] * ratio[1];
            for (int i = 2; i < LANES; i += 2) {
                even = fma(K[i], ratio[i], even);
                odd = fma(K[i + 1], ratio[i + 1], odd);
            }
            T* to = column_sums + leaves[k] * int64_t(LANES);
            (Pack<T>::load(to) + (even + odd)).store(to);
        }
    }

    // Each point of y takes what is offered, up to what it has left.
    void consume(int level) {
        const int64_t slots = plan.y.slots();
        T* ratio = plan.right_at(level);
        for (int64_t j = 0; j < slots; j++) {
            T sum = 0;
            for (int chunk = 0; chunk < CHUNKS; chunk++) sum += sums[chunk * slots + j];
            const T offer = sum * demand[j];
            ratio[j] = std::min(demand[j] / (offer + T(TINY)), T(1)) * demand[j];
            demand[j] = std::max(T(0), demand[j] - offer);
        }
    }
};

// Sums over the finished plan, leaf of x by leaf of x.
template <class T, int D> class Totals {
public:
    std::vector<double> cost, mass;      // of each leaf of x
    std::vector<double> last;            // (slots of x) mass given at the last level of all clouds, -4^-1
    std::vector<double> x_pull, y_pull;  // (leaves, D, LANES) the plan's sum of the derivatives of what a pair costs

    Totals(const Plan<T, D>& plan, bool gradient, int64_t threads)
        : cost(plan.x.leaves.size()), mass(plan.x.leaves.size()), last(plan.x.slots()), plan(plan), gradient(gradient) {
        const int64_t columns = plan.y.slots() * D;
        std::vector<T> sums(gradient ? CHUNKS * columns : 0);
        if (gradient) x_pull.resize(plan.x.slots() * D);
        for_chunks(plan.x.leaves.size(), threads, [&](int64_t chunk, int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; n++) leaf(n, sums.data() + chunk * columns);
        });
        if (!gradient) return;
        y_pull.resize(columns);
        for (int chunk = 0; chunk < CHUNKS; chunk++)
            for (int64_t j = 0; j < columns; j++) y_pull[j] -= sums[chunk * columns + j];
    }

private:
    const Plan<T, D>& plan;
    const bool gradient;

    struct Row {
        Pack<T> cost, mass, last, pull[D];
    };

    void leaf(int64_t n, T* columns) {
        std::vector<int32_t> leaves[LEVELS / GROUP];  // by the last group of levels that matters
        for_leaves(plan.x, n, plan.y, REACH / steepness(LEVELS - 1), [&](int32_t leaf, double d2) {
            int group = 0;
            while (group + 1 < LEVELS / GROUP && d2 * steepness(LEVELS - 1 - GROUP * (group + 1)) <= REACH) group++;
            leaves[group].push_back(leaf);
        });
        for (int i = 0; i < LANES; i++) {
            const Pack<T> zero = Pack<T>::all(T(0));
            Row row{zero, zero, zero, {}};
            for (Pack<T>& p : row.pull) p = zero;
            if (gradient) groups<true>(n, i, leaves, row, columns);
            else groups<false>(n, i, leaves, row, columns);
            cost[n] += total(row.cost);
            mass[n] += total(row.mass);
            last[n * LANES + i] = double(plan.left_at(LEVELS - 1)[n * LANES + i]) * total(row.last);
            if (gradient)
                for (int k = 0; k < D; k++) x_pull[(n * D + k) * LANES + i] = total(row.pull[k]);
        }
    }

    template <bool GRADIENT>
    void groups(int64_t n, int i, const std::vector<int32_t>* leaves, Row& row, T* columns) const {
        pairs<1, GRADIENT>(n, i, leaves[0], row, columns);
        pairs<2, GRADIENT>(n, i, leaves[1], row, columns);
        pairs<3, GRADIENT>(n, i, leaves[2], row, columns);
    }

    template <int GROUPS, bool GRADIENT>
    void pairs(int64_t n, int i, const std::vector<int32_t>& leaves, Row& row, T* columns) const {
        const int64_t slots = plan.y.slots();
        const T* right_end = plan.right_at(LEVELS - 1);
        Pack<T> left[GROUPS * GROUP];
        for (int level = 0; level < GROUPS * GROUP; level++)
            left[level] = Pack<T>::all(plan.left_at(LEVELS - 1 - level)[n * LANES + i]);
        const Kernel<T> kernels[] = {Kernel<T>(steepness(LEVELS - 1)), Kernel<T>(steepness(LEVELS - 1 - GROUP)),
                                     Kernel<T>(steepness(LEVELS - 1 - 2 * GROUP))};
        const Pack<T> smallest = Pack<T>::all(T(1e-18));  // keeps the division from 0 / 0
        Row sum = row;                                    // in registers
        for (const int32_t leaf : leaves) {
            Pack<T> d[D];
            const Pack<T> d2 = least(differences<T, D>(plan.x.leaves[n], i, plan.y.leaves[leaf], d), kernels[0].limit);
            const T* right = right_end + leaf * int64_t(LANES);
            Pack<T> K = kernels[0](d2);
            sum.last = fma(K, Pack<T>::load(right), sum.last);
            Pack<T> moved = K * (left[0] * Pack<T>::load(right));
#pragma GCC unroll 8
            for (int level = 1; level < GROUPS * GROUP; level++) {
                K = level % GROUP ? fourth_power(K) : kernels[level / GROUP](d2);
                moved = fma(K, left[level] * Pack<T>::load(right - level * slots), moved);
            }
            sum.mass = sum.mass + moved;
            const Pack<T> distance = plan.squared ? d2 : root(d2);
            sum.cost = fma(moved, distance, sum.cost);
            if (!GRADIENT) continue;
            const Pack<T> weight = plan.squared ? moved + moved : moved / most(distance, smallest);
            for (int k = 0; k < D; k++) {
                sum.pull[k] = fma(weight, d[k], sum.pull[k]);
                T* to = columns + (leaf * int64_t(D) + k) * LANES;
                fma(weight, d[k], Pack<T>::load(to)).store(to);
            }
        }
        row = sum;
    }
};

// Sums Σ w, Σ w (x - c), Σ w |x - c|² over the points of a cloud.
template <class T, int D> struct Moments {
    double weight = 0, first[D] = {}, second = 0;

    Moments(const Cloud<T, D>& x, const T* w, const double* c) {
        for (int64_t i = 0; i < x.slots(); i++) {
            weight += w[i];
            for (int k = 0; k < D; k++) {
                const double d = x.leaves[i / LANES].c[k][i % LANES] - c[k];
                first[k] += w[i] * d;
                second += w[i] * d * d;
            }
        }
    }
};

// Level 0 of the squared costs: Σ_ij a_i b_j |x_i - y_j|², a sum of moments about one of the points.
template <class T, int D> struct Flat {
    double c[D];
    Moments<T, D> x, y;

    explicit Flat(const Plan<T, D>& plan)
        : x(plan.x, plan.left_at(LEVELS), centre(plan)), y(plan.y, plan.right_at(LEVELS), c) {}

    const double* centre(const Plan<T, D>& plan) {
        for (int k = 0; k < D; k++) c[k] = plan.x.leaves[0].c[k][0];
        return c;
    }
    double mass() const { return x.weight * y.weight; }
    double cost() const {
        double sum = y.weight * x.second + x.weight * y.second;
        for (int k = 0; k < D; k++) sum -= 2 * x.first[k] * y.first[k];
        return sum;
    }
    // Adds the derivatives with respect to `points`, which have these weights; `other` are the moments of the others.
    void pull(const Cloud<T, D>& points, const T* w, const Moments<T, D>& other, std::vector<double>& to) const {
        for (int64_t i = 0; i < points.slots(); i++)
            for (int k = 0; k < D; k++) {
                const double d = points.leaves[i / LANES].c[k][i % LANES] - c[k];
                to[(i / LANES * D + k) * LANES + i % LANES] += 2 * w[i] * (other.weight * d - other.first[k]);
            }
    }
};

struct Value {
    double cost, moved;  // per point of x, and as a share of its mass
};

template <class T, int D> Value anneal(Plan<T, D>& plan, int64_t threads) {
    Annealing<T, D> annealing(plan, threads);
    const Totals<T, D> totals(plan, false, threads);
    double cost = 0, mass = 0;
    for (double part : totals.cost) cost += part;
    for (double part : totals.mass) mass += part;
    if (plan.squared) {
        annealing.finish(totals.last);
        const Flat<T, D> flat(plan);
        cost += flat.cost();
        mass += flat.mass();
    }
    const int64_t n = plan.x.tree.size, m = plan.y.tree.size;
    return {cost / n, mass / (n * std::max<int64_t>(1, m / n))};
}

template <class T, int D>
std::vector<Cloud<T, D>> in_leaves(const T* x, const Span* spans, int64_t batch, int64_t threads) {
    std::vector<Cloud<T, D>> clouds(batch);
    parallel_for(batch, threads, 1, [&](int64_t b) { clouds[b].build(x + spans[b].start * D, spans[b].count, 1); });
    return clouds;
}

template <class T, int D> bool sound(const Cloud<T, D>& x, const Cloud<T, D>& y) {
    return x.tree.finite && y.tree.finite && x.tree.size && y.tree.size;
}

// Calls work(b, threads): many pairs side by side, few of them each by all threads.
template <class F> void for_batch(int64_t batch, int64_t threads, F&& work) {
    const bool few = batch < threads;
    parallel_for(batch, few ? 1 : threads, 1, [&](int64_t b) { work(b, few ? threads : 1); });
}

// Calls visit(place among the slots of all levels, place among the rows of all levels) for the points of a cloud.
template <class T, int D, class Visit>
void for_ratios(const Cloud<T, D>& x, Span span, int64_t rows, int levels, Visit&& visit) {
    for (int level = 0; level < levels; level++)
        for (int64_t slot = 0; slot < span.count; slot++)
            visit(level * x.slots() + slot, level * rows + span.start + x.id(slot));
}

template <class T, int D>
void store_pull(const Cloud<T, D>& x, const std::vector<double>& pull, double scale, Span span, T* to) {
    for (int64_t slot = 0; slot < span.count; slot++)
        for (int k = 0; k < D; k++)
            to[(span.start + x.id(slot)) * D + k] = T(scale * pull[(slot / LANES * D + k) * LANES + slot % LANES]);
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// The rows of ratios that belong to no cloud are left as they are.
PCGEN_EXPORT int pcgen_annealed(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                int64_t x_rows, const void* y, const Span* y_spans, int64_t y_rows, int64_t batch,
                                int64_t squared, double* value, double* moved, void* x_ratio, void* y_ratio,
                                int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const T nan = std::numeric_limits<T>::quiet_NaN();
            const auto left = in_leaves<T, D>((const T*)x, x_spans, batch, threads);
            const auto right = in_leaves<T, D>((const T*)y, y_spans, batch, threads);
            for_batch(batch, threads, [&](int64_t b, int64_t team) {
                const auto &p = left[b], &q = right[b];
                Plan<T, D> plan(p, q, squared);
                if (!sound(p, q)) {
                    value[b] = moved[b] = nan;
                    for (int l = 0; l < plan.levels; l++) {
                        std::fill_n((T*)x_ratio + l * x_rows + x_spans[b].start, x_spans[b].count, nan);
                        std::fill_n((T*)y_ratio + l * y_rows + y_spans[b].start, y_spans[b].count, nan);
                    }
                    return;
                }
                const Value found = anneal(plan, team);
                value[b] = found.cost, moved[b] = found.moved;
                for_ratios(p, x_spans[b], x_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { ((T*)x_ratio)[row] = plan.left[slot]; });
                for_ratios(q, y_spans[b], y_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { ((T*)y_ratio)[row] = plan.right[slot]; });
            });
        });
    });
}

PCGEN_EXPORT int pcgen_annealed_gradient(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                         int64_t x_rows, const void* y, const Span* y_spans, int64_t y_rows,
                                         int64_t batch, int64_t squared, const void* x_ratio, const void* y_ratio,
                                         const double* gradient, void* x_gradient, void* y_gradient, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const T nan = std::numeric_limits<T>::quiet_NaN();
            const auto left = in_leaves<T, D>((const T*)x, x_spans, batch, threads);
            const auto right = in_leaves<T, D>((const T*)y, y_spans, batch, threads);
            for_batch(batch, threads, [&](int64_t b, int64_t team) {
                const auto &p = left[b], &q = right[b];
                if (!sound(p, q)) {
                    std::fill_n((T*)x_gradient + x_spans[b].start * D, x_spans[b].count * D, nan);
                    std::fill_n((T*)y_gradient + y_spans[b].start * D, y_spans[b].count * D, nan);
                    return;
                }
                Plan<T, D> plan(p, q, squared);
                for_ratios(p, x_spans[b], x_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { plan.left[slot] = ((const T*)x_ratio)[row]; });
                for_ratios(q, y_spans[b], y_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { plan.right[slot] = ((const T*)y_ratio)[row]; });
                Totals<T, D> totals(plan, true, team);
                if (squared) {
                    const Flat<T, D> flat(plan);
                    flat.pull(p, plan.left_at(LEVELS), flat.y, totals.x_pull);
                    flat.pull(q, plan.right_at(LEVELS), flat.x, totals.y_pull);
                }
                const double scale = gradient[b] / x_spans[b].count;
                store_pull(p, totals.x_pull, scale, x_spans[b], (T*)x_gradient);
                store_pull(q, totals.y_pull, scale, y_spans[b], (T*)y_gradient);
            });
        });
    });
}

PCGEN_EXPORT int pcgen_annealed_matrix(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                       int64_t S, const void* y, const Span* y_spans, int64_t R, int64_t squared,
                                       double* value, double* moved, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            const auto left = in_leaves<T, D>((const T*)x, x_spans, S, threads);
            const auto right = in_leaves<T, D>((const T*)y, y_spans, R, threads);
            for_batch(S * R, threads, [&](int64_t pair, int64_t team) {
                const auto &p = left[pair / R], &q = right[pair % R];
                value[pair] = moved[pair] = std::numeric_limits<double>::quiet_NaN();
                if (!sound(p, q)) return;
                Plan<T, D> plan(p, q, squared);
                const Value found = anneal(plan, team);
                value[pair] = found.cost, moved[pair] = found.moved;
            });
        });
    });
}
