// The columns that are cheapest for a row, among all that ask a price: a search in boxes that know their lowest price.
#pragma once

#include <algorithm>
#include <vector>

#include "search.h"
#include "simd.h"

namespace pcgen {

// In float it is twice as fast as in double, where the difference between costs allows it: what it says of the columns
// that it leaves out is true in spite of rounding.
template <class T, int D, bool SQUARED> class Cheapest {
public:
    // In double all stays as it is.
    explicit Cheapest(const BoxTree<double, D>& y)
        : size(y.size), leaves(y.leaves.size()), boxes(y.levels[0].size()), price(leaves.size() * LANES),
          total(price.size()), lowest(boxes.size() * LANES), bound(lowest.size()) {
        copy(y);
    }

    // In float all coordinates are brought into [−1, 1], and costs and prices likewise.
    Cheapest(const BoxTree<double, D>& y, const std::vector<double>& x) : Cheapest(y) {
        double widest = 0;
        for (int d = 0; d < D; d++) {
            const auto& top = y.levels.back()[0];
            double lo = smallest(Pack<double>::load(top.lo[d])), hi = largest(Pack<double>::load(top.hi[d]));
            for (size_t i = d; i < x.size(); i += D) lo = std::min(lo, x[i]), hi = std::max(hi, x[i]);
            centre[d] = lo + (hi - lo) / 2;
            widest = std::max(widest, hi - lo);
        }
        scale = widest > 0 ? std::ldexp(1, -std::max(std::ilogb(widest), -500)) : 1;
        unit = SQUARED ? scale * scale : scale;
        copy(y);
    }

    // Prices only ever rise after start().
    void set_price(int64_t column, double to) { price[column] = T(to * unit); }
    void start() {
        for (size_t leaf = 0; leaf < leaves.size(); leaf++) lowest[leaf] = smallest(load(price, leaf));
    }

    // Finds up to sixteen columns whose cost and price together are at most `limit`, and what all others cost at least.
    int find(const double* point, double limit, int32_t* column, double& rest) {
        T at[D];
        for (int d = 0; d < D; d++) at[d] = moved(point[d], d);
        T most_wanted = limit < INF ? T(limit * unit + error(limit * unit)) : INF;
        bound_leaves(at);
        visit_leaves(at, most_wanted);
        keep_sixteen(most_wanted);
        rest = most_wanted < INF ? (most_wanted - error(most_wanted)) / unit : INF;
        for (size_t k = 0; k < candidates.size(); k++) column[k] = candidates[k].column;
        return int(candidates.size());
    }

private:
    static constexpr T INF = std::numeric_limits<T>::infinity();
    struct Leaf {
        T c[D][LANES];
    };
    struct Candidate {
        T total;
        int32_t column;
        bool operator<(const Candidate& b) const { return total < b.total || (total == b.total && column < b.column); }
    };

    int64_t size;
    double scale = 1, unit = 1, centre[D] = {};
    std::vector<Leaf> leaves;
    std::vector<typename BoxTree<T, D>::Node> boxes;
    std::vector<T> price, total;   // of each column, that of padding 0; of those visited
    std::vector<T> lowest, bound;  // of each leaf: no price is lower; no total is lower
    std::vector<int32_t> visited;
    std::vector<Candidate> candidates;

    void copy(const BoxTree<double, D>& y) {
        for (int d = 0; d < D; d++)
            for (int k = 0; k < LANES; k++) {
                for (size_t leaf = 0; leaf < leaves.size(); leaf++)
                    leaves[leaf].c[d][k] = moved(y.leaves[leaf].c[d][k], d);
                for (size_t b = 0; b < boxes.size(); b++) {
                    boxes[b].lo[d][k] = moved(y.levels[0][b].lo[d][k], d);
                    boxes[b].hi[d][k] = moved(y.levels[0][b].hi[d][k], d);
                }
            }
    }

    T moved(double coordinate, int d) const { return T((coordinate - centre[d]) * scale); }
    static Pack<T> load(const std::vector<T>& from, int64_t leaf) { return Pack<T>::load(&from[leaf * LANES]); }
    static Pack<T> cost_from(Pack<T> square) { return SQUARED ? square : root(square); }

    // By how much a total can be wrong. Coordinates in [−1, 1] are wrong by 2⁻²⁵, their differences by 2⁻²³, distances
    // of at most 2√3 by less than 2⁻¹⁹, their squares by less than 2⁻¹⁷; a price and the sum by 2⁻²⁴ of themselves.
    static double error(double of) {
        if (std::is_same<T, double>::value) return 0;
        return (SQUARED ? 0x1p-16 : 0x1p-18) + 0x1p-22 * std::abs(of);
    }

    void bound_leaves(const T* at) {
        Box<T, D> point;
        for (int d = 0; d < D; d++) point.lo[d] = point.hi[d] = at[d];
        for (size_t b = 0; b < boxes.size(); b++)
            (cost_from(bounds<T, D>(point, boxes[b])) + load(lowest, b)).store(&bound[b * LANES]);
    }

    // Lowers the limit to what four totals, in two lanes of two packs, do not exceed; so lists have four to sixteen.
    void visit_leaves(const T* at, T& limit) {
        constexpr int FIRST = 4;  // the most promising leaves
        Pack<T> even = Pack<T>::all(INF), odd = even;
        visited.clear();
        auto visit = [&](int64_t leaf) __attribute__((always_inline)) {
            Pack<T> gap[D];
            for (int d = 0; d < D; d++) gap[d] = Pack<T>::all(at[d]) - Pack<T>::load(leaves[leaf].c[d]);
            const Pack<T> prices = load(price, leaf), totals = cost_from(squared_length<T, D>(gap)) + prices;
            totals.store(&total[visited.size() * LANES]);
            lowest[leaf] = smallest(prices);
            bound[leaf] = INF;
            visited.push_back(int32_t(leaf));
            even = least(even, totals);
            std::swap(even, odd);
        };
        auto tighten = [&] {
            const Pack<T> larger = most(even, odd);
            const int first = first_bit(equal(larger, Pack<T>::all(smallest(larger))));
            limit = std::min(limit, smallest(with_lane(larger, first, INF)));
        };
        Pack<T> nearest = load(bound, 0);
        for (size_t b = 1; b < boxes.size(); b++) nearest = least(nearest, load(bound, b));
        for (int k = 0; k < FIRST && smallest(nearest) < INF; k++) {
            const T wanted = smallest(nearest);
            int64_t leaf = first_bit(equal(nearest, Pack<T>::all(wanted)));
            nearest = with_lane(nearest, int(leaf), INF);
            while (bound[leaf] != wanted) leaf += LANES;
            visit(leaf);
        }
        tighten();
        for (size_t b = 0; b < boxes.size(); b++) {
            const uint32_t near = at_most(load(bound, b), Pack<T>::all(std::min(limit, std::numeric_limits<T>::max())));
            for_each_bit(near, [&](int k) { visit(b * LANES + k); });
            if (near) tighten();
        }
    }

    void keep_sixteen(T& limit) {
        candidates.clear();
        const Pack<T> limits = Pack<T>::all(std::min(limit, std::numeric_limits<T>::max()));
        for (size_t v = 0; v < visited.size(); v++)
            for_each_bit(at_most(load(total, v), limits), [&](int k) {
                candidates.push_back({total[v * LANES + k], visited[v] * LANES + k});
            });
        if (int64_t(candidates.size()) == size) limit = INF;
        if (candidates.size() <= LANES) return;
        std::nth_element(candidates.begin(), candidates.begin() + LANES, candidates.end());
        limit = candidates[LANES].total;
        candidates.resize(LANES);
    }
};

}  // namespace pcgen
