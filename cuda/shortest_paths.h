// Shortest augmenting paths: the last part of class Assignment, included by assignment.h.
#pragma once

namespace pcgen {

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
    for (int32_t j : s.scanned_columns) set_price(j, price[j] + (s.goal_distance - s.column_distance[j]));
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

// The columns that are nearer by way of row i than by any other and than the goal; few need a root.
template <int D, bool SQUARED> void Assignment<D, SQUARED>::scan_all(Search& s, int32_t i) {
    const double before = s.row_distance[i] - rows[i].wanted;
    const Pack<double> zero = Pack<double>::all(0);
    for (int64_t leaf = 0; leaf < leaves(); leaf++) {
        const Pack<double> reached = Pack<double>::load(&s.column_distance[leaf * LANES]);
        const Pack<double> known = least(reached, Pack<double>::all(s.goal_distance));
        const Pack<double> square = squares(i, y.leaves[leaf].c), by = prices(leaf) + Pack<double>::all(before);
        const Pack<double> room = most(known - by, zero);
        const uint32_t nearer = below(square, SQUARED ? room : room * room);
        if (!nearer) continue;
        double each[LANES];
        ((SQUARED ? square : root(square)) + by).store(each);
        for_each_bit(nearer, [&](int k) { relax(s, i, int32_t(leaf * LANES + k), each[k]); });
    }
}

}  // namespace pcgen
