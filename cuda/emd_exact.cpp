// The exact earth mover's distance: pcgen/ops/reference/exact.py says what it is.
#include "assignment.h"
#include "parallel.h"

namespace pcgen {
namespace {

struct Result {
    double value = std::numeric_limits<double>::quiet_NaN(), dual = value;
};

template <int D, class T> BoxTree<double, D> plant(const T* x, Span span) {
    const std::vector<double> points(x + span.start * D, x + (span.start + span.count) * D);
    BoxTree<double, D> tree;
    tree.build(points.data(), span.count);
    return tree;
}

// Whether squared distances between two finite clouds, and prices of that size, are far from overflow.
template <int D> bool measurable(const BoxTree<double, D>& x, const BoxTree<double, D>& y) {
    double sum = 0;
    const auto &a = x.levels.back()[0], &b = y.levels.back()[0];
    for (int d = 0; d < D; d++) {
        const double lo = std::min(smallest(Pack<double>::load(a.lo[d])), smallest(Pack<double>::load(b.lo[d])));
        const double hi = std::max(largest(Pack<double>::load(a.hi[d])), largest(Pack<double>::load(b.hi[d])));
        sum += (hi - lo) * (hi - lo);
    }
    return sum < 1e300;
}

template <int D, bool SQUARED>
Result solve(const BoxTree<double, D>& x, const BoxTree<double, D>& y, double tolerance, int64_t* assignment) {
    std::vector<double> points;
    for (int64_t i = 0; i < x.size; i++)
        for (int d = 0; d < D; d++) points.push_back(x.leaves[i / LANES].c[d][i % LANES]);
    Assignment<D, SQUARED> problem(std::move(points), y);
    problem.solve(tolerance);
    if (assignment)
        for (int64_t i = 0; i < x.size; i++) {
            const int32_t j = problem.column[i];
            assignment[x.leaves[i / LANES].id[i % LANES]] = y.leaves[j / LANES].id[j % LANES];
        }
    const double primal = problem.primal(), dual = problem.dual();
    return {primal / x.size, std::min(primal, dual) / x.size};  // rounding may put the dual above
}

// NaN, and an assignment left as it is, for clouds of unequal size or with coordinates that are not finite.
template <int D, class T>
Result emd(const T* x, Span x_span, const T* y, Span y_span, bool squared, double tolerance, int64_t* assignment) {
    if (x_span.count != y_span.count || !x_span.count) return {};
    const auto left = plant<D>(x, x_span), right = plant<D>(y, y_span);
    if (!left.finite || !right.finite || !measurable(left, right)) return {};
    return squared ? solve<D, true>(left, right, tolerance, assignment)
                   : solve<D, false>(left, right, tolerance, assignment);
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// The assignment comes filled with −1.
PCGEN_EXPORT int pcgen_emd_exact(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                 const void* y, const Span* y_spans, int64_t batch, int64_t squared, double tolerance,
                                 double* value, double* dual, int64_t* assignment, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            parallel_for(batch, threads, 1, [&](int64_t b) {
                const Result found = emd<D>((const T*)x, x_spans[b], (const T*)y, y_spans[b], squared, tolerance,
                                            assignment + x_spans[b].start);
                value[b] = found.value;
                dual[b] = found.dual;
            });
        });
    });
}

// value and dual, one after the other, each S × R.
PCGEN_EXPORT int pcgen_emd_exact_matrix(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                        int64_t S, const void* y, const Span* y_spans, int64_t R, int64_t squared,
                                        double tolerance, int64_t symmetric, double* out, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            parallel_for(S * R, threads, 1, [&](int64_t pair) {
                const int64_t s = pair / R, r = pair % R;
                if (symmetric && r < s) return;
                const Result found =
                    emd<D>((const T*)x, x_spans[s], (const T*)y, y_spans[r], squared, tolerance, nullptr);
                for (int64_t at : {s * R + r, symmetric ? r * R + s : s * R + r})
                    out[at] = found.value, out[S * R + at] = found.dual;
            });
        });
    });
}
