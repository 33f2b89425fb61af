// The annealing of pcgen/ops/reference/annealed.py: how much each point gives and takes at each level.
//
// Both clouds lie in leaves of sixteen. For each leaf of x and each level, one exponential a pair serves three sums:
// the row sums K R of this level, those of the mass that the level before has moved, and, from a buffer of sixteen
// rows, the column sums Kᵀ ratio. Pairs of leaves so far apart that exp(λ d²) < exp(-40) are left out: with ratios of
// at most 1e9 one of them moves no more than 1e-8 of a point's mass.
//
// What a point has left is often the small difference of what it had and what it gave, and decides where the rest goes:
// an error of 1e-7 there may come out as 1e-4 of the cost. So the masses and ratios of x and the column sums are
// float64; and as the row sums, of T, must cancel to the last bit where a point gives everything, a pair's kernel has
// the same bits at both levels that ask for it, and the masses of y are rounded to T once. How far the kernel's bits
// are from exp(λ d²) matters a thousandfold less.
#pragma once

#include <memory>

#include "search.h"
#include "exponential.h"

namespace pcgen::annealed {

constexpr int LEVELS = 9;         // λ = -4^7, -4^6 … -4^-1, and then, for squared costs, 0
constexpr int GROUP = 3;          // levels whose kernels are powers of one exponential, that of the last of them
constexpr int CHUNKS = 16;        // parts of x, each with its own column sums: the same for any number of threads
constexpr double REACH = 40;      // -λ d² beyond which a pair of leaves is skipped
constexpr double TINY = 1e-9;     // the definition's, against division by 0
constexpr int D = 3;              // coordinates; where points have fewer, the others are 0

constexpr double steepness(int level) { return level == LEVELS - 1 ? 0.25 : double(int64_t(1) << 2 * (7 - level)); }

// The level from whose exponential a level's kernel is made, by raising it so many times to the fourth power.
constexpr int base(int level) { return level + (LEVELS - 1 - level) % GROUP; }

// A cloud in leaves, in the order of its tree. A last leaf with fewer points repeats its last one, without mass.
template <class T> struct Cloud {
    struct alignas(64) Leaf {
        T c[D][LANES];
    };

    BoxTree<T, D> tree;
    std::vector<Leaf> leaves;

    void build(const T* x, int64_t count, int64_t dimension, int64_t threads) {
        std::vector<T> padded(dimension < D ? count * D : 0);
        if (dimension < D) {
            for (int64_t i = 0; i < count; i++)
                for (int64_t k = 0; k < dimension; k++) padded[i * D + k] = x[i * dimension + k];
            x = padded.data();
        }
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

template <class T>
inline Pack<T> differences(const typename Cloud<T>::Leaf& x, int i, const typename Cloud<T>::Leaf& y, Pack<T>* d) {
    for (int k = 0; k < D; k++) d[k] = Pack<T>::all(x.c[k][i]) - Pack<T>::load(y.c[k]);
    return squared_length<T, D>(d);
}

template <class T> inline Pack<T> fourth_power(Pack<T> a) {
    const Pack<T> square = a * a;
    return square * square;
}

// exp(λ d²) of a level that is a base.
template <class T> struct Exponent {
    Pack<T> factor;
    explicit Exponent(int level) : factor(Pack<T>::all(T(-steepness(level) * LOG2_E))) {}
    __attribute__((always_inline)) Pack<T> operator()(Pack<T> d2) const { return power_of_two(d2, factor); }
};

// Squared distances cut off where exp(λ d²) is 2^LOWEST, which is as good as 0.
template <class T> inline Pack<T> furthest(int level) {
    return Pack<T>::all(T(-Exponential<T>::LOWEST / (steepness(level) * LOG2_E)));
}

inline Pack<double> as_double(Pack<double> p) { return p; }
inline Pack<double> as_double(Pack<float> p) {
    typedef float Half __attribute__((vector_size(REGISTER_BYTES / 2), may_alias));
    const Half* halves = (const Half*)p.r;
    Pack<double> out;
    for (int i = 0; i < Pack<double>::REGISTERS; i++) out.r[i] = __builtin_convertvector(halves[i], Double);
    return out;
}

// The plan is Σ over levels of left · exp(λ d²) · right, in the order of the leaves.
template <class T> struct Plan {
    const Cloud<T>&x, &y;
    const bool squared;
    const int levels;
    std::vector<T> left, right;  // (levels, slots)

    Plan(const Cloud<T>& x, const Cloud<T>& y, bool squared)
        : x(x), y(y), squared(squared), levels(LEVELS + squared), left(levels * x.slots()), right(levels * y.slots()) {}

    T* left_at(int level) { return left.data() + level * x.slots(); }
    T* right_at(int level) { return right.data() + level * y.slots(); }
    const T* left_at(int level) const { return left.data() + level * x.slots(); }
    const T* right_at(int level) const { return right.data() + level * y.slots(); }
};

// Calls visit(leaf of y, squared distance of the boxes) for all leaves of y within reach of leaf n of x.
template <class T, class Visit>
inline void for_leaves(const Cloud<T>& x, int64_t n, const Cloud<T>& y, double reach, Visit&& visit) {
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
template <class T> class Annealing {
public:
    Annealing(Plan<T>& plan, int64_t threads)
        : plan(plan),
          supply(plan.x.slots()),
          demand(plan.y.slots()),
          left(plan.x.slots()),
          sums(CHUNKS * plan.y.slots()) {
        const int64_t n = plan.x.tree.size, m = plan.y.tree.size;
        std::fill_n(supply.begin(), n, std::max<int64_t>(1, m / n));
        std::fill_n(demand.begin(), m, std::max<int64_t>(1, n / m));
        for (int level = 0; level < LEVELS; level++) {
            std::fill(sums.begin(), sums.end(), 0.0);
            for_chunks(plan.x.leaves.size(), threads, [&](int64_t chunk, int64_t begin, int64_t end) {
                const std::unique_ptr<Pack<T>[]> buffer(new Pack<T>[plan.y.slots()]);
                for (int64_t n = begin; n < end; n++) sweep(level, n, buffer.get(), &sums[chunk * plan.y.slots()]);
            });
            consume(level);
        }
    }

    // The level λ = 0, where every K is 1; `moved` holds K right of the level before, for each point of x.
    void finish(const std::vector<double>& moved) {
        double rest = 0, ratios = 0;
        for (double r : demand) rest += r;
        for (int64_t i = 0; i < plan.x.slots(); i++) {
            supply[i] = std::max(0.0, supply[i] - left[i] * moved[i]);
            left[i] = supply[i] / (TINY + rest);
            ratios += left[i];
            plan.left_at(LEVELS)[i] = T(left[i]);
        }
        for (int64_t j = 0; j < plan.y.slots(); j++)
            plan.right_at(LEVELS)[j] = T(std::min(demand[j] / (ratios * demand[j] + TINY), 1.0) * demand[j]);
    }

private:
    static constexpr int ROWS = 4;  // of a leaf that share what is loaded from the other cloud
    struct Row {
        Pack<T> offered, moved;  // K R of this level and K right of the level before
    };

    Plan<T>& plan;
    std::vector<double> supply;  // what each point of x has left
    std::vector<T> demand;       // and of y
    std::vector<double> left;    // ratios of x, of the level at hand, until then of the one before
    std::vector<double> sums;    // (CHUNKS, slots): Kᵀ left

    // One leaf of x at one level.
    void sweep(int level, int64_t n, Pack<T>* buffer, double* column_sums) {
        // Leaves that the level before reaches too come first.
        std::vector<int32_t> near, far;
        const double reach = REACH / steepness(level);
        for_leaves(plan.x, n, plan.y, reach,
                   [&](int32_t leaf, double d2) { (level && d2 <= reach / 4 ? near : far).push_back(leaf); });
        for (int i = 0; i < LANES; i += ROWS) {
            Row sum[ROWS];
            for (Row& row : sum) row.offered = row.moved = Pack<T>::all(T(0));
            powered(level, n, i, near, far, buffer, sum);
            for (int r = 0; r < ROWS; r++) {
                const int64_t slot = n * LANES + i + r;
                supply[slot] = std::max(0.0, supply[slot] - left[slot] * total(as_double(sum[r].moved)));
                left[slot] = supply[slot] / (TINY + total(as_double(sum[r].offered)));
                plan.left_at(level)[slot] = T(left[slot]);
            }
        }
        columns(n, near, buffer, column_sums);
        columns(n, far, buffer + near.size() * LANES, column_sums);
    }

    // All leaves of y, with the template arguments of the level.
    void powered(int level, int64_t n, int i, const std::vector<int32_t>& near, const std::vector<int32_t>& far,
                 Pack<T>* buffer, Row* sum) const {
        auto both = [&](auto power) {
            rows<decltype(power)::value, true>(level, n, i, near, buffer, sum);
            rows<decltype(power)::value, false>(level, n, i, far, buffer + near.size() * LANES, sum);
        };
        switch (base(level) - level) {
            case 0: return both(std::integral_constant<int, 0>());
            case 1: return both(std::integral_constant<int, 1>());
            default: return both(std::integral_constant<int, 2>());
        }
    }

    // Adds to the sums of ROWS points of x and keeps their kernels: the exponential of the base, POWER times raised to
    // the fourth power. Where NEAR, the level before counts too.
    template <int POWER, bool NEAR>
    void rows(int level, int64_t n, int i, const std::vector<int32_t>& leaves, Pack<T>* buffer, Row* sum) const {
        const auto& x = plan.x.leaves[n];
        const int previous = NEAR ? level - 1 : level;
        const Exponent<T> exponent(level + POWER), before(previous);
        const Pack<T> limit = furthest<T>(level), limit_before = furthest<T>(previous);
        const T* right = plan.right_at(previous);
        Pack<T> offered[ROWS], moved[ROWS];  // in registers
        for (int r = 0; r < ROWS; r++) offered[r] = sum[r].offered, moved[r] = sum[r].moved;
        for (const int32_t leaf : leaves) {
            const auto& y = plan.y.leaves[leaf];
            const Pack<T> demands = Pack<T>::load(&demand[leaf * int64_t(LANES)]);
            Pack<T> ratios;
            if (NEAR) ratios = Pack<T>::load(right + leaf * int64_t(LANES));
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                Pack<T> d[D];
                const Pack<T> d2 = least(differences<T>(x, i + r, y, d), limit);
                Pack<T> K = exponent(d2);
                for (int k = 0; k < POWER; k++) K = fourth_power(K);
                offered[r] = fma(K, demands, offered[r]);
                if (NEAR) {
                    const Pack<T> steeper = POWER < GROUP - 1 ? fourth_power(K) : before(least(d2, limit_before));
                    moved[r] = fma(steeper, ratios, moved[r]);
                }
                buffer[i + r] = K;
            }
            buffer += LANES;
        }
        for (int r = 0; r < ROWS; r++) sum[r].offered = offered[r], sum[r].moved = moved[r];
    }

    void columns(int64_t n, const std::vector<int32_t>& leaves, const Pack<T>* K, double* column_sums) const {
        Pack<double> ratio[LANES];
        for (int i = 0; i < LANES; i++) ratio[i] = Pack<double>::all(left[n * LANES + i]);
        for (const int32_t leaf : leaves) {
            Pack<double> even = as_double(K[0]) * ratio[0], odd = as_double(K[1]) * ratio[1];
            for (int i = 2; i < LANES; i += 2) {
                even = fma(as_double(K[i]), ratio[i], even);
                odd = fma(as_double(K[i + 1]), ratio[i + 1], odd);
            }
            double* to = column_sums + leaf * int64_t(LANES);
            (Pack<double>::load(to) + (even + odd)).store(to);
            K += LANES;
        }
    }

    // Each point of y takes what is offered, up to what it has left.
    void consume(int level) {
        const int64_t slots = plan.y.slots();
        for (int64_t j = 0; j < slots; j++) {
            double sum = 0;
            for (int chunk = 0; chunk < CHUNKS; chunk++) sum += sums[chunk * slots + j];
            const double offer = sum * demand[j];
            plan.right_at(level)[j] = T(std::min(demand[j] / (offer + TINY), 1.0) * demand[j]);
            demand[j] = T(std::max(0.0, demand[j] - offer));
        }
    }
};

}  // namespace pcgen::annealed
