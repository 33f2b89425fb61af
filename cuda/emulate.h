// CUDA's way of running a kernel, on the CPU and in one thread: what lets the tests run device code where no GPU is.
//
// A block's threads are fibers that change places where they wait for each other, at barriers and in the operations of
// a warp. The order in which blocks, warps and lanes run is drawn from a seed: a kernel that lacks a barrier, or whose
// answer depends on an order, gives different answers for different seeds. Shared memory is never cleared, as on a GPU.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __CUDA_ARCH__ EMULATED_ARCHITECTURE

using std::max;
using std::min;

namespace emulation {

struct Three {
    unsigned x = 0, y = 0, z = 0;
};
inline Three thread, block, threads, blocks;

constexpr int WARP = 32;
constexpr size_t STACK = 1 << 16;
enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
    State state = READY;
    bool started = false;
    int parity = 0;  // of the operations of the warp so far
    jmp_buf here;
    ucontext_t start;
    std::unique_ptr<char[]> stack;
};
inline std::vector<Fiber> fibers;
inline std::vector<uint64_t> slots[2];  // what each lane hands to its warp: two, for the next operation may come early
inline jmp_buf scheduler;
inline ucontext_t ignored;
inline void (*entry)(void*);
inline void* arguments;

inline void fiber_main() {
    entry(arguments);
    fibers[thread.x].state = DONE;
    _longjmp(scheduler, 1);
}

inline void resume(unsigned i) {
    if (_setjmp(scheduler)) return;
    thread.x = i;
    Fiber& f = fibers[i];
    if (f.started) _longjmp(f.here, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = STACK;
    makecontext(&f.start, fiber_main, 0);
    swapcontext(&ignored, &f.start);
}

inline void wait(State state) {
    Fiber& f = fibers[thread.x];
    f.state = state;
    if (!_setjmp(f.here)) _longjmp(scheduler, 1);
}

// Lets all those go who wait for what has now come to pass: that nobody of them still runs.
inline bool release(unsigned begin, unsigned end, State state) {
    bool any = false;
    for (unsigned i = begin; i < end; i++) {
        if (fibers[i].state != state && fibers[i].state != DONE) return false;
        any |= fibers[i].state == state;
    }
    for (unsigned i = begin; i < end; i++)
        if (fibers[i].state == state) fibers[i].state = READY;
    return any;
}

inline std::vector<unsigned> order(unsigned n, std::mt19937& random) {
    std::vector<unsigned> all(n);
    std::iota(all.begin(), all.end(), 0u);
    std::shuffle(all.begin(), all.end(), random);
    return all;
}

// Runs the block whose number is set; false if its threads wait for each other forever.
inline bool run_block(std::mt19937& random) {
    for (Fiber& f : fibers) f.state = READY, f.started = false, f.parity = 0;
    const unsigned n = threads.x;
    do {
        for (unsigned warp : order(n / WARP, random))
            do
                for (unsigned lane : order(WARP, random))
                    if (fibers[warp * WARP + lane].state == READY) resume(warp * WARP + lane);
            while (release(warp * WARP, (warp + 1) * WARP, AT_WARP));
    } while (release(0, n, AT_BLOCK));
    return std::all_of(fibers.begin(), fibers.begin() + n, [](const Fiber& f) { return f.state == DONE; });
}

// Launches a kernel; `parameters` are addresses, as the driver takes them. Returns 0, or 1 for a deadlock.
template <class... A>
int run(void (*kernel)(A...), void** parameters, unsigned across, unsigned down, unsigned count, unsigned seed) {
    static_assert(((sizeof(A) == 8) && ...), "pcgen/ops/gpu.py hands over eight bytes for each parameter");
    auto call = [&] {
        [&]<size_t... I>(std::index_sequence<I...>) { kernel(*(A*)parameters[I]...); }(std::index_sequence_for<A...>());
    };
    if (count % WARP) return 1;
    entry = [](void* body) { (*(decltype(call)*)body)(); };
    arguments = &call;
    std::mt19937 random(seed);
    threads = {count, 1, 1}, blocks = {across, down, 1};
    while (fibers.size() < count) fibers.emplace_back(), fibers.back().stack.reset(new char[STACK]);
    for (auto& s : slots) s.resize(count);
    for (unsigned i : order(across * down, random)) {
        block = {i % across, i / across, 0};
        if (!run_block(random)) return 1;
    }
    return 0;
}

// Every lane gives a value; afterwards each may read those of its whole warp.
template <class T> const uint64_t* exchange(unsigned mask, T value) {
    if (mask != ~0u) std::abort();  // no kernel of ours has a warp that is torn apart
    auto& slot = slots[fibers[thread.x].parity ^= 1];
    std::memcpy(&(slot[thread.x] = 0), &value, sizeof value);
    wait(AT_WARP);
    return &slot[thread.x / WARP * WARP];
}
template <class T> T value_of(uint64_t slot) {
    T value;
    std::memcpy(&value, &slot, sizeof value);
    return value;
}

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::threads
#define gridDim emulation::blocks

inline void __syncthreads() { emulation::wait(emulation::AT_BLOCK); }
inline void __syncwarp(unsigned = ~0u) { emulation::wait(emulation::AT_WARP); }

template <class T> T __shfl_sync(unsigned mask, T value, int lane) {
    return emulation::value_of<T>(emulation::exchange(mask, value)[lane % emulation::WARP]);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int step) {
    const unsigned lane = threadIdx.x % emulation::WARP;
    return emulation::value_of<T>(emulation::exchange(mask, value)[lane ^ step]);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, int step) {
    const int lane = threadIdx.x % emulation::WARP;
    return emulation::value_of<T>(emulation::exchange(mask, value)[lane < step ? lane : lane - step]);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
    const uint64_t* votes = emulation::exchange(mask, uint64_t(vote));
    unsigned all = 0;
    for (int i = 0; i < emulation::WARP; i++) all |= unsigned(votes[i]) << i;
    return all;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    const uint64_t* values = emulation::exchange(mask, uint64_t(value));
    return unsigned(*std::min_element(values, values + emulation::WARP));
}

template <class T> T atomicMin(T* address, T value) { return std::exchange(*address, std::min(*address, value)); }

template <class To, class From> To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }

// No more exact than the hardware's ex2.approx.ftz: a unit in the last place off, up or down by the last bit of x.
namespace pcgen {
inline float power_of_two(float x) {
    const float y = std::exp2(x);
    if (!(y >= 0x1p-126f)) return y == y ? 0 : y;
    return x == std::floor(x) ? y : std::nextafterf(y, __float_as_uint(x) & 1 ? 0 : 2 * y);
}
}  // namespace pcgen
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
