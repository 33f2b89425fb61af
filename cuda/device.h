// What the CUDA kernels share: points, spans, one arithmetic, and reductions whose order never changes.
//
// Under NVRTC there is no system header, so limits are spelt out here.
#pragma once

namespace pcgen {

using int64 = long long;
using uint64 = unsigned long long;

constexpr unsigned ALL = 0xffffffffu;  // lanes of a warp

// Where a cloud lies among the rows of a tensor.
struct Span {
    int64 start, count;
};

__device__ inline float infinity(float) { return __uint_as_float(0x7f800000u); }
__device__ inline double infinity(double) { return __longlong_as_double(0x7ff0000000000000ll); }
__device__ inline float not_a_number(float) { return __uint_as_float(0x7fc00000u); }
__device__ inline double not_a_number(double) { return __longlong_as_double(0x7ff8000000000000ll); }

__device__ inline bool is_finite(float x) { return fabsf(x) < infinity(x); }
__device__ inline bool is_finite(double x) { return fabs(x) < infinity(x); }

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline float least(float a, float b) { return fminf(a, b); }
__device__ inline double least(double a, double b) { return fmin(a, b); }
__device__ inline float most(float a, float b) { return fmaxf(a, b); }
__device__ inline double most(double a, double b) { return fmax(a, b); }
__device__ inline float root(float x) { return __fsqrt_rn(x); }
__device__ inline double root(double x) { return __dsqrt_rn(x); }

// Numbers that are not negative sort as their bits do.
__device__ inline unsigned bits(float x) { return __float_as_uint(x); }
__device__ inline uint64 bits(double x) { return __double_as_longlong(x); }
__device__ inline float number(unsigned x) { return __uint_as_float(x); }
__device__ inline double number(uint64 x) { return __longlong_as_double(x); }
template <class T> using Bits = decltype(bits(T()));

// 2^x, in float32 by the hardware: within 2 units in the last place, and 0 below 2^-126.
#ifdef __CUDACC__
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif
__device__ inline double power_of_two(double x) { return exp2(x); }
constexpr double LOG2_E = 1.4426950408889634074;  // 1 / log 2

// A point, or a point and a weight, as it is read from shared memory: three numbers are padded to four, one load.
template <class T, int N> struct alignas(N < 3 && N * sizeof(T) < 16 ? N * sizeof(T) : 16) Point {
    T c[N == 3 ? 4 : N];

    __device__ static Point all(T value) {
        Point p;
        for (T& c : p.c) c = value;
        return p;
    }
    // Row i of (rows, N) coordinates.
    __device__ static Point load(const T* rows, int64 i) {
        Point p = all(0);
        for (int k = 0; k < N; k++) p.c[k] = rows[i * N + k];
        return p;
    }
};

// The squared distance, in the order of operations that every twin of every kernel has (search.h).
template <int D, class T> __device__ inline T squared_distance(const T* p, const T* q) {
    const T first = p[0] - q[0];
    T sum = first * first;
#pragma unroll
    for (int k = 1; k < D; k++) {
        const T d = p[k] - q[k];
        sum = fused(d, d, sum);
    }
    return sum;
}

// The cloud to which a block belongs, where cloud b has the blocks first[b] ... first[b + 1] - 1; -1 for none.
__device__ inline int64 cloud_of_block(const int64* first, int64 batch, int64 block) {
    if (block >= first[batch]) return -1;
    int64 low = 0, high = batch;
    while (high - low > 1) {
        const int64 middle = (low + high) / 2;
        if (first[middle] <= block) low = middle;
        else high = middle;
    }
    return low;
}

// The sum over the threads of a block, a power of two of them, in the order of a binary tree; for thread 0.
template <int THREADS> __device__ inline double block_sum(double value) {
    __shared__ double sums[THREADS];
    __syncthreads();  // the sums of an earlier call have been read
    sums[threadIdx.x] = value;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

}  // namespace pcgen

// One extern "C" kernel for each type and dimension: name_float_3 for <float, 3>.
#define FOR_TYPES_AND_DIMENSIONS(INSTANCE) \
    INSTANCE(float, 1) INSTANCE(float, 2) INSTANCE(float, 3) INSTANCE(double, 1) INSTANCE(double, 2) INSTANCE(double, 3)
