// The matrix of Chamfer distances: one block for each pair of clouds, every distance computed once for both directions.
//
// A thread keeps the smallest distances of its points of x in registers; those of the points of y are the minimum over
// a warp, and go to shared memory. Minima do not depend on their order, and sums are taken in a fixed one.
#include "device.h"

namespace pcgen {

constexpr int THREADS = 256, WARP = 32, TILE = 256;
constexpr int COLUMNS = 4096;  // points of y at most; pcgen/ops/gpu_distances.py knows
template <class T> constexpr int ROWS = sizeof(T) == 4 ? 8 : 4;  // points of x of a thread, THREADS apart

__device__ inline unsigned warp_least(unsigned x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_min_sync(ALL, x);
#else
    for (int step = WARP / 2; step; step /= 2) x = min(x, __shfl_xor_sync(ALL, x, step));
    return x;
#endif
}
__device__ inline uint64 warp_least(uint64 x) {
    for (int step = WARP / 2; step; step /= 2) x = min(x, uint64(__shfl_xor_sync(ALL, x, step)));
    return x;
}

template <class T> __device__ inline double length(T square, int64 squared) { return squared ? square : root(square); }

template <class T, int D>
__device__ double chamfer(const T* x, int64 n, const T* y, int64 m, int64 squared) {
    constexpr int Q = ROWS<T>;
    __shared__ Point<T, D> tile[TILE];
    __shared__ Bits<T> column[COLUMNS];
    const int lane = threadIdx.x % WARP;
    const Point<T, D> nowhere = Point<T, D>::all(infinity(T()));
    for (int64 j = threadIdx.x; j < m; j += THREADS) column[j] = bits(infinity(T()));
    double sum = 0;  // over the rows of this thread
    for (int64 mine = threadIdx.x; mine - threadIdx.x < n; mine += THREADS * Q) {
        Point<T, D> row[Q];
        T best[Q];
        for (int q = 0; q < Q; q++) {
            row[q] = mine + q * THREADS < n ? Point<T, D>::load(x, mine + q * THREADS) : nowhere;
            best[q] = infinity(T());
        }
        for (int64 begin = 0; begin < m; begin += TILE) {
            __syncthreads();
            for (int j = threadIdx.x; j < TILE; j += THREADS)
                tile[j] = begin + j < m ? Point<T, D>::load(y, begin + j) : nowhere;
            __syncthreads();
            for (int c = 0; c < TILE && begin + c < m; c += WARP) {
                Bits<T> of_lane = 0;  // the minimum of column c + lane over this warp
#pragma unroll 4
                for (int j = 0; j < WARP; j++) {
                    const Point<T, D> point = tile[c + j];
                    T here = infinity(T());
#pragma unroll
                    for (int q = 0; q < Q; q++) {
                        const T d = squared_distance<D>(row[q].c, point.c);
                        best[q] = least(best[q], d);
                        here = least(here, d);
                    }
                    const Bits<T> all = warp_least(bits(here));
                    if (lane == j) of_lane = all;
                }
                if (begin + c + lane < m) atomicMin(&column[begin + c + lane], of_lane);
            }
        }
        for (int q = 0; q < Q; q++)
            if (mine + q * THREADS < n) sum += length(best[q], squared);
    }
    __syncthreads();
    double back = 0;
    for (int64 j = threadIdx.x; j < m; j += THREADS) back += length(number(column[j]), squared);
    return block_sum<THREADS>(sum) / n + block_sum<THREADS>(back) / m;
}

template <class T, int D>
__device__ void chamfer_matrix(const T* x, const Span* x_spans, const int* x_bad, const T* y, const Span* y_spans,
                               const int* y_bad, int64 R, int64 squared, int64 symmetric, double* out) {
    const int64 s = blockIdx.x / R, r = blockIdx.x % R;
    if (symmetric && r < s) return;
    const Span a = x_spans[s], b = y_spans[r];
    double value = chamfer<T, D>(x + a.start * D, a.count, y + b.start * D, b.count, squared);
    if (threadIdx.x) return;
    if (x_bad[s] || y_bad[r]) value = not_a_number(double());
    out[s * R + r] = value;
    if (symmetric) out[r * R + s] = value;
}

}  // namespace pcgen
using namespace pcgen;

#define CHAMFER_MATRIX(T, D)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 3)                                                           \
        chamfer_matrix_##T##_##D(const T* x, const Span* x_spans, const int* x_bad, const T* y, const Span* y_spans,  \
                                 const int* y_bad, int64 R, int64 squared, int64 symmetric, double* out) {            \
        chamfer_matrix<T, D>(x, x_spans, x_bad, y, y_spans, y_bad, R, squared, symmetric, out);                       \
    }
FOR_TYPES_AND_DIMENSIONS(CHAMFER_MATRIX)
