// Threads, and what stands between the C interface and C++.
//
// Threads are started for one call and joined: 20 µs each, no state that a forked DataLoader worker could inherit
// broken, and no second OpenMP beside PyTorch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#define PCGEN_EXPORT extern "C" __attribute__((visibility("default")))

namespace pcgen {

// Calls work(i) for i in [0, n), on at most `threads` threads, `grain` consecutive ones at a time. Who computes what
// changes from run to run; a result may depend on i alone.
template <class F> void parallel_for(int64_t n, int64_t threads, int64_t grain, F&& work) {
    grain = std::max<int64_t>(1, grain);
    const int64_t helpers = std::min(threads, (n + grain - 1) / grain) - 1;
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex lock;
    auto run = [&] {
        try {
            for (int64_t begin; (begin = next.fetch_add(grain)) < n;)
                for (int64_t i = begin; i < std::min(n, begin + grain); i++) work(i);
        } catch (...) {
            std::lock_guard<std::mutex> guard(lock);
            failure = std::current_exception();
            next = n;
        }
    };
    std::vector<std::thread> team;
    for (int64_t i = 0; i < helpers; i++) {
        try {
            team.emplace_back(run);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: fewer do the same
        }
    }
    run();
    for (std::thread& thread : team) thread.join();
    if (failure) std::rethrow_exception(failure);
}

enum Status : int { OK = 0, OUT_OF_MEMORY = 1, FAILED = 2 };

// No exception may cross the C interface.
template <class F> int guarded(F&& body) {
    try {
        body();
        return OK;
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    } catch (...) {
        return FAILED;
    }
}

template <int D> using Dimension = std::integral_constant<int, D>;

// Calls body(T(), Dimension<D>()) for the type and the dimension that are known only now.
template <class F> void for_type_and_dimension(int64_t is_double, int64_t dimension, F&& body) {
    auto with = [&](auto zero) {
        if (dimension == 1) body(zero, Dimension<1>());
        else if (dimension == 2) body(zero, Dimension<2>());
        else body(zero, Dimension<3>());
    };
    if (is_double) with(double());
    else with(float());
}

// Where a cloud lies among the rows of a tensor.
struct Span {
    int64_t start, count;
};

}  // namespace pcgen
