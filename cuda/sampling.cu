// Farthest point sampling: pcgen/ops/reference/sampling.py says what it is.
//
// A thread keeps a few points, and what remains between them and those chosen so far, in registers. Small clouds have
// one block each, that chooses all points in one launch; large ones have several, and one launch for each choice.
#include "device.h"

namespace pcgen {

constexpr int WARP = 32, THREADS = 1024, WARPS = THREADS / WARP;
constexpr int POINTS = 8;  // of a thread, THREADS apart

template <class T> struct Candidate {
    T distance;  // squared, to the nearest chosen point; -1 for chosen ones, -2 for none at all
    int index;

    __device__ void meet(T d, int i) {
        if (d > distance || (d == distance && i < index)) distance = d, index = i;
    }
    // The best of a warp, in all of its lanes.
    __device__ void meet_warp() {
        for (int step = WARP / 2; step; step /= 2) {
            const T d = __shfl_xor_sync(ALL, distance, step);
            const int i = __shfl_xor_sync(ALL, index, step);
            meet(d, i);
        }
    }
};
template <class T> __device__ Candidate<T> nobody() { return {T(-2), 0x7fffffff}; }

// The best of a block, in all of its threads. `turn` alternates from call to call.
template <class T> __device__ Candidate<T> best_of_block(Candidate<T> mine, int turn) {
    __shared__ T distance[2][WARPS];
    __shared__ int index[2][WARPS];
    mine.meet_warp();
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) distance[turn][warp] = mine.distance, index[turn][warp] = mine.index;
    __syncthreads();
    Candidate<T> best = {distance[turn][lane], index[turn][lane]};
    best.meet_warp();
    return best;
}

// The points of one thread: THREADS apart from `begin` on, of a cloud of n.
template <class T, int D> struct Share {
    Point<T, D> point[POINTS];
    T remaining[POINTS];
    int begin;

    __device__ Share(const T* x, int64 n, int64 begin) : begin(int(begin)) {
        for (int p = 0; p < POINTS; p++) {
            const int64 i = begin + p * THREADS;
            point[p] = Point<T, D>::load(x, min(i, n - 1));
            remaining[p] = i < n ? infinity(T()) : T(-2);
        }
    }
    __device__ Candidate<T> after(int chosen, const Point<T, D>& there) {
        Candidate<T> best = nobody<T>();
#pragma unroll
        for (int p = 0; p < POINTS; p++) {
            const int i = begin + p * THREADS;
            remaining[p] = least(remaining[p], squared_distance<D>(there.c, point[p].c));
            if (i == chosen) remaining[p] = -1;
            best.meet(remaining[p], i);
        }
        return best;
    }
};

// A cloud for each block, of at most THREADS · POINTS points.
template <class T, int D>
__device__ void sample(const T* x, const Span* spans, const int* bad, const int64* start, int64 count, int64* index) {
    const int64 b = blockIdx.x, n = spans[b].count;
    x += spans[b].start * D;
    index += b * count;
    const int64 end = bad[b] || start[b] < 0 || start[b] >= n ? 0 : min(count, n);
    for (int64 i = end + threadIdx.x; i < count; i += THREADS) index[i] = -1;
    Share<T, D> share(x, n, threadIdx.x);
    int chosen = int(start[b]);
    for (int64 i = 0; i < end; i++) {
        if (threadIdx.x == 0) index[i] = chosen;
        chosen = best_of_block(share.after(chosen, Point<T, D>::load(x, chosen)), i % 2).index;
    }
}

// One choice, number `step`, among the points of several blocks. The best of each block stands in `best` and `where`,
// (2, blocks), from one launch for the next.
template <class T, int D>
__device__ void sample_step(const T* x, const Span* spans, const int* bad, const int64* first, int64 batch,
                            const int64* start, int64 count, T* remaining, int64 blocks, T* best, int* where,
                            int64* index, int64 step) {
    const int64 b = cloud_of_block(first, batch, blockIdx.x);
    if (b < 0) return;
    const int64 n = spans[b].count;
    const bool sound = !bad[b] && start[b] >= 0 && start[b] < n && step < n;
    const bool writes = blockIdx.x == first[b] && threadIdx.x == 0;
    if (!sound) {
        if (writes) index[b * count + step] = -1;
        return;
    }
    Candidate<T> found = nobody<T>();
    const int64 before = (step + 1) % 2 * blocks, after = step % 2 * blocks;
    for (int64 i = first[b] + threadIdx.x; step && i < first[b + 1]; i += THREADS)
        found.meet(best[before + i], where[before + i]);
    found = best_of_block(found, 0);
    const int chosen = step ? found.index : int(start[b]);
    if (writes) index[b * count + step] = chosen;

    const int64 begin = (blockIdx.x - first[b]) * THREADS * POINTS + threadIdx.x;
    Share<T, D> share(x + spans[b].start * D, n, begin);
    remaining += spans[b].start;
    for (int p = 0; step && p < POINTS; p++)
        if (begin + p * THREADS < n) share.remaining[p] = remaining[begin + p * THREADS];
    found = best_of_block(share.after(chosen, Point<T, D>::load(x, spans[b].start + chosen)), 1);
    for (int p = 0; p < POINTS; p++)
        if (begin + p * THREADS < n) remaining[begin + p * THREADS] = share.remaining[p];
    if (threadIdx.x == 0) best[after + blockIdx.x] = found.distance, where[after + blockIdx.x] = found.index;
}

}  // namespace pcgen
using namespace pcgen;

#define SAMPLE(T, D)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        sample_##T##_##D(const T* x, const Span* spans, const int* bad, const int64* start, int64 count,             \
                         int64* index) {                                                                             \
        sample<T, D>(x, spans, bad, start, count, index);                                                            \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                            \
        sample_step_##T##_##D(const T* x, const Span* spans, const int* bad, const int64* first, int64 batch,        \
                              const int64* start, int64 count, T* remaining, int64 blocks, T* best, int* where,      \
                              int64* index, int64 step) {                                                            \
        sample_step<T, D>(x, spans, bad, first, batch, start, count, remaining, blocks, best, where, index, step);   \
    }
FOR_TYPES_AND_DIMENSIONS(SAMPLE)
