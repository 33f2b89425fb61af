// A cloud cut into leaves of sixteen points, and boxes around sixteen leaves, sixteen of those, and so on.
//
// The cuts are those of a k-d tree, so leaves are compact and, but for the last, full. Boxes are stored sixteen to a
// node, one coordinate after the other, so that one query meets sixteen of them at once.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace pcgen {

template <class T, int D> struct Box {
    T lo[D], hi[D];
};

template <class T, int D> struct BoxTree {
    struct Point {
        T c[D];
        int32_t id;
    };
    struct alignas(64) Leaf {
        T c[D][LANES];      // missing points stand at +infinity
        int32_t id[LANES];  // ascending; -1 for missing points
    };
    struct alignas(64) Node {
        T lo[D][LANES], hi[D][LANES];  // missing children: lo = +infinity, hi = -infinity
        int32_t id[LANES];             // the lowest in each child
    };

    int64_t size = 0;
    bool finite = true;  // otherwise there are no leaves
    std::vector<Leaf> leaves;
    std::vector<std::vector<Node>> levels;  // levels[0] has the boxes of leaves; the last level has one node

    // x holds `count` rows of D coordinates. The tree does not depend on the number of threads.
    void build(const T* x, int64_t count, int64_t threads = 1) {
        size = count;
        std::vector<Point> points(count);
        finite = true;
        for (int64_t i = 0; i < count; i++) {
            points[i].id = int32_t(i);
            for (int d = 0; d < D; d++) {
                points[i].c[d] = x[i * D + d];
                finite &= std::isfinite(points[i].c[d]);
            }
        }
        leaves.clear();
        levels.clear();
        if (!finite || !count) return;
        cut(points, threads);
        fill_leaves(points, threads);
        fill_nodes();
    }

    // The box of one leaf.
    Box<T, D> box(int64_t leaf) const {
        const Node& node = levels[0][leaf / LANES];
        Box<T, D> b;
        for (int d = 0; d < D; d++) b.lo[d] = node.lo[d][leaf % LANES], b.hi[d] = node.hi[d][leaf % LANES];
        return b;
    }

private:
    struct Part {
        int64_t begin, end;
    };
    static constexpr int FEW = 96;  // points, a multiple of sixteen

    static bool divisible(Part p) { return p.end - p.begin > LANES; }

    // Left parts hold a power of two of full leaves, so that sixteen leaves in a row are one branch of the tree.
    static int64_t middle(Part p) {
        int64_t half = LANES;
        while (2 * half < p.end - p.begin) half *= 2;
        return p.begin + half;
    }

    // The longest side of the box of every step-th point; -1 if it has none.
    static int longest_side(const std::vector<Point>& points, Part p, int64_t step) {
        T lo[D], hi[D];
        for (int d = 0; d < D; d++) lo[d] = hi[d] = points[p.begin].c[d];
        for (int64_t i = p.begin + step; i < p.end; i += step)
            for (int d = 0; d < D; d++) {
                lo[d] = std::min(lo[d], points[i].c[d]);
                hi[d] = std::max(hi[d], points[i].c[d]);
            }
        int axis = 0;
        for (int d = 1; d < D; d++)
            if (hi[d] - lo[d] > hi[axis] - lo[axis]) axis = d;
        return lo[axis] < hi[axis] ? axis : -1;
    }

    // Whether there was anything to divide: points that all coincide are put in the order of their ids.
    static bool split(std::vector<Point>& points, Part p) {
        constexpr int ENOUGH = 64;  // points, to tell which side is the longest
        int axis = longest_side(points, p, std::max<int64_t>(1, (p.end - p.begin) / ENOUGH));
        if (axis < 0) axis = longest_side(points, p, 1);
        if (axis < 0) {
            std::sort(points.begin() + p.begin, points.begin() + p.end,
                      [](const Point& a, const Point& b) { return a.id < b.id; });
            return false;
        }
        select(points.data(), p.begin, middle(p), p.end, axis);
        return true;
    }

    // Brings the point of rank `middle` along an axis to its place, smaller ones before it and larger ones behind.
    // Quickselect without branches that depend on the data, which is some three times faster than std::nth_element:
    // the pivot is the quantile of a small sample, so that little more than one pass is needed.
    static void select(Point* a, int64_t begin, int64_t middle, int64_t end, int axis) {
        constexpr int SAMPLE = 24;
        for (int pass = 0; end - begin > FEW && pass < 16; pass++) {
            T sample[SAMPLE];
            for (int i = 0; i < SAMPLE; i++) sample[i] = a[begin + (end - begin) * i / SAMPLE].c[axis];
            std::sort(sample, sample + SAMPLE);
            const T pivot = sample[(middle - begin) * SAMPLE / (end - begin)];
            int64_t store = begin;
            for (int64_t i = begin; i < end; i++) {
                const Point p = a[i];
                a[i] = a[store];
                a[store] = p;
                store += p.c[axis] < pivot;
            }
            if (middle < store) {
                end = store;
                continue;
            }
            if (store == begin) {  // nothing is smaller: set the equal ones apart
                for (int64_t i = begin; i < end; i++) {
                    const Point p = a[i];
                    a[i] = a[store];
                    a[store] = p;
                    store += p.c[axis] == pivot;
                }
            }
            if (middle < store) return;
            begin = store;
        }
        if (end - begin <= FEW) return select_few(a + begin, int(middle - begin), int(end - begin), axis);
        std::nth_element(a + begin, a + middle, a + end,
                         [axis](const Point& p, const Point& q) { return p.c[axis] < q.c[axis]; });
    }

    // The same for a few points: their ranks are counted, of sixteen at a time, and nothing branches.
    static void select_few(Point* a, int middle, int count, int axis) {
        T key[FEW];
        typename Integer<T>::type rank[FEW];
        Point copy[FEW];
        const int padded = (count + LANES - 1) / LANES * LANES;
        std::copy_n(a, count, copy);
        for (int i = 0; i < count; i++) key[i] = copy[i].c[axis];
        std::fill(key + count, key + padded, std::numeric_limits<T>::infinity());
        std::fill_n(rank, padded, 0);
        for (int j = 0; j < count; j++)
            for (int i = 0; i < padded; i++) rank[i] += key[j] < key[i];
        int lower = 0;
        for (int i = 0; i < count; i++) lower += rank[i] < middle;
        if (lower > middle)  // equal keys on both sides of the cut: the first of them come first
            for (int j = 0; j < count; j++)
                for (int i = j + 1; i < count; i++) rank[i] += key[j] == key[i];
        int left = 0, right = middle;
        for (int i = 0; i < count; i++) {
            const bool low = rank[i] < middle;
            a[low ? left : right] = copy[i];
            left += low, right += !low;
        }
    }

    static void cut_all(std::vector<Point>& points, Part p) {
        if (!divisible(p) || !split(points, p)) return;
        cut_all(points, {p.begin, middle(p)});
        cut_all(points, {middle(p), p.end});
    }

    static void cut(std::vector<Point>& points, int64_t threads) {
        std::vector<Part> parts{{0, int64_t(points.size())}};
        while (threads > 1 && int64_t(parts.size()) < 4 * threads && parts[0].end - parts[0].begin > 4096) {
            parallel_for(parts.size(), threads, 1, [&](int64_t i) {
                if (divisible(parts[i])) split(points, parts[i]);
            });
            std::vector<Part> halves;
            for (Part p : parts) {
                const int64_t cut = divisible(p) ? middle(p) : p.end;
                halves.push_back({p.begin, cut});
                if (cut < p.end) halves.push_back({cut, p.end});
            }
            parts.swap(halves);
        }
        parallel_for(parts.size(), threads, 1, [&](int64_t i) { cut_all(points, parts[i]); });
    }

    void fill_leaves(std::vector<Point>& points, int64_t threads) {
        leaves.resize((size + LANES - 1) / LANES);
        parallel_for(leaves.size(), threads, 1024, [&](int64_t n) {
            const Point* begin = points.data() + n * LANES;
            const int count = int(std::min<int64_t>(LANES, size - n * LANES));
            int32_t id[LANES], rank[LANES] = {};
            for (int i = 0; i < LANES; i++) id[i] = i < count ? begin[i].id : std::numeric_limits<int32_t>::max();
            for (int j = 0; j < LANES; j++)
                for (int i = 0; i < LANES; i++) rank[i] += id[j] < id[i];
            Leaf& leaf = leaves[n];
            std::fill_n(leaf.id, LANES, -1);
            std::fill_n(leaf.c[0], D * LANES, std::numeric_limits<T>::infinity());
            for (int i = 0; i < count; i++) {
                leaf.id[rank[i]] = id[i];
                for (int d = 0; d < D; d++) leaf.c[d][rank[i]] = begin[i].c[d];
            }
        });
    }

    void fill_nodes() {
        constexpr T INF = std::numeric_limits<T>::infinity();
        for (int64_t below = leaves.size(); levels.empty() || levels.back().size() > 1;) {
            std::vector<Node> nodes((below + LANES - 1) / LANES);
            for (int64_t i = 0; i < int64_t(nodes.size()) * LANES; i++) {
                int32_t id = std::numeric_limits<int32_t>::max();
                for (int j = 0; i < below && j < LANES; j++)
                    id = levels.empty() ? leaves[i].id[0] : std::min(id, levels.back()[i].id[j]);
                nodes[i / LANES].id[i % LANES] = id;
                for (int d = 0; d < D; d++) {
                    T lo = INF, hi = -INF;
                    for (int j = 0; i < below && j < LANES; j++) {
                        if (levels.empty()) {
                            if (leaves[i].id[j] < 0) break;
                            lo = std::min(lo, leaves[i].c[d][j]), hi = std::max(hi, leaves[i].c[d][j]);
                        } else {
                            const Node& child = levels.back()[i];
                            lo = std::min(lo, child.lo[d][j]), hi = std::max(hi, child.hi[d][j]);
                        }
                    }
                    nodes[i / LANES].lo[d][i % LANES] = lo, nodes[i / LANES].hi[d][i % LANES] = hi;
                }
            }
            below = nodes.size();
            levels.push_back(std::move(nodes));
        }
    }
};

// Trees of many clouds, one after the other or, where there are few, each by all threads.
template <class T, int D>
std::vector<BoxTree<T, D>> plant(const T* x, const Span* spans, int64_t batch, int64_t threads) {
    std::vector<BoxTree<T, D>> trees(batch);
    const int64_t each = batch < threads ? threads : 1;
    parallel_for(batch, each == 1 ? threads : 1, 1,
                 [&](int64_t b) { trees[b].build(x + spans[b].start * D, spans[b].count, each); });
    return trees;
}

// Calls work(b, n) for each leaf n of each tree b; the leaves of all trees are shared among the threads.
template <class T, int D, class F>
void for_each_leaf(const std::vector<BoxTree<T, D>>& trees, int64_t threads, F&& work) {
    std::vector<int64_t> first{0};  // number of leaves before each tree
    for (const auto& tree : trees) first.push_back(first.back() + int64_t(tree.leaves.size()));
    parallel_for(first.back(), threads, 16, [&](int64_t n) {
        const int64_t b = std::upper_bound(first.begin(), first.end(), n) - first.begin() - 1;
        work(b, n - first[b]);
    });
}

}  // namespace pcgen
