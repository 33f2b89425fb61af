// The voxels in which points lie: pcgen/ops/reference/segments.py says what they are.
//
// A cloud and a cell make one number, in their order. Rows are sorted by it, digit after digit (Knuth, The Art of
// Computer Programming 3, 5.2.5), which takes a time proportional to their number; then a voxel's rows are neighbours.
#include <cmath>
#include <cstring>
#include <utility>

#include "parallel.h"

namespace pcgen {
namespace {

constexpr int DIGIT = 11;  // bits; that many counters stay in the nearest cache
constexpr int64_t CHUNK = 1 << 16, MOST_ROWS = int64_t(1) << 32;
constexpr double EXACT = 0x1p53;  // numbers below it are told from the next

struct Chunk {
    int64_t cloud, begin, end;
    int64_t first = 0, count = 0;  // of its rows that lie in a voxel, the first and the number
};

struct Row {
    uint64_t key;
    uint32_t row;
};

template <class T> struct Clouds {
    const T* x;
    int64_t dimension;
    const double* size;

    double cell(int64_t row, int64_t d) const { return std::floor(double(x[row * dimension + d]) / size[d]); }
    bool inside(int64_t row) const {
        bool all = true;
        for (int64_t d = 0; d < dimension; d++) all &= std::abs(cell(row, d)) < EXACT;  // no NaN is
        return all;
    }
};

std::vector<Chunk> chunks_of(const Span* spans, int64_t batch) {
    std::vector<Chunk> chunks;
    for (int64_t b = 0; b < batch; b++) {
        const int64_t end = spans[b].start + spans[b].count;
        for (int64_t row = spans[b].start; row < end; row += CHUNK)
            chunks.push_back({b, row, std::min(end, row + CHUNK)});
    }
    return chunks;
}

// The least and the greatest cell of an axis, and how many there are from one to the other.
struct Axis {
    double least = std::numeric_limits<double>::infinity(), greatest = -least;
    double cells() const { return greatest - least + 1; }
};

// Counts the rows of each chunk, numbers them, and returns the axes.
template <class T>
std::vector<Axis> survey(const Clouds<T>& clouds, std::vector<Chunk>& chunks, int64_t threads) {
    std::vector<std::vector<Axis>> found(chunks.size(), std::vector<Axis>(clouds.dimension));
    parallel_for(int64_t(chunks.size()), threads, 1, [&](int64_t c) {
        for (int64_t row = chunks[c].begin; row < chunks[c].end; row++) {
            if (!clouds.inside(row)) continue;
            chunks[c].count++;
            for (int64_t d = 0; d < clouds.dimension; d++) {
                Axis& axis = found[c][d];
                const double cell = clouds.cell(row, d);
                axis = {std::min(axis.least, cell), std::max(axis.greatest, cell)};
            }
        }
    });
    std::vector<Axis> axes(clouds.dimension);
    int64_t first = 0;
    for (size_t c = 0; c < chunks.size(); c++) {
        chunks[c].first = std::exchange(first, first + chunks[c].count);
        for (int64_t d = 0; d < clouds.dimension; d++)
            axes[d] = {std::min(axes[d].least, found[c][d].least), std::max(axes[d].greatest, found[c][d].greatest)};
    }
    return axes;
}

// Sorts by the lowest `bits` bits of the keys; rows of one key keep their order.
void sort(std::vector<Row>& rows, int bits, int64_t threads) {
    const int64_t n = int64_t(rows.size()), parts = std::max<int64_t>(1, std::min(threads, n / CHUNK));
    std::vector<Row> other(bits ? n : 0);
    std::vector<std::vector<int64_t>> next(parts, std::vector<int64_t>(1 << DIGIT));
    for (int shift = 0; shift < bits; shift += DIGIT) {
        const auto digit = [&](const Row& row) { return row.key >> shift & ((1 << DIGIT) - 1); };
        const auto for_part = [&](int64_t p, auto&& work) {
            for (int64_t i = n * p / parts; i < n * (p + 1) / parts; i++) work(rows[i]);
        };
        parallel_for(parts, threads, 1, [&](int64_t p) {
            std::fill(next[p].begin(), next[p].end(), 0);
            for_part(p, [&](const Row& row) { next[p][digit(row)]++; });
        });
        int64_t place = 0;
        for (int d = 0; d < 1 << DIGIT; d++)
            for (int64_t p = 0; p < parts; p++) place += std::exchange(next[p][d], place);
        parallel_for(parts, threads, 1, [&](int64_t p) {
            for_part(p, [&](const Row& row) { other[next[p][digit(row)]++] = row; });
        });
        std::swap(rows, other);
    }
}

template <class T>
int64_t voxels(const Clouds<T>& clouds, int64_t rows, const Span* spans, int64_t batch, int64_t* group,
               int64_t* cells, int64_t* counts, int64_t* cloud, int64_t threads) {
    std::vector<Chunk> chunks = chunks_of(spans, batch);
    const std::vector<Axis> axes = survey(clouds, chunks, threads);
    const int64_t n = chunks.empty() ? 0 : chunks.back().first + chunks.back().count;
    double keys = double(batch);
    for (const Axis& axis : axes) keys *= n ? axis.cells() : 1;
    if (rows >= MOST_ROWS || !(keys < 0x1p63)) return -1;

    std::vector<Row> sorted(n);
    parallel_for(int64_t(chunks.size()), threads, 1, [&](int64_t c) {
        Row* out = sorted.data() + chunks[c].first;
        for (int64_t row = chunks[c].begin; row < chunks[c].end; row++) {
            if (!clouds.inside(row)) continue;
            uint64_t key = chunks[c].cloud;
            for (int64_t d = 0; d < clouds.dimension; d++)
                key = key * uint64_t(axes[d].cells()) + uint64_t(clouds.cell(row, d) - axes[d].least);
            *out++ = {key, uint32_t(row)};
        }
    });
    sort(sorted, keys > 1 ? std::ilogb(keys - 0.5) + 1 : 0, threads);

    uint64_t per_cloud = 1;
    for (const Axis& axis : axes) per_cloud *= n ? uint64_t(axis.cells()) : 1;
    int64_t voxel = -1;
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = sorted[i].row;
        if (!i || sorted[i].key != sorted[i - 1].key) {
            voxel++;
            counts[voxel] = 0;
            cloud[voxel] = int64_t(sorted[i].key / per_cloud);
            for (int64_t d = 0; d < clouds.dimension; d++)
                cells[voxel * clouds.dimension + d] = int64_t(clouds.cell(row, d));
        }
        counts[voxel]++;
        group[row] = voxel;
    }
    return voxel + 1;
}

}  // namespace
}  // namespace pcgen
using namespace pcgen;

// `group` comes filled with −1, the rest with room for as many voxels as rows. `found` becomes the number of voxels,
// −1 where clouds and cells are more than 63 bits can number.
PCGEN_EXPORT int pcgen_voxel_groups(int64_t is_double, int64_t dimension, const void* x, int64_t rows,
                                    const Span* spans, int64_t batch, const double* size, int64_t* group,
                                    int64_t* cells, int64_t* counts, int64_t* cloud, int64_t* found,
                                    int64_t threads) {
    return guarded([&] {
        const auto with = [&](auto zero) {
            using T = decltype(zero);
            const Clouds<T> clouds{(const T*)x, dimension, size};
            *found = voxels(clouds, rows, spans, batch, group, cells, counts, cloud, threads);
        };
        if (is_double) with(double());
        else with(float());
    });
}
