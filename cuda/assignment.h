// The optimal one-to-one assignment between two clouds of n points, and the prices that prove it.
//
// The points x are "rows", the points y "columns". Every column asks a price; a row wants the column whose cost and
// price together are least. For any prices Σᵢ minⱼ (cᵢⱼ + pⱼ) − Σⱼ pⱼ is a lower bound for every assignment, and an
// assignment that gives each row what it wants attains it. Prices come first from every fourth point, then from an
// auction (Bertsekas, Annals of Operations Research 14, 1988: ε-scaling, Gauss–Seidel), last from shortest augmenting
// paths (Jonker and Volgenant, Computing 38, 1987), which make them exact and never fail. Points in order along a line
// are tried before all that.
//
// Costs are computed when they are needed, so memory grows with n. Prices only ever rise: a short list of columns for
// each row, with what all the others cost at least, stays true until the list is used up, and few rows need another.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cheapest.h"
#include "least_first.h"

namespace pcgen {

template <int D, bool SQUARED> class Assignment {
public:
    std::vector<int32_t> column;  // of each row; columns are numbered as the leaves of the tree y hold them

    // x holds rows of D coordinates, best in the order of a k-d tree too; y as many points.
    Assignment(std::vector<double> x_, BoxTree<double, D> y_)
        : column(y_.size, -1), n(y_.size), x(std::move(x_)), y(std::move(y_)), owner(n, -1), rows(n),
          price(y.leaves.size() * LANES), fine(y), coarse(y, x) {}

    // Stops when primal − dual ≤ tolerance · primal is proven, at the latest when both are equal but for rounding.
    void solve(double tolerance) {
        const double stop = std::max(tolerance, ROUNDING), excess = match_in_order(stop);
        if (excess <= stop) return;
        if (excess < INF) return complete();
        learn_from_fewer();
        if (!approach(tolerance)) complete();
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
        for (int64_t i = 0; i < n; i++) sum += wanted_of(i) - price[i];
        return sum;
    }

private:
    static constexpr double INF = std::numeric_limits<double>::infinity();
    // Measured on clouds of 2048 points. START is a share of the width of the lists, AIM one of the tolerance, CLOSE
    // and ROUNDING are shares of the cost; BIDS are for each row: where the auction does not get on, paths are faster.
    static constexpr double START = 1, STEP = 8, AIM = 0.6, CLOSE = 1e-3, ROUNDING = 1e-13;
    static constexpr int PHASES = 5, BIDS = 20, FEWER = 4;

    struct Row {
        double cost[LANES];
        int32_t column[LANES];  // 0, at cost infinity, behind the last
        double rest = -INF;     // other columns cost no less, price included
        double wanted = 0;      // least cost and price, known while paths are sought
        int count = 0;
        bool close = false;     // its columns are too close in cost for the coarse search
    };
    struct Bid {
        int32_t column;
        double best, second;  // cost and price
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
    std::vector<int32_t> idle;  // rows without a column; the last is served first
    std::vector<double> price;  // of each column; that of padding is 0
    Cheapest<double, D, SQUARED> fine;
    Cheapest<float, D, SQUARED> coarse;

    int64_t leaves() const { return int64_t(y.leaves.size()); }
    Pack<double> prices(int64_t leaf) const { return Pack<double>::load(&price[leaf * LANES]); }
    void set_price(int64_t j, double to) {
        price[j] = to;
        fine.set_price(j, to);
        coarse.set_price(j, to);
    }

    // Of row i to sixteen points.
    Pack<double> squares(int64_t i, const double (*points)[LANES]) const {
        Pack<double> gap[D];
        for (int d = 0; d < D; d++) gap[d] = Pack<double>::all(x[i * D + d]) - Pack<double>::load(points[d]);
        return squared_length<double, D>(gap);
    }
    Pack<double> costs(int64_t i, const double (*points)[LANES]) const {
        return SQUARED ? squares(i, points) : root(squares(i, points));
    }
    // The same bits as `costs` gives.
    double cost_of(int64_t i, int64_t j) const {
        double sum = 0;
        for (int d = 0; d < D; d++) {
            const double gap = x[i * D + d] - y.leaves[j / LANES].c[d][j % LANES];
            sum = d ? fma(gap, gap, sum) : gap * gap;
        }
        return SQUARED ? sum : std::sqrt(sum);
    }

    double wanted_of(int64_t i) const;
    void start_from_prices();
    double between_means(const std::vector<double>& points) const;
    double match_in_order(double stop);
    void learn_from_fewer();
    void fill_list(int64_t i);
    template <class T> void list(Cheapest<T, D, SQUARED>& cheapest, int64_t i, double limit);
    Bid best_of_list(const Row& row) const;
    Bid best_two(int64_t i);
    double list_width();
    void dismiss(double epsilon);
    bool auction(double epsilon);
    bool approach(double tolerance);
    void complete();
    void augment(int32_t start, Search& search);
    void relax(Search& search, int32_t i, int32_t j, double distance);
    void scan(Search& search, int32_t i);
    void scan_all(Search& search, int32_t i);
};

// The least cost and price, found among all columns; few need a root.
template <int D, bool SQUARED> double Assignment<D, SQUARED>::wanted_of(int64_t i) const {
    double wanted = cost_of(i, column[i]) + price[column[i]];
    for (int64_t leaf = 0; leaf < leaves(); leaf++) {
        const Pack<double> square = squares(i, y.leaves[leaf].c), asked = prices(leaf);
        const Pack<double> room = most(Pack<double>::all(wanted) - asked, Pack<double>::all(0));
        if (below(square, SQUARED ? room : room * room))
            wanted = std::min(wanted, smallest((SQUARED ? square : root(square)) + asked));
    }
    return wanted;
}

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
    std::vector<double> wanted;
    for (int64_t i = 0; i < fewer.n; i++) wanted.push_back(fewer.best_two(i).best);
    for (int64_t leaf = 0; leaf < leaves(); leaf++) {
        Pack<double> highest = Pack<double>::all(-INF);
        for (int64_t i = 0; i < fewer.n; i++)
            highest = most(highest, Pack<double>::all(wanted[i]) - fewer.costs(i, y.leaves[leaf].c));
        highest.store(&price[leaf * LANES]);
    }
    std::fill(price.begin() + n, price.end(), 0.0);
    start_from_prices();
}

// Before the first list is filled.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::start_from_prices() {
    for (int64_t j = 0; j < n; j++) set_price(j, price[j]);
    fine.start();
    coarse.start();
}

// Lists the cheapest columns of row i, the best two among them.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::fill_list(int64_t i) {
    Row& row = rows[i];
    double limit = row.count ? -INF : INF;  // the totals of the old list are totals too
    for (int k = 0; k < row.count; k++) limit = std::max(limit, row.cost[k] + price[row.column[k]]);
    if (!row.close) {
        list(coarse, i, limit);
        row.close = !(best_of_list(row).second <= row.rest);
    }
    if (row.close) list(fine, i, limit);
}

template <int D, bool SQUARED>
template <class T>
void Assignment<D, SQUARED>::list(Cheapest<T, D, SQUARED>& cheapest, int64_t i, double limit) {
    Row& row = rows[i];
    row.count = cheapest.find(&x[i * D], limit, row.column, row.rest);
    std::fill(row.column + row.count, row.column + LANES, 0);
    double points[D][LANES];
    for (int k = 0; k < LANES; k++)
        for (int d = 0; d < D; d++) points[d][k] = y.leaves[row.column[k] / LANES].c[d][row.column[k] % LANES];
    costs(i, points).store(row.cost);
    std::fill(row.cost + row.count, row.cost + LANES, INF);
}

template <int D, bool SQUARED>
typename Assignment<D, SQUARED>::Bid Assignment<D, SQUARED>::best_of_list(const Row& row) const {
    double totals[LANES];
    for (int k = 0; k < LANES; k++) totals[k] = row.cost[k] + price[row.column[k]];
    const Pack<double> all = Pack<double>::load(totals);
    const double best = smallest(all);
    const int at = first_bit(equal(all, Pack<double>::all(best)));
    return {row.column[at], best, smallest(with_lane(all, at, INF))};
}

template <int D, bool SQUARED> typename Assignment<D, SQUARED>::Bid Assignment<D, SQUARED>::best_two(int64_t i) {
    for (;; fill_list(i)) {
        if (!rows[i].count) continue;
        const Bid bid = best_of_list(rows[i]);
        if (bid.second <= rows[i].rest) return bid;
    }
}

// How far, for half of the rows, the last column of a list is from the first: the scale on which rows compete.
template <int D, bool SQUARED> double Assignment<D, SQUARED>::list_width() {
    std::vector<double> widths;
    for (int64_t i = 0; i < n; i++) {
        const double best = best_two(i).best;
        double last = best;
        for (int k = 0; k < rows[i].count; k++) last = std::max(last, rows[i].cost[k] + price[rows[i].column[k]]);
        widths.push_back(last - best);
    }
    std::nth_element(widths.begin(), widths.begin() + n / 2, widths.end());
    return widths[n / 2];
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
        set_price(bid.column, price[bid.column] + (bid.second - bid.best + epsilon));
        column[i] = bid.column;
        const int32_t evicted = std::exchange(owner[bid.column], i);
        if (evicted < 0) continue;
        column[evicted] = -1;
        idle.push_back(evicted);
    }
    return true;
}

// Auctions with ε ever smaller; true once the gap is proven, false where paths have to go on.
template <int D, bool SQUARED> bool Assignment<D, SQUARED>::approach(double tolerance) {
    double epsilon = n > LANES ? START * list_width() : 0;
    for (int phase = 0; phase < PHASES && epsilon > 0; phase++) {
        dismiss(epsilon);
        if (!auction(epsilon)) return false;
        double sum = 0, wanted = 0;
        for (int64_t i = 0; i < n; i++) sum += cost_of(i, column[i]), wanted += best_two(i).best - price[i];
        if (sum - wanted <= tolerance * sum) return true;
        epsilon *= std::max(1 / STEP, AIM * tolerance * sum / (sum - wanted));  // the gap is about proportional to ε
    }
    return false;
}

}  // namespace pcgen

#include "in_order.h"
#include "shortest_paths.h"
