// Which of the libraries this processor can run: the one question that is asked of the lowest of them.
#include "parallel.h"

// 0: what every processor of this family has; 1: AVX2 and FMA; 2: AVX-512 F, BW, DQ, VL.
PCGEN_EXPORT int pcgen_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
#else
    return 0;
#endif
}
