// What an annealed plan costs, how much it moves, and its pull on the points, the plan being constant.
//
// One sweep over all levels takes one root a pair in place of one a level, and serves the gradient too.
#pragma once

#include "annealing.h"

namespace pcgen::annealed {

// Sums over the finished plan, leaf of x by leaf of x.
template <class T> class Totals {
public:
    std::vector<double> cost, mass;      // of each leaf of x
    std::vector<double> last;            // (slots of x) K right at the last level of all clouds, -4^-1
    std::vector<double> x_pull, y_pull;  // (leaves, D, LANES) the plan's sum of the derivatives of what a pair costs

    Totals(const Plan<T>& plan, bool gradient, int64_t threads)
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
    static constexpr int GROUPS = LEVELS / GROUP;
    const Plan<T>& plan;
    const bool gradient;

    struct Row {
        Pack<T> cost, mass, last, pull[D];
    };

    void leaf(int64_t n, T* columns) {
        std::vector<int32_t> leaves[GROUPS];  // by the last group of levels that matters
        for_leaves(plan.x, n, plan.y, REACH / steepness(LEVELS - 1), [&](int32_t leaf, double d2) {
            int group = 0;
            while (group + 1 < GROUPS && d2 * steepness(LEVELS - 1 - GROUP * (group + 1)) <= REACH) group++;
            leaves[group].push_back(leaf);
        });
        for (int i = 0; i < LANES; i++) {
            const Pack<T> zero = Pack<T>::all(T(0));
            Row row{zero, zero, zero, {zero, zero, zero}};
            for (int group = 0; group < GROUPS; group++) {
                if (gradient) pairs<true>(group + 1, n, i, leaves[group], row, columns);
                else pairs<false>(group + 1, n, i, leaves[group], row, columns);
            }
            cost[n] += total(row.cost);
            mass[n] += total(row.mass);
            last[n * LANES + i] = total(as_double(row.last));
            if (gradient)
                for (int k = 0; k < D; k++) x_pull[(n * D + k) * LANES + i] = total(row.pull[k]);
        }
    }

    // One point of x and these leaves, for so many groups of levels, from the last.
    template <bool GRADIENT>
    void pairs(int groups, int64_t n, int i, const std::vector<int32_t>& leaves, Row& row, T* columns) const {
        const int64_t slots = plan.y.slots();
        const T* right_end = plan.right_at(LEVELS - 1);
        Pack<T> left[LEVELS];
        for (int level = 0; level < groups * GROUP; level++)
            left[level] = Pack<T>::all(plan.left_at(LEVELS - 1 - level)[n * LANES + i]);
        const Exponent<T> exponents[GROUPS] = {Exponent<T>(LEVELS - 1), Exponent<T>(LEVELS - 1 - GROUP),
                                               Exponent<T>(LEVELS - 1 - 2 * GROUP)};
        const Pack<T> limits[GROUPS] = {furthest<T>(LEVELS - 1), furthest<T>(LEVELS - 1 - GROUP),
                                        furthest<T>(LEVELS - 1 - 2 * GROUP)};
        const Pack<T> smallest = Pack<T>::all(T(1e-18));  // keeps the division from 0 / 0
        Row sum = row;                                    // in registers
        for (const int32_t leaf : leaves) {
            Pack<T> d[D];
            const Pack<T> d2 = least(differences<T>(plan.x.leaves[n], i, plan.y.leaves[leaf], d), limits[0]);
            const T* right = right_end + leaf * int64_t(LANES);
            Pack<T> moved = Pack<T>::all(T(0));
            for (int group = 0; group < groups; group++) {
                Pack<T> K = exponents[group](least(d2, limits[group]));
                if (!GRADIENT && !group) sum.last = fma(K, Pack<T>::load(right), sum.last);
                for (int level = 0; level < GROUP; level++, right -= slots) {
                    if (level) K = fourth_power(K);
                    moved = fma(K, left[group * GROUP + level] * Pack<T>::load(right), moved);
                }
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
template <class T> struct Moments {
    double weight = 0, first[D] = {}, second = 0;

    Moments(const Cloud<T>& x, const T* w, const double* c) {
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
template <class T> struct Flat {
    double c[D];
    Moments<T> x, y;

    explicit Flat(const Plan<T>& plan)
        : x(plan.x, plan.left_at(LEVELS), centre(plan)), y(plan.y, plan.right_at(LEVELS), c) {}

    const double* centre(const Plan<T>& plan) {
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
    void pull(const Cloud<T>& points, const T* w, const Moments<T>& other, std::vector<double>& to) const {
        for (int64_t i = 0; i < points.slots(); i++)
            for (int k = 0; k < D; k++) {
                const double d = points.leaves[i / LANES].c[k][i % LANES] - c[k];
                to[(i / LANES * D + k) * LANES + i % LANES] += 2 * w[i] * (other.weight * d - other.first[k]);
            }
    }
};

}  // namespace pcgen::annealed
