// The soft minimum of Sinkhorn's iterations and its gradient: pcgen/ops/reference/sinkhorn.py says what they are.
//
// Sixteen rows in lanes meet the other cloud in blocks of sixteen. A block is left out where its box and its largest
// potential show that it cannot matter: where neighbours in memory are neighbours in space, as pcgen/ops/sinkhorn.py
// arranges, a small blur costs little. Exponents are kept in powers of two.
#include "search.h"
#include "exponential.h"

namespace pcgen {
namespace {

template <class T> constexpr T NEGLIGIBLE = sizeof(T) == 4 ? 40 : 80;  // a term of 2^-NEGLIGIBLE of the sum is left out

// A cloud in consecutive blocks of sixteen; the last repeats its last point.
template <class T, int D> struct Blocks {
    using Node = typename BoxTree<T, D>::Node;
    struct alignas(64) Block {
        T c[D][LANES], h[LANES];
    };

    int64_t size;
    bool finite = true;
    std::vector<Block> blocks;
    std::vector<Node> boxes;   // of sixteen blocks each
    std::vector<T> highest;    // h of each block

    // h, per row, is scaled.
    Blocks(const T* x, const T* h, double scale, int64_t count) : size(count), blocks((count + LANES - 1) / LANES) {
        boxes.resize((blocks.size() + LANES - 1) / LANES);
        highest.resize(boxes.size() * LANES, -std::numeric_limits<T>::infinity());
        for (Node& node : boxes)
            for (int k = 0; k < D; k++)
                for (int i = 0; i < LANES; i++)
                    node.lo[k][i] = std::numeric_limits<T>::infinity(), node.hi[k][i] = -node.lo[k][i];
        for (int64_t i = 0; i < int64_t(blocks.size()) * LANES; i++) {
            const int64_t row = std::min(i, count - 1), n = i / LANES;
            blocks[n].h[i % LANES] = h ? T(h[row] * scale) : T(0);
            finite &= std::isfinite(blocks[n].h[i % LANES]);
            highest[n] = std::max(highest[n], blocks[n].h[i % LANES]);
            Node& node = boxes[n / LANES];
            for (int k = 0; k < D; k++) {
                const T c = x[row * D + k];
                finite &= std::isfinite(c);
                blocks[n].c[k][i % LANES] = c;
                node.lo[k][n % LANES] = std::min(node.lo[k][n % LANES], c);
                node.hi[k][n % LANES] = std::max(node.hi[k][n % LANES], c);
            }
        }
    }

    int count(int64_t n) const { return int(std::min<int64_t>(LANES, size - n * LANES)); }

    Box<T, D> box(int64_t n) const {
        Box<T, D> box;
        for (int k = 0; k < D; k++)
            box.lo[k] = boxes[n / LANES].lo[k][n % LANES], box.hi[k] = boxes[n / LANES].hi[k][n % LANES];
        return box;
    }
};

// log2 exp(h - C/ε) of sixteen rows and one point, from its h in powers of two; C is |x - y|^p / p.
template <class T, int D, int POWER> struct Exponents {
    const T factor;
    explicit Exponents(double eps) : factor(T(-LOG2_E / (POWER * eps))) {}

    Pack<T> of(Pack<T> d2, T h) const {
        return fma(POWER == 1 ? root(d2) : d2, Pack<T>::all(factor), Pack<T>::all(h));
    }

    // The most that each block of y can come to for a point inside the box.
    std::vector<T> highest(const Box<T, D>& box, const Blocks<T, D>& y) const {
        std::vector<T> most(y.highest.size());
        for (size_t n = 0; n < y.boxes.size(); n++) {
            const Pack<T> d2 = bounds<T, D>(box, y.boxes[n]);
            const Pack<T> highest = Pack<T>::load(&y.highest[n * LANES]);
            fma(POWER == 1 ? root(d2) : d2, Pack<T>::all(factor), highest).store(&most[n * LANES]);
        }
        most.resize(y.blocks.size());
        return most;
    }
};

template <class T, int D> using Block = typename Blocks<T, D>::Block;

template <class T, int D> inline Pack<T> differences(const Pack<T>* x, const Block<T, D>& y, int j, Pack<T>* d) {
    for (int k = 0; k < D; k++) d[k] = x[k] - Pack<T>::all(y.c[k][j]);
    return squared_length<T, D>(d);
}

template <class T> __attribute__((always_inline)) inline Pack<T> bounded_power_of_two(Pack<T> x) {
    return power_of_two(most(x, Pack<T>::all(Exponential<T>::LOWEST)), Pack<T>::all(T(1)));
}

// log2 Σ_j exp(h_j - C_ij/ε) for the sixteen rows of a block.
template <class T, int D, int POWER>
void log_sum(const Block<T, D>& rows, const Box<T, D>& box, const Blocks<T, D>& y, double eps, double* result) {
    const Exponents<T, D, POWER> exponents(eps);
    const std::vector<T> bound = exponents.highest(box, y);
    Pack<T> x[D];
    for (int k = 0; k < D; k++) x[k] = Pack<T>::load(rows.c[k]);
    Pack<T> highest = Pack<T>::all(std::numeric_limits<T>::lowest()), sum = Pack<T>::all(T(0));
    T reach = std::numeric_limits<T>::lowest();
    auto visit = [&](int64_t n) {
        const Block<T, D>& block = y.blocks[n];
        const int count = y.count(n);
        Pack<T> values[LANES], d[D];
        Pack<T> top = highest;
        for (int j = 0; j < count; j++) {
            values[j] = exponents.of(differences<T, D>(x, block, j, d), block.h[j]);
            top = most(top, values[j]);
        }
        Pack<T> part = Pack<T>::all(T(0));
        for (int j = 0; j < count; j++) part = part + bounded_power_of_two(values[j] - top);
        sum = fma(sum, bounded_power_of_two(highest - top), part);
        highest = top;
        reach = smallest(highest) - NEGLIGIBLE<T>;
    };
    // The most promising block first: it shows what the others must come to.
    const int64_t first = std::max_element(bound.begin(), bound.end()) - bound.begin();
    visit(first);
    for (int64_t n = 0; n < int64_t(bound.size()); n++)
        if (n != first && bound[n] >= reach) visit(n);
    T top[LANES], sums[LANES];
    highest.store(top);
    sum.store(sums);
    for (int i = 0; i < LANES; i++) result[i] = top[i] + std::log2(double(sums[i]));
}

template <class T, int D> struct Pulled {
    Pack<T> mass, pull[D];
};

// Σ_j w_j P_ij and Σ_j w_j P_ij ∂C_ij/∂x_i with P_ij = exp(a_i + b_j - C_ij/ε) for the sixteen rows of a block.
template <class T, int D, int POWER>
Pulled<T, D> pulled(const Block<T, D>& rows, T highest, const Box<T, D>& box, const Blocks<T, D>& y, const T* w,
                    double eps) {
    const Exponents<T, D, POWER> exponents(eps);
    const std::vector<T> bound = exponents.highest(box, y);
    const Pack<T> zero = Pack<T>::all(T(0)), a = Pack<T>::load(rows.h);
    const Pack<T> smallest = Pack<T>::all(T(1e-37));  // keeps the division from 0 / 0
    Pack<T> x[D];
    for (int k = 0; k < D; k++) x[k] = Pack<T>::load(rows.c[k]);
    Pulled<T, D> result{zero, {}};
    for (Pack<T>& p : result.pull) p = zero;
    for (int64_t n = 0; n < int64_t(bound.size()); n++) {
        if (!(bound[n] + highest >= -NEGLIGIBLE<T>)) continue;
        const Block<T, D>& block = y.blocks[n];
        Pulled<T, D> part{zero, {}};
        for (Pack<T>& p : part.pull) p = zero;
        for (int j = 0; j < y.count(n); j++) {
            Pack<T> d[D];
            const Pack<T> d2 = differences<T, D>(x, block, j, d);
            const Pack<T> P = bounded_power_of_two(exponents.of(d2, block.h[j]) + a);
            Pack<T> weight = P * Pack<T>::all(w[n * LANES + j]);
            part.mass = part.mass + weight;
            if (POWER == 1) weight = weight / root(most(d2, smallest));
            for (int k = 0; k < D; k++) part.pull[k] = fma(weight, d[k], part.pull[k]);
        }
        result.mass = result.mass + part.mass;
        for (int k = 0; k < D; k++) result.pull[k] = result.pull[k] + part.pull[k];
    }
    return result;
}

template <class F> void for_power(int64_t power, F&& body) {
    if (power == 1) body(std::integral_constant<int, 1>());
    else body(std::integral_constant<int, 2>());
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// Rows that belong to no cloud are left as they are.
PCGEN_EXPORT int pcgen_softmin(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans, const void* y,
                               const Span* y_spans, const void* h, const double* eps, int64_t batch, int64_t power,
                               void* out, int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            for (int64_t b = 0; b < batch; b++) {
                const Blocks<T, D> left((const T*)x + x_spans[b].start * D, nullptr, 0, x_spans[b].count);
                const Blocks<T, D> right((const T*)y + y_spans[b].start * D, (const T*)h + y_spans[b].start, LOG2_E,
                                         y_spans[b].count);
                T* to = (T*)out + x_spans[b].start;
                if (!left.finite || !right.finite) {
                    std::fill_n(to, left.size, std::numeric_limits<T>::quiet_NaN());
                    continue;
                }
                parallel_for(left.blocks.size(), threads, 4, [&](int64_t n) {
                    double sums[LANES];
                    for_power(power, [&](auto p) {
                        log_sum<T, D, decltype(p)::value>(left.blocks[n], left.box(n), right, eps[b], sums);
                    });
                    for (int i = 0; i < left.count(n); i++) to[n * LANES + i] = T(-eps[b] / LOG2_E * sums[i]);
                });
            }
        });
    });
}

PCGEN_EXPORT int pcgen_softmin_pull(int64_t is_double, int64_t dimension, const void* x, const Span* x_spans,
                                    const void* a, const void* y, const Span* y_spans, const void* h, const void* w,
                                    const double* eps, int64_t batch, int64_t power, void* mass, void* pull,
                                    int64_t threads) {
    return guarded([&] {
        for_type_and_dimension(is_double, dimension, [&](auto zero, auto dim) {
            using T = decltype(zero);
            constexpr int D = decltype(dim)::value;
            for (int64_t b = 0; b < batch; b++) {
                const int64_t start = x_spans[b].start, from = y_spans[b].start;
                const Blocks<T, D> left((const T*)x + start * D, (const T*)a + start, LOG2_E, x_spans[b].count);
                const Blocks<T, D> right((const T*)y + from * D, (const T*)h + from, LOG2_E, y_spans[b].count);
                if (!left.finite || !right.finite) {
                    std::fill_n((T*)mass + start, left.size, std::numeric_limits<T>::quiet_NaN());
                    std::fill_n((T*)pull + start * D, left.size * D, std::numeric_limits<T>::quiet_NaN());
                    continue;
                }
                parallel_for(left.blocks.size(), threads, 4, [&](int64_t n) {
                    Pulled<T, D> sums;
                    for_power(power, [&](auto p) {
                        sums = pulled<T, D, decltype(p)::value>(left.blocks[n], left.highest[n], left.box(n), right,
                                                                (const T*)w + from, eps[b]);
                    });
                    T lanes[LANES];
                    sums.mass.store(lanes);
                    std::copy_n(lanes, left.count(n), (T*)mass + start + n * LANES);
                    for (int k = 0; k < D; k++) {
                        sums.pull[k].store(lanes);
                        for (int i = 0; i < left.count(n); i++)
                            ((T*)pull)[(start + n * LANES + i) * D + k] = lanes[i];
                    }
                });
            }
        });
    });
}
