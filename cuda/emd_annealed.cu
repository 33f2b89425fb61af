// The annealed earth mover's distances: pcgen/ops/reference/annealed.py says what they are.
//
// Every sum over the other cloud is a launch of its own, for all pairs of clouds at once. In a matrix of pairs (s, r)
// the numbers of cloud s of x are kept for each r, (R, rows of x), and those of y for each s; in a batch, where cloud b
// meets cloud b, once. "Own" is the cloud whose points a launch asks, "other" the one that its sums run over.
#include "device.h"

namespace pcgen {

constexpr int THREADS = 128, TILE = 256, CHUNK = 32;
constexpr int LEVELS = 9;  // and a tenth, level 0, where costs are squared
template <class T> constexpr int ROWS = sizeof(T) == 4 ? 4 : 2;     // of a thread, THREADS apart
template <class T> constexpr int PLAN_ROWS = sizeof(T) == 4 ? 2 : 1;  // the same where all levels are kept at once

// λ of a level, in powers of two: exp(λ d²) = 2^(exponent · d²).
__device__ inline double exponent(int level) {
    double power = 16384 * LOG2_E;  // 4^7
    for (int i = 0; i < level; i++) power /= 4;
    return level < LEVELS ? -power : 0;
}

// One side of the pairs.
template <class T> struct Side {
    const T* points;
    const Span* spans;
    const int* bad;  // clouds with coordinates that are not finite
    int64 rows;
};

// Which rows a block asks, and of which pair.
struct Pair {
    int64 own, other;          // clouds
    Span own_span, other_span;
    int64 own_at, other_at;    // where their numbers begin
    int64 begin;               // the first point of this block

    template <class T>
    __device__ Pair(const Side<T>& mine, const int64* first, int64 batch, const Side<T>& theirs, int64 matrix,
                    int rows) {
        own = cloud_of_block(first, batch, blockIdx.x);
        if (own < 0) return;
        other = matrix ? blockIdx.y : own;
        own_span = mine.spans[own], other_span = theirs.spans[other];
        own_at = blockIdx.y * mine.rows + own_span.start;
        other_at = (matrix ? own * theirs.rows : 0) + other_span.start;
        begin = (blockIdx.x - first[own]) * THREADS * rows;
    }
};

// What becomes of S = Σ_j K(i, j) w_j over the other cloud. Masses are float64: what remains of one is often the small
// difference of large numbers.
//   GIVE: w are the masses; ratio = mass / (1e-9 + S), what a left point gives per unit that is asked of it;
//   TAKE: w are the ratios; S · mass is offered to a right point, which takes what it can and asks less from now on;
//   SPEND: w are the ratios; a left point has given ratio · S.
enum Step { GIVE, TAKE, SPEND };

template <class T, int D>
__device__ void pass(Side<T> own, const int64* first, int64 batch, Side<T> other, int64 matrix, int64 level, int64 step,
                     const T* ratios, const double* masses, double* mass, T* ratio) {
    constexpr int Q = ROWS<T>;
    __shared__ Point<T, D + 1> tile[TILE];
    const Pair pair(own, first, batch, other, matrix, Q);
    if (pair.own < 0) return;
    const int64 n = pair.own_span.count, m = pair.other_span.count, mine = pair.begin + threadIdx.x;
    Point<T, D> point[Q];
    double sum[Q];
    for (int q = 0; q < Q; q++) {
        point[q] = Point<T, D>::load(own.points, pair.own_span.start + min(mine + q * THREADS, n - 1));
        sum[q] = 0;
    }
    const T power = T(exponent(level));
    for (int64 begin = 0; begin < m; begin += TILE) {
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS) {
            const int64 at = min(begin + j, m - 1);
            for (int k = 0; k < D; k++) tile[j].c[k] = other.points[(pair.other_span.start + at) * D + k];
            const T weight = step == GIVE ? T(masses[pair.other_at + at]) : ratios[pair.other_at + at];
            tile[j].c[D] = begin + j < m ? weight : T(0);
        }
        __syncthreads();
        for (int c = 0; c < TILE && begin + c < m; c += CHUNK) {
            T part[Q];
            for (int q = 0; q < Q; q++) part[q] = 0;
#pragma unroll 4
            for (int j = 0; j < CHUNK; j++) {
                const Point<T, D + 1> target = tile[c + j];
#pragma unroll
                for (int q = 0; q < Q; q++) {
                    const T K = power_of_two(power * squared_distance<D>(point[q].c, target.c));
                    part[q] = fused(K, target.c[D], part[q]);
                }
            }
            for (int q = 0; q < Q; q++) sum[q] += part[q];
        }
    }
    const bool bad = own.bad[pair.own] || other.bad[pair.other];
    for (int q = 0; q < Q; q++) {
        if (mine + q * THREADS >= n) break;
        const int64 i = pair.own_at + mine + q * THREADS;
        const double all = mass[i];
        if (step == GIVE) {
            ratio[i] = bad ? not_a_number(T()) : T(all / (1e-9 + sum[q]));
        } else if (step == TAKE) {
            const double offer = sum[q] * all;
            ratio[i] = bad ? not_a_number(T()) : T(least(all / (offer + 1e-9), 1.0) * all);
            mass[i] = most(0.0, all - offer);
        } else {
            mass[i] = most(0.0, all - ratio[i] * sum[q]);
        }
    }
}

// The plan Σ_levels own ratio · K · other ratio, row by row: its cost and mass, or where PULL the derivatives of the
// cost by the points, times `gradient` and over the number of points of x.
template <class T, int D, bool PULL>
__device__ void plan(Side<T> own, const int64* first, int64 batch, Side<T> other, int64 matrix, int64 squared,
                     int64 own_stride, const T* own_ratio, int64 other_stride, const T* other_ratio, double* cost,
                     double* mass, const double* gradient, const Span* x_spans, T* pull) {
    constexpr int Q = PLAN_ROWS<T>, SUMS = PULL ? D : 2;
    __shared__ Point<T, D> tile[TILE];
    __shared__ T ratio[LEVELS + 1][TILE];
    const Pair pair(own, first, batch, other, matrix, Q);
    if (pair.own < 0) return;
    const int64 n = pair.own_span.count, m = pair.other_span.count, mine = pair.begin + threadIdx.x;
    const int levels = LEVELS + (squared ? 1 : 0);
    Point<T, D> point[Q];
    T power[LEVELS], give[Q][LEVELS + 1];
    double sum[Q][SUMS];
    power[0] = T(exponent(0));
#pragma unroll
    for (int l = 1; l < LEVELS; l++) power[l] = power[l - 1] / 4;
    for (int q = 0; q < Q; q++) {
        const int64 i = min(mine + q * THREADS, n - 1);
        point[q] = Point<T, D>::load(own.points, pair.own_span.start + i);
#pragma unroll
        for (int l = 0; l <= LEVELS; l++) give[q][l] = l < levels ? own_ratio[l * own_stride + pair.own_at + i] : T(0);
        for (double& s : sum[q]) s = 0;
    }
    for (int64 begin = 0; begin < m; begin += TILE) {
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS) {
            const int64 at = min(begin + j, m - 1);
            tile[j] = Point<T, D>::load(other.points, pair.other_span.start + at);
            for (int l = 0; l <= LEVELS; l++)
                ratio[l][j] = l < levels && begin + j < m ? other_ratio[l * other_stride + pair.other_at + at] : 0;
        }
        __syncthreads();
        for (int c = 0; c < TILE && begin + c < m; c += CHUNK) {
            T part[Q][SUMS];
            for (int q = 0; q < Q; q++)
                for (T& p : part[q]) p = 0;
            for (int j = c; j < c + CHUNK; j++) {
                const Point<T, D> target = tile[j];
                for (int q = 0; q < Q; q++) {
                    const T square = squared_distance<D>(point[q].c, target.c);
                    T moved = give[q][LEVELS] * ratio[LEVELS][j];
#pragma unroll
                    for (int l = 0; l < LEVELS; l++)
                        moved = fused(give[q][l] * power_of_two(power[l] * square), ratio[l][j], moved);
                    if (PULL) {
                        // The derivative of a distance is (x - y) / d, 0 where two points coincide.
                        const T slope = squared ? 2 * moved : square == 0 ? T(0) : moved / root(square);
                        for (int k = 0; k < D; k++)
                            part[q][k] = fused(slope, point[q].c[k] - target.c[k], part[q][k]);
                    } else {
                        part[q][0] = fused(moved, squared ? square : root(square), part[q][0]);
                        part[q][1] += moved;
                    }
                }
            }
            for (int q = 0; q < Q; q++)
                for (int k = 0; k < SUMS; k++) sum[q][k] += part[q][k];
        }
    }
    for (int q = 0; q < Q; q++) {
        const int64 i = mine + q * THREADS;
        if (i >= n) break;
        if (PULL) {
            const double scale = gradient[pair.own] / x_spans[pair.own].count;
            for (int k = 0; k < D; k++) pull[(pair.own_at + i) * D + k] = T(scale * sum[q][k]);
        } else {
            cost[pair.own_at + i] = sum[q][0], mass[pair.own_at + i] = sum[q][1];
        }
    }
}

// Cost per point of x and share of its mass that is moved, one block for each pair.
__device__ void totals(const Span* x_spans, int64 x_rows, const int* x_bad, const Span* y_spans, const int* y_bad,
                       int64 matrix, const double* cost, const double* mass, double* value, double* moved) {
    const int64 s = blockIdx.x, r = matrix ? blockIdx.y : s, n = x_spans[s].count, m = y_spans[r].count;
    const int64 at = blockIdx.y * x_rows + x_spans[s].start;
    double costs = 0, masses = 0;
    for (int64 i = threadIdx.x; i < n; i += THREADS) costs += cost[at + i], masses += mass[at + i];
    costs = block_sum<THREADS>(costs);
    masses = block_sum<THREADS>(masses);
    if (threadIdx.x) return;
    const bool bad = x_bad[s] || y_bad[r];
    const int64 pair = matrix ? s * gridDim.y + r : s;
    value[pair] = bad ? not_a_number(double()) : costs / n;
    moved[pair] = bad ? not_a_number(double()) : masses / (n * max(int64(1), m / n));
}

}  // namespace pcgen
using namespace pcgen;

#define SIDES(T)                                                                                                      \
    const T *own, const Span *own_spans, const int *own_bad, int64 own_rows, const int64 *first, int64 batch,         \
        const T *other, const Span *other_spans, const int *other_bad, int64 other_rows, int64 matrix
#define GIVEN_SIDES(T)                                                                                                \
    Side<T>{own, own_spans, own_bad, own_rows}, first, batch, Side<T>{other, other_spans, other_bad, other_rows}, matrix

#define ANNEALED(T, D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        pass_##T##_##D(SIDES(T), int64 level, int64 step, const T* ratios, const double* masses, double* mass,        \
                       T* ratio) {                                                                                    \
        pass<T, D>(GIVEN_SIDES(T), level, step, ratios, masses, mass, ratio);                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 6)                                                          \
        plan_##T##_##D(SIDES(T), int64 squared, int64 own_stride, const T* own_ratio, int64 other_stride,             \
                       const T* other_ratio, double* cost, double* mass) {                                            \
        plan<T, D, false>(GIVEN_SIDES(T), squared, own_stride, own_ratio, other_stride, other_ratio, cost, mass,      \
                          nullptr, nullptr, nullptr);                                                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                          \
        pull_##T##_##D(SIDES(T), int64 squared, int64 own_stride, const T* own_ratio, int64 other_stride,             \
                       const T* other_ratio, const double* gradient, const Span* x_spans, T* pull) {                  \
        plan<T, D, true>(GIVEN_SIDES(T), squared, own_stride, own_ratio, other_stride, other_ratio, nullptr, nullptr, \
                         gradient, x_spans, pull);                                                                    \
    }
FOR_TYPES_AND_DIMENSIONS(ANNEALED)

extern "C" __global__ void __launch_bounds__(THREADS)
    annealed_totals(const Span* x_spans, int64 x_rows, const int* x_bad, const Span* y_spans, const int* y_bad,
                    int64 matrix, const double* cost, const double* mass, double* value, double* moved) {
    totals(x_spans, x_rows, x_bad, y_spans, y_bad, matrix, cost, mass, value, moved);
}
