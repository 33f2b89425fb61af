// How much of a star lies in another: pcgen/geometry/overlap.py says what is computed, and does it in plain PyTorch.
//
// One pass over the points of a filling, whose intermediate numbers stay in the nearest cache.
#include <cmath>

#include "parallel.h"

namespace pcgen {
namespace {

constexpr int64_t STARS = 64, PAIRS = 16;  // that a thread takes at a time
constexpr int64_t CHUNK = 512;            // points whose intermediate numbers stay in the nearest cache
constexpr int LANES = 8;                   // sums in turns, in this order whatever the number of threads

// Points that fill the unit ball; of an array with one row for each dimension, row d begins at d times its length.
struct Filling {
    int64_t count, facets, grid;
    const float* points;     // (D, count)
    const int32_t* corners;  // (D, count), rays
    const float* shares;     // (D, count)
    const int32_t* table;    // (grid^D,), facets
    const int32_t* faces;    // (D, facets), rays
    const float* inverses;   // (D, D, facets)
    const float* sums;       // (D, facets)
};

template <int D> void reach_of(const float* lengths, const Filling& f, float* __restrict reach) {
    for (int64_t m = 0; m < f.count; m++) {
        float sum = 0;
        for (int d = 0; d < D; d++) sum += lengths[f.corners[d * f.count + m]] * f.shares[d * f.count + m];
        reach[m] = sum > 0 ? sum : 0;
    }
}

template <int D> float power(float x) { return D == 2 ? x * x : x * x * x; }

template <class F> double total(int64_t count, F&& term) {
    double lanes[LANES] = {}, sum = 0;
    int64_t m = 0;
    for (; m + LANES <= count; m += LANES)
        for (int i = 0; i < LANES; i++) lanes[i] += term(m + i);
    for (; m < count; m++) lanes[m % LANES] += term(m);
    for (double lane : lanes) sum += lane;
    return sum;
}

// The cell of the table that a coordinate in [-1, 1] is in, whatever rounding did to it; of NaN the first.
inline int32_t cell_of(float u, float grid) {
    const float cell = (u + 1) * (0.5f * grid);
    return int32_t(cell > 0 ? (cell < grid - 1 ? cell : grid - 1) : 0);
}

// The planes of a star's facets, (D, facets): Σ_k λ_k d_k = Σ_j forms[j][facet] x_j.
template <int D> void forms_of(const float* lengths, const Filling& f, float* __restrict forms) {
    for (int j = 0; j < D; j++)
        for (int64_t face = 0; face < f.facets; face++) {
            float sum = 0;
            for (int k = 0; k < D; k++)
                sum += lengths[f.faces[k * f.facets + face]] * f.inverses[(k * D + j) * f.facets + face];
            forms[j * f.facets + face] = sum;
        }
}

// ρ^D of the points from `first` on that lie outside of the star with these forms, 0 of the others. Loops are apart so
// that the compiler makes vectors of them.
template <int D>
void lost_points(const float* __restrict reach, float ratio, const float* centre, const float* __restrict forms,
                 const Filling& f, int64_t first, int64_t number, float* __restrict lost) {
    float u[D][CHUNK], length[CHUNK];
    int32_t facet[CHUNK];
    const float grid = float(f.grid);
    const float* __restrict points[D];
    for (int d = 0; d < D; d++) points[d] = f.points + d * f.count + first;
    for (int m = 0; m < number; m++) {
        float squared = 1e-30f;
        for (int d = 0; d < D; d++) {
            u[d][m] = centre[d] + reach[m] * ratio * points[d][m];
            squared += u[d][m] * u[d][m];
        }
        length[m] = std::sqrt(squared);
    }
    for (int m = 0; m < number; m++) {
        int32_t cell = 0;
        for (int d = 0; d < D; d++) {
            u[d][m] /= length[m];
            cell = cell * int32_t(f.grid) + cell_of(u[d][m], grid);
        }
        facet[m] = cell;
    }
    for (int m = 0; m < number; m++) facet[m] = f.table[facet[m]];
    const float *__restrict sums = f.sums;
    const int32_t facets = int32_t(f.facets);
    for (int m = 0; m < number; m++) {
        float outer = 0, inner = 0;  // where the point is on the surface, Σ λ_k and Σ λ_k d_k / ‖x‖
        for (int d = 0; d < D; d++) {
            outer += sums[d * facets + facet[m]] * u[d][m];
            inner += forms[d * facets + facet[m]] * u[d][m];
        }
        lost[m] = outer * length[m] > inner ? power<D>(reach[m]) : 0;
    }
}

// The share of a star, of this reach, that lies outside of the one with these forms, at `centre` as seen from it.
template <int D>
double outside(const float* reach, float ratio, const float* centre, const float* forms, const Filling& f) {
    double all = 0, missed = 0;
    for (int64_t first = 0; first < f.count; first += CHUNK) {
        const int64_t number = std::min(CHUNK, f.count - first);
        float lost[CHUNK];
        lost_points<D>(reach + first, ratio, centre, forms, f, first, number, lost);
        missed += total(number, [&](int64_t m) { return lost[m]; });
        all += total(number, [&](int64_t m) { return power<D>(reach[first + m]); });
    }
    return all > 0 ? missed / all : 0;
}

template <class F> void for_dimension(int64_t dimension, F&& body) {
    if (dimension == 2) body(Dimension<2>());
    else body(Dimension<3>());
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// The means of ρ^D and ρ^2D, `moments` (stars, 2), over the directions of a filling.
PCGEN_EXPORT int pcgen_star_moments(int64_t dimension, const float* lengths, int64_t stars, int64_t rays, int64_t count,
                                    const int32_t* corners, const float* shares, double* moments, int64_t threads) {
    return guarded([&] {
        const Filling f{count, 0, 0, nullptr, corners, shares, nullptr, nullptr, nullptr, nullptr};
        for_dimension(dimension, [&](auto dim) {
            constexpr int D = decltype(dim)::value;
            parallel_for((stars + STARS - 1) / STARS, threads, 1, [&](int64_t block) {
                std::vector<float> reach(count);
                for (int64_t s = block * STARS; s < std::min(stars, (block + 1) * STARS); s++) {
                    reach_of<D>(lengths + s * rays, f, reach.data());
                    const auto body = [&](int64_t m) { return double(power<D>(reach[m])); };
                    moments[2 * s] = total(count, body) / double(count);
                    moments[2 * s + 1] = total(count, [&](int64_t m) { return body(m) * body(m); }) / double(count);
                }
            });
        });
    });
}

// The share (pairs,) of each star a that lies in its star b. Lengths are over the radius of their star; `centre` is that
// of a as seen from b and `ratio` the radius of a, both over the radius of b.
PCGEN_EXPORT int pcgen_star_shares(int64_t dimension, const float* lengths, int64_t rays, int64_t count,
                                   const float* points, const int32_t* corners, const float* shares, int64_t grid,
                                   const int32_t* table, int64_t facets, const int32_t* faces, const float* inverses,
                                   const float* sums, int64_t pairs, const int64_t* a, const int64_t* b,
                                   const float* centre, const float* ratio, double* share, int64_t threads) {
    return guarded([&] {
        const Filling f{count, facets, grid, points, corners, shares, table, faces, inverses, sums};
        for_dimension(dimension, [&](auto dim) {
            constexpr int D = decltype(dim)::value;
            parallel_for((pairs + PAIRS - 1) / PAIRS, threads, 1, [&](int64_t block) {
                std::vector<float> reach(count), forms(D * facets);
                for (int64_t p = block * PAIRS; p < std::min(pairs, (block + 1) * PAIRS); p++) {
                    reach_of<D>(lengths + a[p] * rays, f, reach.data());
                    forms_of<D>(lengths + b[p] * rays, f, forms.data());
                    share[p] = 1 - outside<D>(reach.data(), ratio[p], centre + p * D, forms.data(), f);
                }
            });
        });
    });
}
