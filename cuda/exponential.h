// Powers of two, sixteen at a time, with the same bits on every instruction set.
//
// The nearest integer n of the exponent goes into the exponent's bits and the rest f, at most a half, into a polynomial
// in f: the minimax one (Remez) of relative error, with p(0) = 1, so that 2^0 is 1. Adding a number whose unit in the
// last place is 1 rounds to the nearest integer, and leaves that integer in the lowest bits of the sum.
#pragma once

#include "simd.h"

namespace pcgen {

template <class T> struct Exponential;
template <> struct Exponential<float> {
    typedef uint32_t Bits __attribute__((vector_size(REGISTER_BYTES)));
    static constexpr float ROUNDING = 12582912.0f;  // 1.5 · 2^23
    static constexpr int MANTISSA = 23;
    static constexpr float LOWEST = -125;           // below, 2^x would need a subnormal number on the way
    static constexpr int DEGREE = 6;
    static constexpr float C[DEGREE + 1] = {1.0f,           0.693147215f,    0.240226528f,   0.0555031055f,
                                            0.00961769297f, 0.00134066439f, 0.000155946782f};
};
template <> struct Exponential<double> {
    typedef uint64_t Bits __attribute__((vector_size(REGISTER_BYTES)));
    static constexpr double ROUNDING = 6755399441055744.0;  // 1.5 · 2^52
    static constexpr int MANTISSA = 52;
    static constexpr double LOWEST = -1021;
    static constexpr int DEGREE = 11;
    static constexpr double C[DEGREE + 1] = {1.0,
                                             0.69314718055994569675,
                                             0.24022650695910098007,
                                             0.055504108664790394552,
                                             0.0096181291076070023796,
                                             0.0013333558153439964747,
                                             0.0001540353044157213033,
                                             0.000015252727385193868197,
                                             1.3215442675329822143e-6,
                                             1.0180647659234138888e-7,
                                             7.0725704128144235096e-9,
                                             4.0780719295883366627e-10};
};

constexpr double LOG2_E = 1.4426950408889634074;  // 1 / log 2

// 2^(a·b) for LOWEST <= a·b <= 0, with an error of at most 1.03 units in the last place beside that of a·b. Whatever
// a·b is, NaN included, this ends and traps nothing.
template <class T> __attribute__((always_inline)) inline Pack<T> power_of_two(Pack<T> a, Pack<T> b) {
    using E = Exponential<T>;
    const Pack<T> rounding = Pack<T>::all(E::ROUNDING);
    const Pack<T> sum = fma(a, b, rounding);
    const Pack<T> f = fma(a, b, rounding - sum);
    Pack<T> p = Pack<T>::all(E::C[E::DEGREE]);
    for (int k = E::DEGREE - 1; k >= 0; k--) p = fma(p, f, Pack<T>::all(E::C[k]));
    using Bits = typename E::Bits;
    for (int i = 0; i < Pack<T>::REGISTERS; i++)
        p.r[i] = (typename Pack<T>::V)((Bits)p.r[i] + ((Bits)sum.r[i] << E::MANTISSA));
    return p;
}

// The sum of sixteen lanes, always in this order.
template <class T> inline T total(Pack<T> p) {
    T a[LANES];
    p.store(a);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) a[i] += a[i + step];
    return a[0];
}

}  // namespace pcgen
