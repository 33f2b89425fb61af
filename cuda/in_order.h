// The assignment in order along a line: a part of class Assignment, included by assignment.h.
//
// Costs are convex in the positions on two parallel lines, so that no exchange of two columns pays there (Villani,
// Topics in Optimal Transportation, 2003, section 2.2), and neighbours alone decide the prices. Auctions and shortest
// paths get on slowly there, since all columns on one side of a row compete.
#pragma once

namespace pcgen {

// The longest difference between the first point and another; its square in `longest`.
template <int D> std::vector<double> chord(const std::vector<double>& points, double& longest) {
    std::vector<double> found(D), from_first(D);
    longest = 0;
    for (size_t i = 0; i < points.size(); i += D) {
        double square = 0;
        for (int d = 0; d < D; d++) from_first[d] = points[i + d] - points[d], square += from_first[d] * from_first[d];
        if (square > longest) longest = square, found = from_first;
    }
    return found;
}

// The numbers of the points, sorted by their position in a direction.
template <int D> std::vector<int32_t> sorted(const std::vector<double>& points, const std::vector<double>& direction) {
    std::vector<std::pair<double, int32_t>> positions;
    for (size_t i = 0; i < points.size(); i += D) {
        double position = 0;
        for (int d = 0; d < D; d++) position += direction[d] * (points[i + d] - points[d]);
        positions.emplace_back(position, int32_t(i / D));
    }
    std::sort(positions.begin(), positions.end());
    std::vector<int32_t> numbers;
    for (const auto& each : positions) numbers.push_back(each.second);
    return numbers;
}

// What every assignment costs at least: as much as if all points lay at their mean (the cost is convex).
template <int D, bool SQUARED> double Assignment<D, SQUARED>::between_means(const std::vector<double>& points) const {
    double square = 0;
    for (int d = 0; d < D; d++) {
        double gap = 0;
        for (int64_t i = 0; i < n; i++) gap += x[i * D + d] - points[i * D + d];
        square += gap / n * (gap / n);
    }
    return n * (SQUARED ? square : std::sqrt(square));
}

// Pairs rows and columns in order, at prices at which no row wants its neighbour's column. Returns which share of the
// cost may be too much; infinity, and everything is as before, where that is more than `stop` and more than CLOSE of
// what assignments can differ in: between clouds that lie far apart, most of the cost is the same for all.
template <int D, bool SQUARED> double Assignment<D, SQUARED>::match_in_order(double stop) {
    std::vector<double> points;
    for (int64_t j = 0; j < n; j++)
        for (int d = 0; d < D; d++) points.push_back(y.leaves[j / LANES].c[d][j % LANES]);
    double longest, other;
    const auto along_x = chord<D>(x, longest), along_y = chord<D>(points, other);
    const auto& direction = longest < other ? along_y : along_x;
    const auto left = sorted<D>(x, direction), right = sorted<D>(points, direction);
    for (int64_t k = 0; k < n; k++) column[left[k]] = right[k], owner[right[k]] = left[k];
    for (int64_t k = 1; k < n; k++) {
        const int32_t i = left[k - 1], j = right[k - 1], next_i = left[k], next_j = right[k];
        const double lowest = cost_of(i, j) - cost_of(i, next_j);
        const double highest = cost_of(next_i, j) - cost_of(next_i, next_j);
        price[next_j] = price[j] + (lowest + highest) / 2;
    }
    const double sum = primal(), enough = std::max(CLOSE * (sum - between_means(points)), stop * sum);
    double excess = 0;
    for (int64_t i = 0; i < n && excess <= enough; i++)
        excess += cost_of(i, column[i]) + price[column[i]] - wanted_of(i);
    if (excess <= enough) {
        start_from_prices();
        return excess > 0 ? excess / sum : 0;
    }
    std::fill(column.begin(), column.end(), -1);
    std::fill(owner.begin(), owner.end(), -1);
    std::fill(price.begin(), price.end(), 0.0);
    return INF;
}

}  // namespace pcgen
