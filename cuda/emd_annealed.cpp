// The annealed earth mover's distances: pcgen/ops/reference/annealed.py says what they are.
#include "transport_cost.h"

namespace pcgen::annealed {
namespace {

template <class F> void for_type(int64_t is_double, F&& body) {
    if (is_double) body(double());
    else body(float());
}

struct Value {
    double cost, moved;  // per point of x, and as a share of its mass
};

template <class T> Value anneal(Plan<T>& plan, int64_t threads) {
    Annealing<T> annealing(plan, threads);
    const Totals<T> totals(plan, false, threads);
    double cost = 0, mass = 0;
    for (double part : totals.cost) cost += part;
    for (double part : totals.mass) mass += part;
    if (plan.squared) {
        annealing.finish(totals.last);
        const Flat<T> flat(plan);
        cost += flat.cost();
        mass += flat.mass();
    }
    const int64_t n = plan.x.tree.size, m = plan.y.tree.size;
    return {cost / n, mass / (n * std::max<int64_t>(1, m / n))};
}

template <class T>
std::vector<Cloud<T>> in_leaves(const T* x, const Span* spans, int64_t batch, int64_t dimension, int64_t threads) {
    std::vector<Cloud<T>> clouds(batch);
    parallel_for(batch, threads, 1,
                 [&](int64_t b) { clouds[b].build(x + spans[b].start * dimension, spans[b].count, dimension, 1); });
    return clouds;
}

template <class T> bool sound(const Cloud<T>& x, const Cloud<T>& y) {
    return x.tree.finite && y.tree.finite && x.tree.size && y.tree.size;
}

// Calls work(b, threads): many pairs side by side, few of them each by all threads.
template <class F> void for_batch(int64_t batch, int64_t threads, F&& work) {
    const bool few = batch < threads;
    parallel_for(batch, few ? 1 : threads, 1, [&](int64_t b) { work(b, few ? threads : 1); });
}

// Calls visit(place among the slots of all levels, place among the rows of all levels) for the points of a cloud.
template <class T, class Visit>
void for_ratios(const Cloud<T>& x, Span span, int64_t rows, int levels, Visit&& visit) {
    for (int level = 0; level < levels; level++)
        for (int64_t slot = 0; slot < span.count; slot++)
            visit(level * x.slots() + slot, level * rows + span.start + x.id(slot));
}

template <class T>
void store_pull(const Cloud<T>& x, const std::vector<double>& pull, double scale, Span span, int64_t dimension, T* to) {
    for (int64_t slot = 0; slot < span.count; slot++)
        for (int64_t k = 0; k < dimension; k++) {
            const double sum = pull[(slot / LANES * D + k) * LANES + slot % LANES];
            to[(span.start + x.id(slot)) * dimension + k] = T(scale * sum);
        }
}

}  // namespace
}  // namespace pcgen::annealed
using namespace pcgen::annealed;
using namespace pcgen;

// The rows of ratios that belong to no cloud are left as they are.
PCGEN_EXPORT int pcgen_annealed(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                int64_t x_rows, const void* y, const Span* y_spans, int64_t y_rows, int64_t batch,
                                int64_t squared, double* value, double* moved, void* x_ratio, void* y_ratio,
                                int64_t threads) {
    return guarded([&] {
        for_type(is_double, [&](auto zero) {
            using T = decltype(zero);
            const T nan = std::numeric_limits<T>::quiet_NaN();
            const auto left = in_leaves<T>((const T*)x, x_spans, batch, dimension, threads);
            const auto right = in_leaves<T>((const T*)y, y_spans, batch, dimension, threads);
            for_batch(batch, threads, [&](int64_t b, int64_t team) {
                const auto &p = left[b], &q = right[b];
                Plan<T> plan(p, q, squared);
                if (!sound(p, q)) {
                    value[b] = moved[b] = nan;
                    for (int l = 0; l < plan.levels; l++) {
                        std::fill_n((T*)x_ratio + l * x_rows + x_spans[b].start, x_spans[b].count, nan);
                        std::fill_n((T*)y_ratio + l * y_rows + y_spans[b].start, y_spans[b].count, nan);
                    }
                    return;
                }
                const Value found = anneal(plan, team);
                value[b] = found.cost, moved[b] = found.moved;
                for_ratios(p, x_spans[b], x_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { ((T*)x_ratio)[row] = plan.left[slot]; });
                for_ratios(q, y_spans[b], y_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { ((T*)y_ratio)[row] = plan.right[slot]; });
            });
        });
    });
}

PCGEN_EXPORT int pcgen_annealed_gradient(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                         int64_t x_rows, const void* y, const Span* y_spans, int64_t y_rows,
                                         int64_t batch, int64_t squared, const void* x_ratio, const void* y_ratio,
                                         const double* gradient, void* x_gradient, void* y_gradient, int64_t threads) {
    return guarded([&] {
        for_type(is_double, [&](auto zero) {
            using T = decltype(zero);
            const T nan = std::numeric_limits<T>::quiet_NaN();
            const auto left = in_leaves<T>((const T*)x, x_spans, batch, dimension, threads);
            const auto right = in_leaves<T>((const T*)y, y_spans, batch, dimension, threads);
            for_batch(batch, threads, [&](int64_t b, int64_t team) {
                const auto &p = left[b], &q = right[b];
                if (!sound(p, q)) {
                    std::fill_n((T*)x_gradient + x_spans[b].start * dimension, x_spans[b].count * dimension, nan);
                    std::fill_n((T*)y_gradient + y_spans[b].start * dimension, y_spans[b].count * dimension, nan);
                    return;
                }
                Plan<T> plan(p, q, squared);
                for_ratios(p, x_spans[b], x_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { plan.left[slot] = ((const T*)x_ratio)[row]; });
                for_ratios(q, y_spans[b], y_rows, plan.levels,
                           [&](int64_t slot, int64_t row) { plan.right[slot] = ((const T*)y_ratio)[row]; });
                Totals<T> totals(plan, true, team);
                if (squared) {
                    const Flat<T> flat(plan);
                    flat.pull(p, plan.left_at(LEVELS), flat.y, totals.x_pull);
                    flat.pull(q, plan.right_at(LEVELS), flat.x, totals.y_pull);
                }
                const double scale = gradient[b] / x_spans[b].count;
                store_pull(p, totals.x_pull, scale, x_spans[b], dimension, (T*)x_gradient);
                store_pull(q, totals.y_pull, scale, y_spans[b], dimension, (T*)y_gradient);
            });
        });
    });
}

PCGEN_EXPORT int pcgen_annealed_matrix(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                       int64_t S, const void* y, const Span* y_spans, int64_t R, int64_t squared,
                                       double* value, double* moved, int64_t threads) {
    return guarded([&] {
        for_type(is_double, [&](auto zero) {
            using T = decltype(zero);
            const auto left = in_leaves<T>((const T*)x, x_spans, S, dimension, threads);
            const auto right = in_leaves<T>((const T*)y, y_spans, R, dimension, threads);
            for_batch(S * R, threads, [&](int64_t pair, int64_t team) {
                const auto &p = left[pair / R], &q = right[pair % R];
                value[pair] = moved[pair] = std::numeric_limits<double>::quiet_NaN();
                if (!sound(p, q)) return;
                Plan<T> plan(p, q, squared);
                const Value found = anneal(plan, team);
                value[pair] = found.cost, moved[pair] = found.moved;
            });
        });
    });
}
