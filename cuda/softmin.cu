// The soft minimum of Sinkhorn's iterations and its gradient: pcgen/ops/reference/sinkhorn.py says what they are.
//
// Exponents are kept in powers of two. A thread keeps the largest exponent so far and the sum relative to it.
#include "device.h"

namespace pcgen {

constexpr int THREADS = 128, TILE = 256;
constexpr int ROWS = 2;  // of a thread, THREADS apart
constexpr int CHUNK = 8;

// C · p = |x - y|^p from the squared distance.
template <int POWER, class T> __device__ inline T cost(T square) { return POWER == 1 ? root(square) : square; }

// A block's rows of x and the cloud that they meet.
struct Meeting {
    int64 b, begin;  // the pair, and the first row of this thread
    Span own, other;

    __device__ Meeting(const Span* x_spans, const int64* first, int64 batch, const Span* y_spans) {
        b = cloud_of_block(first, batch, blockIdx.x);
        if (b < 0) return;
        own = x_spans[b], other = y_spans[b];
        begin = (blockIdx.x - first[b]) * THREADS * ROWS + threadIdx.x;
    }
};

template <class T, int D, int POWER>
__device__ void softmin(const T* x, const T* y, const T* h, double eps, const Meeting& meeting, int bad, T* out) {
    __shared__ Point<T, D + 1> tile[TILE];  // with h in powers of two
    const Span own = meeting.own, other = meeting.other;
    const T factor = T(-LOG2_E / (POWER * eps));
    Point<T, D> point[ROWS];
    T highest[ROWS], sum[ROWS];
    for (int q = 0; q < ROWS; q++) {
        point[q] = Point<T, D>::load(x, own.start + min(meeting.begin + q * THREADS, own.count - 1));
        highest[q] = -infinity(T()), sum[q] = 0;
    }
    for (int64 begin = 0; begin < other.count; begin += TILE) {
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS) {
            const int64 at = other.start + min(begin + j, other.count - 1);
            for (int k = 0; k < D; k++) tile[j].c[k] = y[at * D + k];
            tile[j].c[D] = begin + j < other.count ? T(h[at] * LOG2_E) : -infinity(T());
        }
        __syncthreads();
        for (int c = 0; c < TILE && begin + c < other.count; c += CHUNK) {
            T exponent[ROWS][CHUNK], top[ROWS];
            for (int q = 0; q < ROWS; q++) top[q] = highest[q];
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                const Point<T, D + 1> target = tile[c + j];
#pragma unroll
                for (int q = 0; q < ROWS; q++) {
                    const T square = squared_distance<D>(point[q].c, target.c);
                    exponent[q][j] = fused(cost<POWER>(square), factor, target.c[D]);
                    top[q] = most(top[q], exponent[q][j]);
                }
            }
#pragma unroll
            for (int q = 0; q < ROWS; q++) {
                T part = 0;
#pragma unroll
                for (int j = 0; j < CHUNK; j++) part += power_of_two(exponent[q][j] - top[q]);
                sum[q] = fused(sum[q], power_of_two(highest[q] - top[q]), part);
                highest[q] = top[q];
            }
        }
    }
    for (int q = 0; q < ROWS; q++) {
        if (meeting.begin + q * THREADS >= own.count) break;
        const double value = -eps / LOG2_E * (highest[q] + log2(double(sum[q])));
        out[own.start + meeting.begin + q * THREADS] = bad ? not_a_number(T()) : T(value);
    }
}

template <class T, int D, int POWER>
__device__ void softmin_pull(const T* x, const T* a, const T* y, const T* h, const T* w, double eps,
                             const Meeting& meeting, int bad, T* mass, T* pull) {
    __shared__ Point<T, D + 2> tile[TILE];  // with h in powers of two, and w
    const Span own = meeting.own, other = meeting.other;
    const T factor = T(-LOG2_E / (POWER * eps));
    Point<T, D + 1> point[ROWS];  // with a in powers of two
    double sum[ROWS][D + 1];      // of the pull, and of the mass
    for (int q = 0; q < ROWS; q++) {
        const int64 row = own.start + min(meeting.begin + q * THREADS, own.count - 1);
        for (int k = 0; k < D; k++) point[q].c[k] = x[row * D + k];
        point[q].c[D] = T(a[row] * LOG2_E);
        for (double& s : sum[q]) s = 0;
    }
    for (int64 begin = 0; begin < other.count; begin += TILE) {
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS) {
            const int64 at = other.start + min(begin + j, other.count - 1);
            for (int k = 0; k < D; k++) tile[j].c[k] = y[at * D + k];
            tile[j].c[D] = T(h[at] * LOG2_E);
            tile[j].c[D + 1] = begin + j < other.count ? w[at] : T(0);
        }
        __syncthreads();
        for (int c = 0; c < TILE && begin + c < other.count; c += CHUNK) {
            T part[ROWS][D + 1];
            for (int q = 0; q < ROWS; q++)
                for (T& p : part[q]) p = 0;
#pragma unroll 2
            for (int j = 0; j < CHUNK; j++) {
                const Point<T, D + 2> target = tile[c + j];
#pragma unroll
                for (int q = 0; q < ROWS; q++) {
                    const T square = squared_distance<D>(point[q].c, target.c);
                    const T exponent = fused(cost<POWER>(square), factor, target.c[D]) + point[q].c[D];
                    const T weight = power_of_two(exponent) * target.c[D + 1];
                    part[q][D] += weight;
                    // The derivative of a distance is (x - y) / d, 0 where two points coincide.
                    const T slope = POWER == 2 ? weight : square > 0 ? weight / root(square) : T(0);
                    for (int k = 0; k < D; k++) part[q][k] = fused(slope, point[q].c[k] - target.c[k], part[q][k]);
                }
            }
            for (int q = 0; q < ROWS; q++)
                for (int k = 0; k <= D; k++) sum[q][k] += part[q][k];
        }
    }
    for (int q = 0; q < ROWS; q++) {
        const int64 row = own.start + meeting.begin + q * THREADS;
        if (meeting.begin + q * THREADS >= own.count) break;
        for (int k = 0; k < D; k++) pull[row * D + k] = bad ? not_a_number(T()) : T(sum[q][k]);
        mass[row] = bad ? not_a_number(T()) : T(sum[q][D]);
    }
}

}  // namespace pcgen
using namespace pcgen;

#define SOFTMIN(T, D)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmin_##T##_##D(const T* x, const Span* x_spans, const int* bad, const int64* first, int64 batch,           \
                          const T* y, const Span* y_spans, const T* h, const double* eps, int64 power, T* out) {      \
        const Meeting meeting(x_spans, first, batch, y_spans);                                                        \
        if (meeting.b < 0) return;                                                                                    \
        if (power == 1) softmin<T, D, 1>(x, y, h, eps[meeting.b], meeting, bad[meeting.b], out);                      \
        else softmin<T, D, 2>(x, y, h, eps[meeting.b], meeting, bad[meeting.b], out);                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        softmin_pull_##T##_##D(const T* x, const Span* x_spans, const int* bad, const int64* first, int64 batch,      \
                               const T* a, const T* y, const Span* y_spans, const T* h, const T* w,                   \
                               const double* eps, int64 power, T* mass, T* pull) {                                    \
        const Meeting meeting(x_spans, first, batch, y_spans);                                                        \
        if (meeting.b < 0) return;                                                                                    \
        if (power == 1) softmin_pull<T, D, 1>(x, a, y, h, w, eps[meeting.b], meeting, bad[meeting.b], mass, pull);    \
        else softmin_pull<T, D, 2>(x, a, y, h, w, eps[meeting.b], meeting, bad[meeting.b], mass, pull);               \
    }
FOR_TYPES_AND_DIMENSIONS(SOFTMIN)
