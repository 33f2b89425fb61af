// The optimal one-to-one assignment between two clouds of n points, and the prices that prove it.
//
// The points x are "rows", the points y "columns". Every column asks a price; a row wants the column whose cost and
// price together are least. For any prices Σᵢ minⱼ (cᵢⱼ + pⱼ) − Σⱼ pⱼ is a lower bound for every assignment, and an
// assignment that gives each row what it wants attains it. Prices come first from every fourth point, then from an
// auction (Bertsekas, Annals of Operations Research 14, 1988: ε-scaling, Gauss–Seidel), last from shortest augmenting
// paths (Jonker and Volgenant, Computing 38, 1987), which make them exact and never fail.
//
// Costs are computed when they are needed, so memory grows with n. Prices only ever rise: a short list of columns for
// each row, with what all the others cost at least, stays true until the list is used up, and few rows need another.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "boxtree.h"
#include "least_first.h"
#include "simd.h"

namespace pcgen {

template <int D, bool SQUARED> class Assignment {
public:
    std::vector<int32_t> column;  // of each row; columns are numbered as the leaves of the tree y hold them

    // x holds rows of D coordinates, best in the order of a k-d tree too; y as many points.
    Assignment(std::vector<double> x_, BoxTree<double, D> y_)
        : column(y_.size, -1), n(y_.size), x(std::move(x_)), y(std::move(y_)), owner(n, -1), rows(n),
          price(y.leaves.size() * LANES), cost(price.size()), total(price.size()),
          price_floor(y.levels[0].size() * LANES), bound(price_floor.size()) {}

    // Stops when primal − dual ≤ tolerance · primal is proven, at the latest when both are equal but for rounding.
    void solve(double tolerance) {
        learn_from_fewer();
        bool proven = false;
        double epsilon = n > LANES ? START * list_width() : 0;
        for (int phase = 0; phase < PHASES && epsilon > 0 && !proven; phase++, epsilon /= STEP) {
            dismiss(epsilon);
            if (!auction(epsilon)) break;
            double sum = 0, wanted = 0;
            for (int64_t i = 0; i < n; i++) sum += cost_of(i, column[i]), wanted += best_two(i).best - price[i];
            proven = sum - wanted <= tolerance * sum;
        }
        if (!proven) complete();
    }

    // Sum of the costs of the assignment.
    double primal() const {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += cost_of(i, column[i]);
        return sum;
    }

    // The lower bound that the prices prove, by all pairs: it depends on nothing else that was computed.
    double dual() const {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            const Query row = query(i);
            Pack<double> wanted = Pack<double>::all(INF);
            for (int64_t leaf = 0; leaf < leaves(); leaf++) wanted = least(wanted, distance(row, leaf) + prices(leaf));
            sum += smallest(wanted) - price[i];
        }
        return sum;
    }

private:
    static constexpr double INF = std::numeric_limits<double>::infinity();
    // Measured on clouds of 2048 points. START is a share of the width of the lists, BIDS are for each row:
    // where the auction does not get on, as on a line, paths are faster.
    static constexpr double START = 1, STEP = 8;
    static constexpr int PHASES = 3, BIDS = 20, FEWER = 4;

    struct Row {
        double cost[LANES];
        int32_t column[LANES];  // 0, at cost infinity, behind the last
        double rest = -INF;     // other columns cost no less, price included
        double wanted = 0;      // least cost and price, known while paths are sought
        int count = 0;
    };
    struct Bid {
        int32_t column;
        double best, second;  // cost and price
    };
    struct Query {
        Pack<double> c[D];
    };
    struct Candidate {
        double total, cost;
        int32_t column;
    };
    // A search for the shortest path from one row to a free column.
    struct Search {
        LeastFirst open;  // key i < n: the rest of row i; key n + j: column j
        std::vector<double> column_distance, row_distance;
        std::vector<int32_t> from;  // row before each column
        std::vector<int32_t> scanned_rows, scanned_columns, reached;
        double now, goal_distance;
        int32_t goal;

        Search(int64_t n, int64_t padded) : open(2 * n), column_distance(padded, INF), row_distance(n), from(n) {}
    };

    int64_t n;
    std::vector<double> x;
    BoxTree<double, D> y;
    std::vector<int32_t> owner;  // of each column
    std::vector<Row> rows;
    std::vector<int32_t> idle;                // rows without a column; the last is served first
    std::vector<double> price;                // of each column; that of padding is 0
    std::vector<double> cost, total;          // of the leaves visited, while a list is filled
    std::vector<double> price_floor, bound;   // of each leaf: no price is lower; no total is lower
    std::vector<int32_t> visited;
    std::vector<Candidate> candidates;

    int64_t leaves() const { return int64_t(y.leaves.size()); }
    Pack<double> prices(int64_t leaf) const { return Pack<double>::load(&price[leaf * LANES]); }

    Query query(int64_t i) const {
        Query row;
        for (int d = 0; d < D; d++) row.c[d] = Pack<double>::all(x[i * D + d]);
        return row;
    }
    Pack<double> distance(const Query& row, int64_t leaf) const {
        Pack<double> gap[D];
        for (int d = 0; d < D; d++) gap[d] = row.c[d] - Pack<double>::load(y.leaves[leaf].c[d]);
        const Pack<double> square = squared_length<double, D>(gap);
        return SQUARED ? square : root(square);
    }
    // The same bits as `distance` gives.
    double cost_of(int64_t i, int64_t j) const {
        double sum = 0;
        for (int d = 0; d < D; d++) {
            const double gap = x[i * D + d] - y.leaves[j / LANES].c[d][j % LANES];
            sum = d ? fma(gap, gap, sum) : gap * gap;
        }
        return SQUARED ? sum : std::sqrt(sum);
    }

    void learn_from_fewer();
    void bound_leaves(int64_t i);
    void fill_list(int64_t i);
    void keep_candidates(Row& row, double limit);
    Bid best_two(int64_t i);
    double list_width();
    void dismiss(double epsilon);
    bool auction(double epsilon);
    void complete();
    void augment(int32_t start, Search& search);
    void relax(Search& search, int32_t i, int32_t j, double distance);
    void scan(Search& search, int32_t i);
    void scan_all(Search& search, int32_t i);
};

// Solves the problem of every fourth row and column and gives each column the highest price at which no row there
// would change its mind.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::learn_from_fewer() {
    if (n < 2 * LANES) return;
    std::vector<double> fewer_x, fewer_y;
    for (int64_t k = FEWER / 2; k < n; k += FEWER)
        for (int d = 0; d < D; d++) {
            fewer_x.push_back(x[k * D + d]);
            fewer_y.push_back(y.leaves[k / LANES].c[d][k % LANES]);
        }
    BoxTree<double, D> tree;
    tree.build(fewer_y.data(), int64_t(fewer_y.size()) / D);
    Assignment fewer(std::move(fewer_x), std::move(tree));
    fewer.solve(0);
    std::vector<Query> at;
    std::vector<double> wanted;
    for (int64_t i = 0; i < fewer.n; i++) at.push_back(fewer.query(i)), wanted.push_back(fewer.best_two(i).best);
    for (int64_t leaf = 0; leaf < leaves(); leaf++) {
        Pack<double> highest = Pack<double>::all(-INF);
        for (int64_t i = 0; i < fewer.n; i++)
            highest = most(highest, Pack<double>::all(wanted[i]) - distance(at[i], leaf));
        highest.store(&price[leaf * LANES]);
    }
    std::fill(price.begin() + n, price.end(), 0.0);
    for (int64_t leaf = 0; leaf < leaves(); leaf++) price_floor[leaf] = smallest(prices(leaf));
}

template <int D, bool SQUARED> void Assignment<D, SQUARED>::bound_leaves(int64_t i) {
    Box<double, D> point;
    for (int d = 0; d < D; d++) point.lo[d] = point.hi[d] = x[i * D + d];
    for (size_t b = 0; b < y.levels[0].size(); b++) {
        const Pack<double> square = bounds<double, D>(point, y.levels[0][b]);
        const Pack<double> nearest = SQUARED ? square : root(square);
        (nearest + Pack<double>::load(&price_floor[b * LANES])).store(&bound[b * LANES]);
    }
}

// Finds some of the columns that row i wants most. Of the totals seen, those in even and in odd leaves have a minimum
// in each lane; what the second least of the larger ones of both is, four totals do not exceed, and most often twelve.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::fill_list(int64_t i) {
    constexpr int FIRST = 4;  // leaves, for a limit to begin with
    bound_leaves(i);
    Row& row = rows[i];
    double limit = row.count ? -INF : INF;  // the totals of the old list are totals too
    for (int k = 0; k < row.count; k++) limit = std::max(limit, row.cost[k] + price[row.column[k]]);
    const Query point = query(i);
    Pack<double> even = Pack<double>::all(INF), odd = even;
    visited.clear();
    auto visit = [&](int64_t leaf) {
        price_floor[leaf] = smallest(prices(leaf));
        const Pack<double> costs = distance(point, leaf), totals = costs + prices(leaf);
        costs.store(&cost[visited.size() * LANES]);
        totals.store(&total[visited.size() * LANES]);
        visited.push_back(int32_t(leaf));
        bound[leaf] = INF;
        even = least(even, totals);
        std::swap(even, odd);
    };
    auto tighten = [&] {
        const Pack<double> larger = most(even, odd);
        const int first = first_bit(equal(larger, Pack<double>::all(smallest(larger))));
        limit = std::min(limit, smallest(with_lane(larger, first, INF)));
    };
    Pack<double> nearest = Pack<double>::load(&bound[0]);
    for (size_t b = LANES; b < bound.size(); b += LANES) nearest = least(nearest, Pack<double>::load(&bound[b]));
    for (int k = 0; k < FIRST && smallest(nearest) < INF; k++) {
        const double wanted = smallest(nearest);
        int64_t leaf = first_bit(equal(nearest, Pack<double>::all(wanted)));
        nearest = with_lane(nearest, int(leaf), INF);
        while (bound[leaf] != wanted) leaf += LANES;
        visit(leaf);
    }
    tighten();
    for (size_t b = 0; b < bound.size(); b += LANES) {
        const uint32_t near = at_most(Pack<double>::load(&bound[b]), Pack<double>::all(limit));
        for_each_bit(near, [&](int k) { if (bound[b + k] < INF) visit(b + k); });
        if (near) tighten();
    }
    keep_candidates(row, limit);
}

template <int D, bool SQUARED> void Assignment<D, SQUARED>::keep_candidates(Row& row, double limit) {
    candidates.clear();
    for (size_t v = 0; v < visited.size(); v++)
        for_each_bit(at_most(Pack<double>::load(&total[v * LANES]), Pack<double>::all(limit)), [&](int k) {
            const size_t at = v * LANES + k;
            if (total[at] < INF) candidates.push_back({total[at], cost[at], visited[v] * LANES + k});
        });
    row.rest = int64_t(candidates.size()) < n ? limit : INF;
    if (candidates.size() > LANES) {
        std::nth_element(candidates.begin(), candidates.begin() + LANES, candidates.end(),
                         [](const Candidate& a, const Candidate& b) {
                             return a.total < b.total || (a.total == b.total && a.column < b.column);
                         });
        row.rest = candidates[LANES].total;
        candidates.resize(LANES);
    }
    row.count = int(candidates.size());
    for (int k = 0; k < LANES; k++) {
        row.column[k] = k < row.count ? candidates[k].column : 0;
        row.cost[k] = k < row.count ? candidates[k].cost : INF;
    }
}

template <int D, bool SQUARED> typename Assignment<D, SQUARED>::Bid Assignment<D, SQUARED>::best_two(int64_t i) {
    for (;; fill_list(i)) {
        const Row& row = rows[i];
        if (!row.count) continue;
        double totals[LANES];
        for (int k = 0; k < LANES; k++) totals[k] = row.cost[k] + price[row.column[k]];
        const Pack<double> all = Pack<double>::load(totals);
        const double best = smallest(all);
        const int at = first_bit(equal(all, Pack<double>::all(best)));
        const double second = smallest(with_lane(all, at, INF));
        if (second <= row.rest) return {row.column[at], best, second};
    }
}

// How far, on average, the last column of a list is from the first: the scale on which rows compete.
template <int D, bool SQUARED> double Assignment<D, SQUARED>::list_width() {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double best = best_two(i).best;
        double last = best;
        for (int k = 0; k < rows[i].count; k++) last = std::max(last, rows[i].cost[k] + price[rows[i].column[k]]);
        sum += last - best;
    }
    return sum / n;
}

// Takes their columns from the rows that could have another for more than ε less.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::dismiss(double epsilon) {
    idle.clear();
    for (int64_t i = n; i-- > 0;) {
        const double best = best_two(i).best;
        if (column[i] >= 0 && cost_of(i, column[i]) + price[column[i]] <= best + epsilon) continue;
        if (column[i] >= 0) owner[column[i]] = -1;
        column[i] = -1;
        idle.push_back(int32_t(i));
    }
}

// Idle rows bid until none is left; false where that takes too long.
template <int D, bool SQUARED> bool Assignment<D, SQUARED>::auction(double epsilon) {
    for (int64_t bids = 0; !idle.empty(); bids++) {
        if (bids == BIDS * n) return false;
        const int32_t i = idle.back();
        idle.pop_back();
        const Bid bid = best_two(i);
        price[bid.column] += bid.second - bid.best + epsilon;
        column[i] = bid.column;
        const int32_t evicted = std::exchange(owner[bid.column], i);
        if (evicted < 0) continue;
        column[evicted] = -1;
        idle.push_back(evicted);
    }
    return true;
}

template <int D, bool SQUARED> void Assignment<D, SQUARED>::complete() {
    dismiss(0);
    for (int64_t i = 0; i < n; i++) rows[i].wanted = best_two(i).best;
    Search search(n, int64_t(price.size()));
    for (; !idle.empty(); idle.pop_back()) augment(idle.back(), search);
}

// Gives a column to row `start`, along the path on which the least is lost (Dijkstra), and raises the prices of the
// columns that the search has passed so that every row keeps what it wants.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::augment(int32_t start, Search& s) {
    s.scanned_rows.clear(), s.scanned_columns.clear(), s.reached.clear();
    s.open.clear();
    s.now = 0, s.goal_distance = INF, s.goal = -1;
    scan(s, start);
    for (;;) {
        double distance;
        const int32_t key = s.open.take(distance);
        s.now = std::max(s.now, distance);  // rounding must not lead back
        if (s.now >= s.goal_distance) break;
        if (key < n) {
            scan_all(s, key);
        } else {
            s.scanned_columns.push_back(int32_t(key - n));
            scan(s, owner[key - n]);
        }
    }
    for (int32_t i : s.scanned_rows) rows[i].wanted += s.goal_distance - s.row_distance[i];
    for (int32_t j : s.scanned_columns) price[j] += s.goal_distance - s.column_distance[j];
    for (int32_t j : s.reached) s.column_distance[j] = INF;
    for (int32_t i = -1, j = s.goal; i != start;) {
        i = s.from[j];
        owner[j] = i;
        std::swap(column[i], j);
    }
}

template <int D, bool SQUARED>
void Assignment<D, SQUARED>::relax(Search& s, int32_t i, int32_t j, double distance) {
    distance = std::max(distance, s.now);
    if (!(distance < s.column_distance[j] && distance < s.goal_distance)) return;
    if (s.column_distance[j] == INF) s.reached.push_back(j);
    s.column_distance[j] = distance;
    s.from[j] = i;
    if (owner[j] >= 0) {
        s.open.lower(int32_t(n + j), distance);
    } else {
        s.goal = j;
        s.goal_distance = distance;
    }
}

// Goes on from row i to the columns of its list; those of the rest come when the search has come so far.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::scan(Search& s, int32_t i) {
    if (rows[i].rest <= rows[i].wanted) fill_list(i);
    const Row& row = rows[i];
    s.scanned_rows.push_back(i);
    s.row_distance[i] = s.now;
    for (int k = 0; k < row.count; k++)
        relax(s, i, row.column[k], s.now + (row.cost[k] + price[row.column[k]] - row.wanted));
    s.open.lower(i, s.now + (row.rest - row.wanted));
}

template <int D, bool SQUARED> void Assignment<D, SQUARED>::scan_all(Search& s, int32_t i) {
    const Query row = query(i);
    const Pack<double> start = Pack<double>::all(s.row_distance[i]), wanted = Pack<double>::all(rows[i].wanted);
    for (int64_t leaf = 0; leaf < leaves(); leaf++) {
        const Pack<double> distances = start + (distance(row, leaf) + prices(leaf) - wanted);
        const uint32_t nearer = below(distances, Pack<double>::load(&s.column_distance[leaf * LANES]));
        if (!nearer) continue;
        double each[LANES];
        distances.store(each);
        for_each_bit(nearer, [&](int k) { relax(s, i, int32_t(leaf * LANES + k), each[k]); });
    }
}

}  // namespace pcgen
