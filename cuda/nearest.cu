// Nearest neighbours by brute force: every query meets every point, which shared memory deals out tile by tile.
//
// A thread keeps several queries in registers. Within a chunk of a tile it looks for the smallest distance alone, one
// instruction a pair; which point that was is asked only of the chunk that improves on all before it.
#include "device.h"

namespace pcgen {

constexpr int THREADS = 128, TILE = 512, CHUNK = 32;
template <class T> constexpr int RESIDENT = sizeof(T) == 4 ? 6 : 4;  // blocks of a multiprocessor, by their registers
template <class T> constexpr int QUERIES = sizeof(T) == 4 ? 8 : 4;  // of a thread, THREADS apart

// Marks the clouds that have a coordinate which is not finite. Every thread that writes writes the same.
template <class T>
__device__ void mark(const T* x, const Span* spans, const int64* first, int64 batch, int64 dimension, int* bad) {
    const int64 b = cloud_of_block(first, batch, blockIdx.x);
    if (b < 0) return;
    const int64 rows = THREADS * QUERIES<T>, begin = (blockIdx.x - first[b]) * rows;
    const int64 end = min(spans[b].count, begin + rows);
    const T* cloud = x + spans[b].start * dimension;
    for (int64 i = begin * dimension + threadIdx.x; i < end * dimension; i += THREADS)
        if (!is_finite(cloud[i])) bad[b] = 1;
}

template <class T, int D>
__device__ void nearest(const T* x, const Span* x_spans, const int* x_bad, const int64* first, const T* y,
                        const Span* y_spans, const int* y_bad, int64 batch, int64 rows, T* distance, int64* index) {
    constexpr int Q = QUERIES<T>;
    __shared__ Point<T, D> tile[TILE];
    const int64 b = cloud_of_block(first, batch, blockIdx.x);
    if (b < 0) return;
    const int64 mine = (blockIdx.x - first[b]) * THREADS * Q + threadIdx.x;  // my first query
    const Span own = x_spans[b], other = y_spans[b];

    Point<T, D> query[Q];
    T best[Q];
    int found[Q];
    for (int q = 0; q < Q; q++) {
        query[q] = Point<T, D>::load(x, own.start + min(mine + q * THREADS, own.count - 1));
        best[q] = infinity(T());
        found[q] = 0;
    }
    // This block's share of the points: whole tiles.
    const int64 tiles = (other.count + TILE - 1) / TILE;
    const int64 share = (tiles + gridDim.y - 1) / gridDim.y * TILE;
    const int64 end = min(other.count, (blockIdx.y + 1) * share);
    for (int64 begin = blockIdx.y * share; begin < end; begin += TILE) {
        const int count = int(min(int64(TILE), end - begin));
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS)
            tile[j] = j < count ? Point<T, D>::load(y, other.start + begin + j) : Point<T, D>::all(infinity(T()));
        __syncthreads();
        int chunk[Q];
        for (int q = 0; q < Q; q++) chunk[q] = -1;
        for (int c = 0; c < count; c += CHUNK) {
            T here[Q];
            for (int q = 0; q < Q; q++) here[q] = infinity(T());
#pragma unroll 4
            for (int j = 0; j < CHUNK; j++) {
                const Point<T, D> point = tile[c + j];
#pragma unroll
                for (int q = 0; q < Q; q++) here[q] = least(here[q], squared_distance<D>(query[q].c, point.c));
            }
            for (int q = 0; q < Q; q++)
                if (here[q] < best[q]) best[q] = here[q], chunk[q] = c;
        }
        for (int q = 0; q < Q; q++) {
            if (chunk[q] < 0) continue;
            int j = chunk[q];
            while (j < chunk[q] + CHUNK - 1 && squared_distance<D>(query[q].c, tile[j].c) != best[q]) j++;
            found[q] = int(begin) + j;
        }
    }
    const bool bad = x_bad[b] || y_bad[b];
    for (int q = 0; q < Q; q++) {
        if (mine + q * THREADS >= own.count) break;
        const int64 row = blockIdx.y * rows + own.start + mine + q * THREADS;
        distance[row] = bad ? not_a_number(T()) : best[q];
        index[row] = bad ? -1 : found[q];
    }
}

// The best of several shares of the points; of equal ones the first, which has the lowest index.
template <class T>
__device__ void combine(const T* distances, const int64* indices, int64 shares, int64 rows, T* distance, int64* index) {
    const int64 row = int64(blockIdx.x) * THREADS + threadIdx.x;
    if (row >= rows) return;
    int64 winner = row;
    for (int64 i = row + rows; i < shares * rows; i += rows)
        if (distances[i] < distances[winner]) winner = i;
    distance[row] = distances[winner];
    index[row] = indices[winner];
}

}  // namespace pcgen
using namespace pcgen;

#define NEAREST(T, D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT<T>)                                               \
        nearest_##T##_##D(const T* x, const Span* x_spans, const int* x_bad, const int64* first, const T* y,         \
                          const Span* y_spans, const int* y_bad, int64 batch, int64 rows, T* distance,               \
                          int64* index) {                                                                            \
        nearest<T, D>(x, x_spans, x_bad, first, y, y_spans, y_bad, batch, rows, distance, index);                    \
    }
FOR_TYPES_AND_DIMENSIONS(NEAREST)

#define MARK_AND_COMBINE(T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT<T>)                                               \
        mark_##T(const T* x, const Span* spans, const int64* first, int64 batch, int64 dimension, int* bad) {        \
        mark<T>(x, spans, first, batch, dimension, bad);                                                             \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT<T>)                                               \
        combine_##T(const T* distances, const int64* indices, int64 shares, int64 rows, T* distance, int64* index) { \
        combine<T>(distances, indices, shares, rows, distance, index);                                               \
    }
MARK_AND_COMBINE(float)
MARK_AND_COMBINE(double)
