// The k nearest neighbours and those within a radius: pcgen/ops/reference/neighbours.py says what they are.
#include "search.h"

namespace pcgen {
namespace {

template <class T> constexpr T INF = std::numeric_limits<T>::infinity();
template <class T> constexpr T NOT_A_NUMBER = std::numeric_limits<T>::quiet_NaN();

template <class T> struct Neighbour {
    T distance;  // squared
    int32_t id;
};

// Which of two neighbours a list keeps first.
struct Nearer {
    static constexpr bool SHRINKS = true;  // the radius searched, once a list is full
    template <class T> static bool before(Neighbour<T> a, Neighbour<T> b) {
        return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
    }
};
struct Earlier {
    static constexpr bool SHRINKS = false;
    template <class T> static bool before(Neighbour<T> a, Neighbour<T> b) { return a.id < b.id; }
};

// For each of sixteen queries the k first of its neighbours within a radius, in order. A short list is kept in order; a
// long one grows to twice its length and is then cut, so that a neighbour costs the same whatever k is.
template <class T, int D, class Order> struct Lists {
    static constexpr int64_t SHORT = 64;  // neighbours; from there on it is faster to cut
    const int64_t k, room;
    std::vector<Neighbour<T>> neighbours;  // `room` for each query
    int64_t count[LANES] = {};
    Neighbour<T> last[LANES];  // a query takes only what comes before
    T limit[LANES];            // squared distance beyond which a query takes no more

    Lists(const Queries<T, D>& x, const BoxTree<T, D>& tree, int64_t k, T radius2)
        : k(k), room(k > SHORT ? 2 * k : k), neighbours(LANES * room) {
        for (int i = 0; i < LANES; i++) {
            limit[i] = i < x.count ? std::min(radius2, std::numeric_limits<T>::max()) : -1;  // nothing overflown
            last[i] = {limit[i], std::numeric_limits<int32_t>::max()};
        }
        T reach = radius2;
        const auto wanted = [&](const typename BoxTree<T, D>::Node& node, int child) {
            const Pack<T> bound = to_box<T, D>(x.q, node, child), limits = Pack<T>::load(limit);
            uint32_t queries = Order::SHRINKS ? below(bound, limits) : 0;
            T nearest[LANES];
            bound.store(nearest);
            for_each_bit(at_most(bound, limits) & ~queries, [&](int i) {
                queries |= uint32_t(Order::before({nearest[i], node.id[child]}, last[i])) << i;
            });
            return queries;
        };
        search<T, D>(tree, x.box, [&] { return reach; }, wanted, [&](int32_t n, uint32_t queries) {
            const auto& leaf = tree.leaves[n];
            for_each_bit(queries, [&](int i) {
                const Pack<T> d = from_point<T, D>(x.c, i, leaf);
                T distance[LANES];
                d.store(distance);
                for_each_bit(at_most(d, Pack<T>::all(limit[i])), [&](int j) { offer(i, {distance[j], leaf.id[j]}); });
            });
            if (Order::SHRINKS) reach = largest(Pack<T>::load(limit));
        });
        for (int i = 0; i < x.count && room > k; i++) {
            if (count[i] > k) cut(i);
            std::sort(of(i), of(i) + count[i], Order::template before<T>);
        }
    }

    Neighbour<T>* of(int i) { return neighbours.data() + i * room; }

private:
    void offer(int i, Neighbour<T> one) {
        if (!Order::before(one, last[i])) return;
        Neighbour<T>* list = of(i);
        if (room > k) {
            list[count[i]++] = one;
            if (count[i] == room) cut(i);
            return;
        }
        int64_t at = count[i] < k ? count[i]++ : k - 1;
        for (; at && Order::before(one, list[at - 1]); at--) list[at] = list[at - 1];
        list[at] = one;
        if (count[i] == k) bound(i);
    }

    void cut(int i) {
        Neighbour<T>* list = of(i);
        std::nth_element(list, list + k - 1, list + count[i], Order::template before<T>);
        count[i] = k;
        bound(i);
    }

    void bound(int i) {
        last[i] = of(i)[k - 1];
        if (Order::SHRINKS) limit[i] = last[i].distance;
    }
};

// Clouds to search, and where to write what is found of them.
template <class T, int D> struct Search {
    std::vector<BoxTree<T, D>> x, y;
    const Span* spans;
    int64_t k;
    T* distance;     // (rows, k)
    int64_t* index;  // (rows, k)
    int64_t* count;  // (rows,) or null

    void write(int64_t row, const Neighbour<T>* list, int64_t found, T rest) {
        for (int64_t j = 0; j < k; j++) {
            distance[row * k + j] = j < found ? list[j].distance : rest;
            index[row * k + j] = j < found ? list[j].id : -1;
        }
        if (count) count[row] = found;
    }

    template <class Order> void run(T radius2, int64_t threads) {
        for (size_t b = 0; b < x.size(); b++)
            if (!x[b].finite || !y[b].finite)
                for (int64_t i = 0; i < spans[b].count; i++) write(spans[b].start + i, nullptr, 0, NOT_A_NUMBER<T>);
        for_each_leaf(x, threads, [&](int64_t b, int64_t leaf) {
            if (!y[b].finite) return;
            const Queries<T, D> queries(x[b], leaf);
            Lists<T, D, Order> lists(queries, y[b], std::min(k, y[b].size), radius2);
            for (int i = 0; i < queries.count; i++)
                write(spans[b].start + x[b].leaves[leaf].id[i], lists.of(i), lists.count[i], INF<T>);
        });
    }
};

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// The k nearest within the radius or, in the order of their indices, the first k.
PCGEN_EXPORT int pcgen_neighbours(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                  const void* y, const Span* y_spans, int64_t batch, int64_t k, double radius,
                                  int64_t by_index, void* distance, int64_t* index, int64_t* count, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            Search<T, D> search{plant<T, D>((const T*)x, x_spans, batch, threads),
                                plant<T, D>((const T*)y, y_spans, batch, threads),
                                x_spans, k, (T*)distance, index, count};
            if (by_index) search.template run<Earlier>(T(radius) * T(radius), threads);
            else search.template run<Nearer>(T(radius) * T(radius), threads);
        });
    });
}
