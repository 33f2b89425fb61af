// A queue of few thousand keys, in blocks of which the minima are known.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

namespace pcgen {

// Keys 0 … n − 1 whose values fall until they are taken out: the least first, and of equal ones the lowest key.
class LeastFirst {
public:
    explicit LeastFirst(int64_t n)
        : value(whole(n, BLOCK), NONE), block_least(whole(whole(n, BLOCK) / BLOCK, LANES), NONE) {}

    void lower(int32_t key, double to) {
        value[key] = to;
        double& of_block = block_least[key / BLOCK];
        of_block = std::min(of_block, to);
        touched.push_back(key);
    }

    // The key taken out, its value in `was`; −1 and infinity where none is left.
    int32_t take(double& was) {
        was = least_of(block_least.data(), int64_t(block_least.size()));
        if (was == NONE) return -1;
        const int64_t block = find(block_least.data(), was);
        double* in_block = &value[block * BLOCK];
        const int64_t at = find(in_block, was);
        in_block[at] = NONE;
        block_least[block] = least_of(in_block, BLOCK);
        return int32_t(block * BLOCK + at);
    }

    void clear() {
        for (int32_t key : touched) value[key] = block_least[key / BLOCK] = NONE;
        touched.clear();
    }

private:
    static constexpr double NONE = std::numeric_limits<double>::infinity();
    static constexpr int BLOCK = 64;
    std::vector<double> value, block_least;
    std::vector<int32_t> touched;

    static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

    static double least_of(const double* from, int64_t count) {
        Pack<double> each = Pack<double>::load(from);
        for (int64_t i = LANES; i < count; i += LANES) each = least(each, Pack<double>::load(from + i));
        return smallest(each);
    }
    static int64_t find(const double* from, double wanted) {
        for (int64_t i = 0;; i += LANES)
            if (const uint32_t here = equal(Pack<double>::load(from + i), Pack<double>::all(wanted)))
                return i + first_bit(here);
    }
};

}  // namespace pcgen
