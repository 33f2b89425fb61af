// Sixteen numbers at a time, in registers as wide as the instruction set this file is compiled for.
//
// Operators are those of the compiler's vector extensions (GCC, Clang); only what these lack or translate badly
// (fused multiply-add, minimum) is written with intrinsics. Where the machine has no fused multiply-add, std::fma
// gives the same bits, slowly.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace pcgen {

constexpr int LANES = 16;

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

template <class T> struct Integer;
template <> struct Integer<float> { using type = int32_t; };
template <> struct Integer<double> { using type = int64_t; };

template <class T> struct Register {
    typedef T type __attribute__((vector_size(REGISTER_BYTES)));
    typedef typename Integer<T>::type mask __attribute__((vector_size(REGISTER_BYTES)));
    // The same in memory, where it is aligned as T. Never by memcpy: GCC copies sixteen bytes at a time, and a register
    // read from narrower pieces just written waits until they have reached the cache. It finds memcpy in loops, too.
    typedef T memory __attribute__((vector_size(REGISTER_BYTES), aligned(sizeof(T)), may_alias));
};
using Float = Register<float>::type;
using Double = Register<double>::type;

#if defined(__AVX512F__)
inline Float fma(Float a, Float b, Float c) { return (Float)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Double fma(Double a, Double b, Double c) { return (Double)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
inline Float least(Float a, Float b) { return (Float)_mm512_min_ps((__m512)a, (__m512)b); }
inline Double least(Double a, Double b) { return (Double)_mm512_min_pd((__m512d)a, (__m512d)b); }
inline Float most(Float a, Float b) { return (Float)_mm512_max_ps((__m512)a, (__m512)b); }
inline Double most(Double a, Double b) { return (Double)_mm512_max_pd((__m512d)a, (__m512d)b); }
inline Float root(Float a) { return (Float)_mm512_sqrt_ps((__m512)a); }
inline Double root(Double a) { return (Double)_mm512_sqrt_pd((__m512d)a); }
#elif defined(__AVX2__) && defined(__FMA__)
inline Float fma(Float a, Float b, Float c) { return (Float)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Double fma(Double a, Double b, Double c) { return (Double)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
inline Float least(Float a, Float b) { return (Float)_mm256_min_ps((__m256)a, (__m256)b); }
inline Double least(Double a, Double b) { return (Double)_mm256_min_pd((__m256d)a, (__m256d)b); }
inline Float most(Float a, Float b) { return (Float)_mm256_max_ps((__m256)a, (__m256)b); }
inline Double most(Double a, Double b) { return (Double)_mm256_max_pd((__m256d)a, (__m256d)b); }
inline Float root(Float a) { return (Float)_mm256_sqrt_ps((__m256)a); }
inline Double root(Double a) { return (Double)_mm256_sqrt_pd((__m256d)a); }
#elif defined(__aarch64__)
inline Float fma(Float a, Float b, Float c) { return (Float)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline Double fma(Double a, Double b, Double c) {
    return (Double)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
inline Float least(Float a, Float b) { return (Float)vbslq_f32(vcltq_f32((float32x4_t)a, (float32x4_t)b), (float32x4_t)a, (float32x4_t)b); }
inline Double least(Double a, Double b) { return (Double)vbslq_f64(vcltq_f64((float64x2_t)a, (float64x2_t)b), (float64x2_t)a, (float64x2_t)b); }
inline Float most(Float a, Float b) { return (Float)vbslq_f32(vcgtq_f32((float32x4_t)a, (float32x4_t)b), (float32x4_t)a, (float32x4_t)b); }
inline Double most(Double a, Double b) { return (Double)vbslq_f64(vcgtq_f64((float64x2_t)a, (float64x2_t)b), (float64x2_t)a, (float64x2_t)b); }
inline Float root(Float a) { return (Float)vsqrtq_f32((float32x4_t)a); }
inline Double root(Double a) { return (Double)vsqrtq_f64((float64x2_t)a); }
#else
template <class V> inline V each_fma(V a, V b, V c) {
    for (size_t i = 0; i < sizeof(V) / sizeof(a[0]); i++) a[i] = std::fma(a[i], b[i], c[i]);
    return a;
}
template <class V> inline V each_root(V a) {
    for (size_t i = 0; i < sizeof(V) / sizeof(a[0]); i++) a[i] = std::sqrt(a[i]);
    return a;
}
inline Float fma(Float a, Float b, Float c) { return each_fma(a, b, c); }
inline Double fma(Double a, Double b, Double c) { return each_fma(a, b, c); }
inline Float least(Float a, Float b) { return a < b ? a : b; }
inline Double least(Double a, Double b) { return a < b ? a : b; }
inline Float most(Float a, Float b) { return a > b ? a : b; }
inline Double most(Double a, Double b) { return a > b ? a : b; }
inline Float root(Float a) { return each_root(a); }
inline Double root(Double a) { return each_root(a); }
#endif

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Sixteen lanes of T.
template <class T> struct Pack {
    static constexpr int REGISTERS = LANES * sizeof(T) / REGISTER_BYTES;
    static constexpr int WIDTH = REGISTER_BYTES / sizeof(T);
    using V = typename Register<T>::type;
    using Memory = typename Register<T>::memory;
    V r[REGISTERS];

    Pack() = default;
    Pack(const Pack& from) { *this = from; }
    Pack& operator=(const Pack& from) {
#pragma GCC unroll 8
        for (int i = 0; i < REGISTERS; i++) r[i] = from.r[i];
        return *this;
    }

    static Pack load(const T* from) {
        Pack p;
#pragma GCC unroll 8
        for (int i = 0; i < REGISTERS; i++) p.r[i] = ((const Memory*)from)[i];
        return p;
    }
    static Pack all(T value) {
        Pack p;
        for (V& v : p.r) v = value - V{};
        return p;
    }
    void store(T* to) const {
#pragma GCC unroll 8
        for (int i = 0; i < REGISTERS; i++) ((Memory*)to)[i] = r[i];
    }
};

#define PCGEN_EACH(expression)                                     \
    Pack<T> out;                                                   \
    for (int i = 0; i < Pack<T>::REGISTERS; i++) out.r[i] = expression; \
    return out

template <class T> inline Pack<T> operator+(Pack<T> a, Pack<T> b) { PCGEN_EACH(a.r[i] + b.r[i]); }
template <class T> inline Pack<T> operator-(Pack<T> a, Pack<T> b) { PCGEN_EACH(a.r[i] - b.r[i]); }
template <class T> inline Pack<T> operator*(Pack<T> a, Pack<T> b) { PCGEN_EACH(a.r[i] * b.r[i]); }
template <class T> inline Pack<T> operator/(Pack<T> a, Pack<T> b) { PCGEN_EACH(a.r[i] / b.r[i]); }
template <class T> inline Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { PCGEN_EACH(fma(a.r[i], b.r[i], c.r[i])); }
template <class T> inline Pack<T> least(Pack<T> a, Pack<T> b) { PCGEN_EACH(least(a.r[i], b.r[i])); }
template <class T> inline Pack<T> most(Pack<T> a, Pack<T> b) { PCGEN_EACH(most(a.r[i], b.r[i])); }
template <class T> inline Pack<T> root(Pack<T> a) { PCGEN_EACH(root(a.r[i])); }

#undef PCGEN_EACH

// Bit i tells whether a[i] < b[i], a[i] <= b[i], a[i] == b[i].
#if defined(__AVX512F__)
// GCC 12 may spill sixteen bits of a mask register to where it then reads thirty-two: a general register keeps them.
inline uint32_t widened(uint32_t bits) {
    asm("" : "+r"(bits));
    return bits;
}
#define PCGEN_BITS(name, op)                                                                     \
    inline uint32_t name(Pack<float> a, Pack<float> b) {                                         \
        return widened(_mm512_cmp_ps_mask((__m512)a.r[0], (__m512)b.r[0], op));                  \
    }                                                                                            \
    inline uint32_t name(Pack<double> a, Pack<double> b) {                                       \
        return widened(_mm512_cmp_pd_mask((__m512d)a.r[0], (__m512d)b.r[0], op)) |               \
               widened(_mm512_cmp_pd_mask((__m512d)a.r[1], (__m512d)b.r[1], op)) << 8;           \
    }
PCGEN_BITS(below, _CMP_LT_OQ)
PCGEN_BITS(at_most, _CMP_LE_OQ)
PCGEN_BITS(equal, _CMP_EQ_OQ)
#elif defined(__AVX2__) && defined(__FMA__)
#define PCGEN_BITS(name, op)                                                                     \
    inline uint32_t name(Pack<float> a, Pack<float> b) {                                         \
        uint32_t bits = 0;                                                                       \
        for (int i = 0; i < 2; i++)                                                              \
            bits |= uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a.r[i], (__m256)b.r[i], op))) << 8 * i; \
        return bits;                                                                             \
    }                                                                                            \
    inline uint32_t name(Pack<double> a, Pack<double> b) {                                       \
        uint32_t bits = 0;                                                                       \
        for (int i = 0; i < 4; i++)                                                              \
            bits |= uint32_t(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)a.r[i], (__m256d)b.r[i], op))) << 4 * i; \
        return bits;                                                                             \
    }
PCGEN_BITS(below, _CMP_LT_OQ)
PCGEN_BITS(at_most, _CMP_LE_OQ)
PCGEN_BITS(equal, _CMP_EQ_OQ)
#else
template <class T> inline uint32_t bits_from(const typename Register<T>::mask* m) {
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= uint32_t(m[i / Pack<T>::WIDTH][i % Pack<T>::WIDTH] & 1) << i;
    return bits;
}
#define PCGEN_BITS(name, op)                                                                     \
    template <class T> inline uint32_t name(Pack<T> a, Pack<T> b) {                              \
        typename Register<T>::mask m[Pack<T>::REGISTERS];                                        \
        for (int i = 0; i < Pack<T>::REGISTERS; i++) m[i] = a.r[i] op b.r[i];                    \
        return bits_from<T>(m);                                                                  \
    }
PCGEN_BITS(below, <)
PCGEN_BITS(at_most, <=)
PCGEN_BITS(equal, ==)
#endif
#undef PCGEN_BITS

inline int first_bit(uint32_t bits) { return __builtin_ctz(bits); }

// Calls visit(i) for each bit i that is set.
template <class F> inline void for_each_bit(uint32_t bits, F&& visit) {
    while (bits) {
        const int i = first_bit(bits);
        bits ^= 1u << i;
        visit(i);
    }
}

#if defined(__AVX512F__)
inline float largest(Pack<float> p) { return _mm512_reduce_max_ps((__m512)p.r[0]); }
inline double largest(Pack<double> p) { return _mm512_reduce_max_pd((__m512d)most(p.r[0], p.r[1])); }
inline float smallest(Pack<float> p) { return _mm512_reduce_min_ps((__m512)p.r[0]); }
inline double smallest(Pack<double> p) { return _mm512_reduce_min_pd((__m512d)least(p.r[0], p.r[1])); }
inline Pack<float> with_lane(Pack<float> p, int lane, float value) {
    p.r[0] = (Float)_mm512_mask_mov_ps((__m512)p.r[0], __mmask16(1u << lane), _mm512_set1_ps(value));
    return p;
}
inline Pack<double> with_lane(Pack<double> p, int lane, double value) {
    for (int i = 0; i < 2; i++)
        p.r[i] = (Double)_mm512_mask_mov_pd((__m512d)p.r[i], __mmask8((1u << lane) >> 8 * i), _mm512_set1_pd(value));
    return p;
}
#elif defined(__AVX2__) && defined(__FMA__)
#define PCGEN_ACROSS(name, pick, op)                                                                  \
    inline float name(Pack<float> p) {                                                                \
        const __m256 v = (__m256)pick(p.r[0], p.r[1]);                                                \
        const __m128 four = _mm_##op##_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));    \
        const __m128 two = _mm_##op##_ps(four, _mm_movehl_ps(four, four));                            \
        return _mm_cvtss_f32(_mm_##op##_ss(two, _mm_movehdup_ps(two)));                               \
    }                                                                                                 \
    inline double name(Pack<double> p) {                                                              \
        const __m256d v = (__m256d)pick(pick(p.r[0], p.r[1]), pick(p.r[2], p.r[3]));                  \
        const __m128d two = _mm_##op##_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));    \
        return _mm_cvtsd_f64(_mm_##op##_sd(two, _mm_unpackhi_pd(two, two)));                          \
    }
PCGEN_ACROSS(largest, most, max)
PCGEN_ACROSS(smallest, least, min)
#undef PCGEN_ACROSS
// By comparing lanes: a number written into the array in memory would be waited for.
template <class T> inline Pack<T> with_lane(Pack<T> p, int lane, T value) {
    using Mask = typename Register<T>::mask;
    Mask lanes;
    for (int i = 0; i < Pack<T>::WIDTH; i++) lanes[i] = i;
    const auto all = Pack<T>::all(value).r[0];
    for (int i = 0; i < Pack<T>::REGISTERS; i++, lane -= Pack<T>::WIDTH) p.r[i] = lanes == lane - Mask{} ? all : p.r[i];
    return p;
}
#else
template <class T> inline T largest(Pack<T> p) {
    T a[LANES];
    p.store(a);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) a[i] = a[i] > a[i + step] ? a[i] : a[i + step];
    return a[0];
}
template <class T> inline T smallest(Pack<T> p) {
    T a[LANES];
    p.store(a);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) a[i] = a[i] < a[i + step] ? a[i] : a[i + step];
    return a[0];
}
template <class T> inline Pack<T> with_lane(Pack<T> p, int lane, T value) {
    T a[LANES];
    p.store(a);
    a[lane] = value;
    return Pack<T>::load(a);
}
#endif

}  // namespace pcgen
