// The arithmetic ceiling that benchmarks/gpu.py measures the kernels against: nothing but fused multiply-adds.
#include "device.h"

namespace pcgen {

constexpr int CHAINS = 8;  // independent ones, for the latency of an operation

}  // namespace pcgen
using namespace pcgen;

// Two operations for each of CHAINS · steps multiply-adds of every thread.
extern "C" __global__ void multiply_add(float* out, int64 steps, double factor) {
    const float a = float(factor);
    float sum[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = float(threadIdx.x + c);
#pragma unroll 16
    for (int64 i = 0; i < steps; i++)
#pragma unroll
        for (int c = 0; c < CHAINS; c++) sum[c] = fused(sum[c], a, a);
    float all = 0;
    for (int c = 0; c < CHAINS; c++) all += sum[c];
    out[int64(blockIdx.x) * blockDim.x + threadIdx.x] = all;
}
