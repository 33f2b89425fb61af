// The k nearest neighbours and those within a radius: pcgen/ops/reference/neighbours.py says what they are.
//
// A warp keeps the sorted list of a query in the registers of its lanes and looks at 32 points at once; only those
// nearer than the last of the list are put in, one after the other in the order of their indices, which settles ties.
#include "device.h"

namespace pcgen {

constexpr int WARP = 32, THREADS = 256, TILE = 512;
template <int SLOTS> constexpr int QUERIES = SLOTS == 1 ? 4 : 2;  // of a warp at once

// 32 · SLOTS squared distances and indices in ascending order, place p in lane p % 32; unused ones at infinity.
template <class T, int SLOTS> struct List {
    T distance[SLOTS];
    int index[SLOTS];

    __device__ List() {
#pragma unroll
        for (int s = 0; s < SLOTS; s++) distance[s] = infinity(T()), index[s] = -1;
    }

    __device__ T at(int place) const {
        T found = distance[0];
#pragma unroll
        for (int s = 1; s < SLOTS; s++)
            if (place / WARP == s) found = distance[s];
        return __shfl_sync(ALL, found, place % WARP);
    }

    // Behind those that are as near: they came first.
    __device__ void insert(T d, int i) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int s = SLOTS - 1; s >= 0; s--) {
            const bool farther = distance[s] > d;
            T before = __shfl_up_sync(ALL, distance[s], 1);
            int index_before = __shfl_up_sync(ALL, index[s], 1);
            if (s > 0) {
                const T last = __shfl_sync(ALL, distance[s - (s > 0)], WARP - 1);
                const int index_last = __shfl_sync(ALL, index[s - (s > 0)], WARP - 1);
                if (lane == 0) before = last, index_before = index_last;
            }
            if (!farther) continue;
            const bool here = (s == 0 && lane == 0) || before <= d;
            distance[s] = here ? d : before;
            index[s] = here ? i : index_before;
        }
    }
};

template <class T, int D, int SLOTS>
__device__ void neighbours(const T* x, const Span* x_spans, const int* x_bad, const int64* first, const T* y,
                           const Span* y_spans, const int* y_bad, int64 batch, int64 k, double radius, T* distance,
                           int64* index, int64* count) {
    constexpr int Q = QUERIES<SLOTS>;
    __shared__ Point<T, D> tile[TILE];
    const int64 b = cloud_of_block(first, batch, blockIdx.x);
    if (b < 0) return;
    const Span own = x_spans[b], other = y_spans[b];
    const int lane = threadIdx.x % WARP;
    const int64 mine = (blockIdx.x - first[b]) * (THREADS / WARP) * Q + threadIdx.x / WARP * Q;
    const T radius2 = T(radius) * T(radius);
    Point<T, D> query[Q];
    List<T, SLOTS> list[Q];
    T limit[Q];  // only what is nearer is taken
    for (int q = 0; q < Q; q++) {
        query[q] = Point<T, D>::load(x, own.start + min(mine + q, own.count - 1));
        limit[q] = infinity(T());
    }
    for (int64 begin = 0; begin < other.count; begin += TILE) {
        __syncthreads();
        for (int j = threadIdx.x; j < TILE; j += THREADS)
            tile[j] = begin + j < other.count ? Point<T, D>::load(y, other.start + begin + j)
                                              : Point<T, D>::all(infinity(T()));
        __syncthreads();
        for (int c = 0; c < TILE && begin + c < other.count; c += WARP) {
            const Point<T, D> point = tile[c + lane];
#pragma unroll
            for (int q = 0; q < Q; q++) {
                const T d = squared_distance<D>(query[q].c, point.c);
                for (unsigned in = __ballot_sync(ALL, d < limit[q] && d <= radius2); in; in &= in - 1) {
                    const int j = __ffs(in) - 1;
                    const T candidate = __shfl_sync(ALL, d, j);
                    if (candidate >= limit[q]) continue;
                    list[q].insert(candidate, int(begin) + c + j);
                    limit[q] = list[q].at(int(k) - 1);
                }
            }
        }
    }
    const bool bad = x_bad[b] || y_bad[b];
#pragma unroll
    for (int q = 0; q < Q; q++) {
        if (mine + q >= own.count) continue;
        const int64 row = own.start + mine + q;
        int found = 0;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            const int64 place = s * WARP + lane;
            const bool there = place < k && list[q].index[s] >= 0 && !bad;
            found += __popc(__ballot_sync(ALL, there));
            if (place >= k) continue;
            distance[row * k + place] = bad ? not_a_number(T()) : list[q].distance[s];
            index[row * k + place] = there ? list[q].index[s] : -1;
        }
        if (lane == 0) count[row] = found;
    }
}

// The first k within the radius, a warp for each query.
template <class T, int D>
__device__ void first_neighbours(const T* x, const Span* x_spans, const int* x_bad, const int64* first, const T* y,
                                 const Span* y_spans, const int* y_bad, int64 batch, int64 k, double radius,
                                 T* distance, int64* index, int64* count) {
    const int64 b = cloud_of_block(first, batch, blockIdx.x);
    if (b < 0) return;
    const Span own = x_spans[b], other = y_spans[b];
    const int lane = threadIdx.x % WARP;
    const int64 mine = (blockIdx.x - first[b]) * (THREADS / WARP) + threadIdx.x / WARP;
    if (mine >= own.count) return;
    const bool bad = x_bad[b] || y_bad[b];
    const T radius2 = T(radius) * T(radius);
    const int64 row = own.start + mine;
    const Point<T, D> query = Point<T, D>::load(x, row);
    int64 found = 0;
    for (int64 begin = 0; begin < other.count && found < k && !bad; begin += WARP) {
        const int64 j = begin + lane;
        const Point<T, D> point = Point<T, D>::load(y, other.start + min(j, other.count - 1));
        const T d = squared_distance<D>(query.c, point.c);
        const bool inside = j < other.count && d <= radius2 && is_finite(d);
        const unsigned all = __ballot_sync(ALL, inside);
        const int64 place = found + __popc(all & ((1u << lane) - 1));
        if (inside && place < k) distance[row * k + place] = d, index[row * k + place] = j;
        found = min(k, found + __popc(all));
    }
    for (int64 place = found + lane; place < k; place += WARP) {
        distance[row * k + place] = bad ? not_a_number(T()) : infinity(T());
        index[row * k + place] = -1;
    }
    if (lane == 0) count[row] = found;
}

}  // namespace pcgen
using namespace pcgen;

#define NEIGHBOURS(NAME, T, D, ...)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        NAME##_##T##_##D(const T* x, const Span* x_spans, const int* x_bad, const int64* first, const T* y,       \
                         const Span* y_spans, const int* y_bad, int64 batch, int64 k, double radius, T* distance, \
                         int64* index, int64* count) {                                                            \
        __VA_ARGS__(x, x_spans, x_bad, first, y, y_spans, y_bad, batch, k, radius, distance, index, count);       \
    }
#define ALL_NEIGHBOURS(T, D)                                \
    NEIGHBOURS(nearest_32, T, D, neighbours<T, D, 1>)       \
    NEIGHBOURS(nearest_128, T, D, neighbours<T, D, 4>)      \
    NEIGHBOURS(first, T, D, first_neighbours<T, D>)
FOR_TYPES_AND_DIMENSIONS(ALL_NEIGHBOURS)
