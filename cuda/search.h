// The leaves of a box tree that lie near sixteen points, or near a box.
//
// Sixteen points of one leaf go through the tree together. Distances and the bounds that boxes give are computed in one
// order of operations, so that pruning is exact to the last bit.
#pragma once

#include "boxtree.h"

namespace pcgen {

// Squared lengths of sixteen differences, always in this order of operations.
template <class T, int D> inline Pack<T> squared_length(const Pack<T>* d) {
    Pack<T> sum = d[0] * d[0];
    for (int k = 1; k < D; k++) sum = fma(d[k], d[k], sum);
    return sum;
}

// Squared distances of sixteen points to point j of a leaf.
template <class T, int D> inline Pack<T> to_point(const Pack<T>* q, const typename BoxTree<T, D>::Leaf& leaf, int j) {
    Pack<T> d[D];
    for (int k = 0; k < D; k++) d[k] = q[k] - Pack<T>::all(leaf.c[k][j]);
    return squared_length<T, D>(d);
}

// Squared distances of one point, lane i of q, to the sixteen of a leaf: the same bits as to_point gives.
template <class T, int D> inline Pack<T> from_point(const T (*q)[LANES], int i, const typename BoxTree<T, D>::Leaf& leaf) {
    Pack<T> d[D];
    for (int k = 0; k < D; k++) d[k] = Pack<T>::all(q[k][i]) - Pack<T>::load(leaf.c[k]);
    return squared_length<T, D>(d);
}

// The sixteen points of a leaf as queries; where the last leaf has fewer, its last point fills the lanes.
template <class T, int D> struct Queries {
    Pack<T> q[D];
    T c[D][LANES];
    int count;
    Box<T, D> box;

    Queries(const BoxTree<T, D>& tree, int64_t n) : box(tree.box(n)) {
        count = int(std::min<int64_t>(LANES, tree.size - n * LANES));
        for (int k = 0; k < D; k++) {
            std::memcpy(c[k], tree.leaves[n].c[k], sizeof c[k]);
            for (int i = count; i < LANES; i++) c[k][i] = c[k][count - 1];
            q[k] = Pack<T>::load(c[k]);
        }
    }
};

// Squared distances between one box and sixteen. Rounding is monotone, so none exceeds the distance, computed as
// above, of any point in the one to any point in the other.
template <class T, int D> inline Pack<T> bounds(const Box<T, D>& box, const typename BoxTree<T, D>::Node& node) {
    Pack<T> sum;
    for (int k = 0; k < D; k++) {
        const Pack<T> above = Pack<T>::load(node.lo[k]) - Pack<T>::all(box.hi[k]);
        const Pack<T> under = Pack<T>::all(box.lo[k]) - Pack<T>::load(node.hi[k]);
        const Pack<T> gap = most(most(above, under), Pack<T>::all(T(0)));
        sum = k ? fma(gap, gap, sum) : gap * gap;
    }
    return sum;
}

// Squared distances of sixteen points to child `c` of a node; no more than those to any point inside, see `bounds`.
template <class T, int D>
inline Pack<T> to_box(const Pack<T>* q, const typename BoxTree<T, D>::Node& node, int c) {
    Pack<T> sum;
    for (int k = 0; k < D; k++) {
        const Pack<T> above = Pack<T>::all(node.lo[k][c]) - q[k];
        const Pack<T> under = q[k] - Pack<T>::all(node.hi[k][c]);
        const Pack<T> gap = most(most(above, under), Pack<T>::all(T(0)));
        sum = k ? fma(gap, gap, sum) : gap * gap;
    }
    return sum;
}

// Visits the leaves of `tree`, the nearest branch first, as long as their distance from `box` is at most reach(), which
// visit(leaf number, queries) may shrink; it is infinite until then. Of the queries in the box, wanted(node, child) are
// those that may find something in a child, one bit each; where there are none the child is left out. Children are taken
// from a node one at a time, by a minimum over sixteen lanes: sorting them all would cost more than what most of them
// are skipped for. Leaves, but for the very first, are not even that: their order within one branch matters less than
// not having to wait for reach().
template <class T, int D, class Reach, class Wanted, class Visit>
inline void search(const BoxTree<T, D>& tree, const Box<T, D>& box, Reach&& reach, Wanted&& wanted, Visit&& visit) {
    constexpr T INF = std::numeric_limits<T>::infinity();
    struct Open {
        Pack<T> distance;  // of the children not yet visited, the others at infinity
        int32_t index;
    };
    Open open[8];  // 16^8 leaves
    const int top = int(tree.levels.size()) - 1;
    int level = top;
    open[level] = {bounds<T, D>(box, tree.levels[level][0]), 0};
    for (;;) {
        Open& node = open[level];
        const auto& boxes = tree.levels[level][node.index];
        T limit = reach();
        if (level > 0 || limit == INF) {
            const T nearest = smallest(node.distance);
            if (!(nearest <= limit) || nearest == INF) {
                if (level++ == top) return;
                continue;
            }
            const int child = first_bit(equal(node.distance, Pack<T>::all(nearest)));
            node.distance = with_lane(node.distance, child, INF);
            const uint32_t queries = wanted(boxes, child);
            if (!queries) continue;
            const int32_t index = node.index * LANES + child;
            if (level > 0) {
                level--;
                open[level] = {bounds<T, D>(box, tree.levels[level][index]), index};
                continue;
            }
            visit(index, queries);
            limit = reach();
        }
        const Pack<T> limits = Pack<T>::all(std::min(limit, std::numeric_limits<T>::max()));
        for_each_bit(at_most(node.distance, limits), [&](int child) {
            if (const uint32_t queries = wanted(boxes, child)) visit(node.index * LANES + child, queries);
        });
        if (level++ == top) return;
    }
}

}  // namespace pcgen
