// Sums, maxima and softmax over the rows of each segment: pcgen/ops/reference/segments.py says what they are.
//
// Rows are read once, in their order, whatever the order of the segments: each is added to its segment's sum, in
// double precision. That is the order of the definition, and no sorting is needed. Threads share out the columns, so
// that no two meet in a sum, none waits for a large segment, and the result does not depend on their number.
#include "parallel.h"
#include "simd.h"

namespace pcgen {
namespace {

struct Table {
    const int64_t* segments;  // (rows,); a row belongs to none unless 0 <= segment < count
    int64_t rows, columns, count;

    bool holds(int64_t segment) const { return uint64_t(segment) < uint64_t(count); }
};

// Calls work(first column, number of columns) for strips of at least sixteen columns, one for each thread.
template <class F> void for_strips(int64_t columns, int64_t threads, F&& work) {
    const int64_t blocks = (columns + LANES - 1) / LANES;
    const int64_t strips = std::max<int64_t>(1, std::min(threads, blocks));
    const int64_t width = (blocks + strips - 1) / strips * LANES;
    parallel_for(strips, threads, 1, [&](int64_t strip) {
        const int64_t first = std::min(columns, strip * width);
        work(first, std::min(width, columns - first));
    });
}

// A single column: the sum stays in a register as long as rows of one segment follow each other.
template <class T> void sum_column(const Table& t, const T* values, double* sums) {
    int64_t current = -1;
    double sum = 0;
    for (int64_t i = 0; i < t.rows; i++) {
        if (t.segments[i] != current) {
            if (t.holds(current)) sums[current] = sum;
            current = t.segments[i];
            sum = t.holds(current) ? sums[current] : 0;
        }
        sum += values[i];
    }
    if (t.holds(current)) sums[current] = sum;
}

template <class T> void sum_strip(const Table& t, const T* values, int64_t first, int64_t width, double* sums) {
    for (int64_t i = 0; i < t.rows; i++) {
        if (!t.holds(t.segments[i])) continue;
        const T* __restrict row = values + i * t.columns + first;
        double* __restrict sum = sums + t.segments[i] * t.columns + first;
        for (int64_t c = 0; c < width; c++) sum[c] += row[c];
    }
}

std::vector<int64_t> sizes_of(const Table& t) {
    std::vector<int64_t> sizes(t.count);
    for (int64_t i = 0; i < t.rows; i++)
        if (t.holds(t.segments[i])) sizes[t.segments[i]]++;
    return sizes;
}

template <class T> void sum(const Table& t, const T* values, bool mean, T* out, int64_t threads) {
    std::vector<double> sums(t.count * t.columns);
    for_strips(t.columns, threads, [&](int64_t first, int64_t width) {
        if (t.columns == 1) sum_column(t, values, sums.data());
        else sum_strip(t, values, first, width, sums.data());
    });
    const std::vector<int64_t> sizes = mean ? sizes_of(t) : std::vector<int64_t>();
    for (int64_t s = 0; s < t.count; s++) {
        const double size = mean ? std::max<int64_t>(1, sizes[s]) : 1;
        for (int64_t c = 0; c < t.columns; c++) out[s * t.columns + c] = T(sums[s * t.columns + c] / size);
    }
}

// Whether `value`, of a later row, takes the place of the maximum so far: it is larger, or the first NaN.
template <class T> bool exceeds(T value, T best) { return !(value <= best) && best == best; }
template <class T> uint32_t exceeds(Pack<T> value, Pack<T> best) { return equal(best, best) & ~at_most(value, best); }

template <class T>
void max_strip(const Table& t, const T* values, int64_t first, int64_t width, T* out, int64_t* argmax) {
    for (int64_t i = 0; i < t.rows; i++) {
        if (!t.holds(t.segments[i]) || !width) continue;
        const T* row = values + i * t.columns + first;
        T* best = out + t.segments[i] * t.columns + first;
        int64_t* index = argmax + t.segments[i] * t.columns + first;
        if (index[0] < 0) {  // the first row of its segment
            std::copy_n(row, width, best);
            std::fill_n(index, width, i);
            continue;
        }
        int64_t c = 0;
        for (; c + LANES <= width; c += LANES)
            for_each_bit(exceeds(Pack<T>::load(row + c), Pack<T>::load(best + c)), [&](int lane) {
                best[c + lane] = row[c + lane];
                index[c + lane] = i;
            });
        for (; c < width; c++)
            if (exceeds(row[c], best[c])) best[c] = row[c], index[c] = i;
    }
}

constexpr double INVERSE_FACTORIALS[] = {1,          1.0 / 1,      1.0 / 2,       1.0 / 6,        1.0 / 24,
                                         1.0 / 120,  1.0 / 720,    1.0 / 5040,    1.0 / 40320,    1.0 / 362880,
                                         1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

// e^x for x <= 0 or NaN; 0 below 1e-307. By plain products and sums, in double precision, without a branch: compilers
// turn it into vectors, and every instruction set gives the same bits. Powers of two, and Taylor's series within half
// of one: relative error 2e-10 (float), 1e-16 (double).
template <class T> void exponentials(double* x, int64_t n) {
    constexpr int DEGREE = std::is_same<T, float>::value ? 8 : 13;
    constexpr double LOWEST = -708, LOG2_E = 0x1.71547652b82fep0, LN2_HIGH = 0x1.62e42fefap-1,
                     LN2_LOW = 0x1.cf79abc9e3b39p-40;
    constexpr double ROUND = 0x1.8p52;  // once added, what it leaves is an integer, in the lowest bits
    for (int64_t i = 0; i < n; i++) {
        const double inside = x[i] < LOWEST ? LOWEST : x[i];
        const double shifted = inside * LOG2_E + ROUND, power = shifted - ROUND;
        const double r = (inside - power * LN2_HIGH) - power * LN2_LOW;
        double series = INVERSE_FACTORIALS[DEGREE];
#pragma GCC unroll 16
        for (int k = DEGREE - 1; k >= 0; k--) series = INVERSE_FACTORIALS[k] + series * r;
        uint64_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 1023) << 52;
        double scale;
        std::memcpy(&scale, &bits, sizeof scale);
        x[i] = x[i] < LOWEST ? 0 : series * scale;
    }
}

// `peaks` has the maxima of the strip; `sums` is filled here.
template <class T>
void softmax_strip(const Table& t, const T* values, int64_t first, int64_t width, const T* peaks, double* sums, T* out) {
    const int64_t step = std::max<int64_t>(1, 512 / std::max<int64_t>(1, width));
    std::vector<double> block(step * width);
    for (int64_t begin = 0; begin < t.rows; begin += step) {
        const int64_t end = std::min(t.rows, begin + step);
        // Calls visit(row, its segment, its part of the block) for the rows in a segment.
        auto each = [&](auto&& visit) {
            for (int64_t i = begin; i < end; i++)
                if (t.holds(t.segments[i]))
                    visit(i * t.columns + first, t.segments[i] * t.columns + first, block.data() + (i - begin) * width);
        };
        each([&](int64_t row, int64_t segment, double* part) {
            for (int64_t c = 0; c < width; c++) part[c] = double(values[row + c]) - double(peaks[segment + c]);
        });
        exponentials<T>(block.data(), (end - begin) * width);
        each([&](int64_t row, int64_t segment, double* part) {
            for (int64_t c = 0; c < width; c++) sums[segment + c] += part[c], out[row + c] = T(part[c]);
        });
    }
    for (int64_t i = 0; i < t.rows; i++) {
        T* __restrict part = out + i * t.columns + first;
        if (!t.holds(t.segments[i])) {
            std::fill_n(part, width, T(0));
            continue;
        }
        const double* __restrict sum = sums + t.segments[i] * t.columns + first;
        for (int64_t c = 0; c < width; c++) part[c] = T(part[c] / sum[c]);
    }
}

template <class T> void softmax(const Table& t, const T* values, T* out, int64_t threads) {
    std::vector<T> peaks(t.count * t.columns);
    std::vector<int64_t> argmax(t.count * t.columns, -1);
    std::vector<double> sums(t.count * t.columns);
    for_strips(t.columns, threads, [&](int64_t first, int64_t width) {
        max_strip(t, values, first, width, peaks.data(), argmax.data());
        softmax_strip(t, values, first, width, peaks.data(), sums.data(), out);
    });
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

PCGEN_EXPORT int pcgen_segment_sum(int64_t is_double, const int64_t* segments, const void* values, int64_t rows,
                                   int64_t columns, int64_t count, int64_t mean, void* out, int64_t threads) {
    return guarded([&] {
        const Table table{segments, rows, columns, count};
        if (is_double) sum(table, (const double*)values, mean, (double*)out, threads);
        else sum(table, (const float*)values, mean, (float*)out, threads);
    });
}

// `out` and `argmax` come filled with what empty segments have, 0 and -1.
PCGEN_EXPORT int pcgen_segment_max(int64_t is_double, const int64_t* segments, const void* values, int64_t rows,
                                   int64_t columns, int64_t count, void* out, int64_t* argmax, int64_t threads) {
    return guarded([&] {
        const Table table{segments, rows, columns, count};
        for_strips(columns, threads, [&](int64_t first, int64_t width) {
            if (is_double) max_strip(table, (const double*)values, first, width, (double*)out, argmax);
            else max_strip(table, (const float*)values, first, width, (float*)out, argmax);
        });
    });
}

PCGEN_EXPORT int pcgen_segment_softmax(int64_t is_double, const int64_t* segments, const void* values, int64_t rows,
                                       int64_t columns, int64_t count, void* out, int64_t threads) {
    return guarded([&] {
        const Table table{segments, rows, columns, count};
        if (is_double) softmax(table, (const double*)values, (double*)out, threads);
        else softmax(table, (const float*)values, (float*)out, threads);
    });
}
