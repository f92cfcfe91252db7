// Compiled once per instruction set, into the namespace RECYCLESEG_ISA. Squares are added in one
// order everywhere, z and y first, and never contracted, so that equal distances have equal bits.
#include "surface_distances_simd.hpp"

#include "simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

constexpr double kInfinity = __builtin_inf();

// One bit for each of 64 bytes that are 0 or 1.
INLINE std::uint64_t pack(const std::uint8_t* flags) {
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, flags + 8 * i, 8);
    bits |= (eight * 0x0102040810204080u >> 56) << (8 * i);
  }
  return bits;
}

#ifdef __AVX512F__
INLINE std::uint64_t equal64(const std::uint8_t* labels, std::uint8_t value) {
  return _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(labels), _mm512_set1_epi8(value));
}
INLINE std::uint64_t equal64(const std::int16_t* labels, std::int16_t value) {
  std::uint64_t bits = 0;
  for (int i = 0; i < 2; ++i)
    bits |= std::uint64_t{_mm512_cmpeq_epi16_mask(_mm512_loadu_si512(labels + 32 * i),
                                                  _mm512_set1_epi16(value))}
            << (32 * i);
  return bits;
}
INLINE std::uint64_t equal64(const std::int32_t* labels, std::int32_t value) {
  std::uint64_t bits = 0;
  for (int i = 0; i < 4; ++i)
    bits |= std::uint64_t{_mm512_cmpeq_epi32_mask(_mm512_loadu_si512(labels + 16 * i),
                                                  _mm512_set1_epi32(value))}
            << (16 * i);
  return bits;
}
INLINE std::uint64_t equal64(const std::int64_t* labels, std::int64_t value) {
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i)
    bits |= std::uint64_t{_mm512_cmpeq_epi64_mask(_mm512_loadu_si512(labels + 8 * i),
                                                  _mm512_set1_epi64(value))}
            << (8 * i);
  return bits;
}
#else
template <class T>
INLINE std::uint64_t equal64(const T* labels, T value) {
  std::uint8_t flags[64];
  for (int i = 0; i < 64; ++i) flags[i] = labels[i] == value;
  return pack(flags);
}
#endif

template <class T>
void equal(const T* labels, std::int64_t count, T value, std::uint64_t* bits) {
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) bits[i / 64] |= equal64(labels + i, value);
  if (i == count) return;
  std::uint8_t flags[64] = {};
  for (std::int64_t j = i; j < count; ++j) flags[j - i] = labels[j] == value;
  bits[i / 64] |= pack(flags);
}

template <class T>
std::int64_t run(const T* labels, std::int64_t count) {
  const T value = labels[0];
  std::int64_t i = 1;
  for (; i + 64 <= count; i += 64)
    if (const std::uint64_t other = ~equal64(labels + i, value)) return i + __builtin_ctzll(other);
  while (i < count && labels[i] == value) ++i;
  return i;
}

// Squared distance from voxel x of a row to the nearest bit in the rows around it, or an upper
// bound of it, where it is beyond the search's radius.
INLINE double near_squared(const std::uint64_t* row, std::int64_t x, const NearSearch& near) {
  // The word that starts at this byte holds bit x at the place `bit`, 28 to 35.
  const std::int64_t byte = ((x + 4) >> 3) - 4;
  const int bit = static_cast<int>(x - 8 * byte);
  const char* const base = reinterpret_cast<const char*>(row) + byte;
  double best = kInfinity;
  for (std::int64_t i = 0; i < near.num_steps && near.steps[i].squared < best; ++i) {
    std::uint64_t window;
    __builtin_memcpy(&window, base + near.steps[i].offset, 8);
    const std::uint64_t right = window >> bit, left = window << (63 - bit);
    const int to_right = right ? __builtin_ctzll(right) : 64;
    const int to_left = left ? __builtin_clzll(left) : 64;
    const int along = to_right < to_left ? to_right : to_left;
    const double squared = near.steps[i].squared + near.squared_along[along];
    best = squared < best ? squared : best;
  }
  return best;
}

INLINE double squared_between(const Point& a, const Point& b, const Spacing& spacing) {
  const double z = (a.z - b.z) * spacing.z, y = (a.y - b.y) * spacing.y,
               x = (a.x - b.x) * spacing.x;
  return (z * z + y * y) + x * x;
}

// For each axis the extent from `from` to a cube of `size` voxels: lower bounds of the squared
// distances to kWidth cubes, less than they are by more than the rounding of floats.
INLINE Floats lower_bounds(const std::int32_t* const corner[3], std::int64_t first,
                           const Point& from, std::int32_t size, const float spacing[3]) {
  const std::int32_t own[3] = {from.z, from.y, from.x};
  Floats sum{};
  for (int axis = 0; axis < 3; ++axis) {
    Ints low;
    __builtin_memcpy(&low, corner[axis] + first, sizeof(low));
    low -= own[axis];
    const Ints high = -(low + (size - 1));
    Ints gap = low > high ? low : high;
    gap = gap > 0 ? gap : Ints{};
    const Floats extent = __builtin_convertvector(gap, Floats) * spacing[axis];
    sum += extent * extent;
  }
  return sum * (1 - 1e-6f);
}

// Improves `nearest`, and its squared distance `best` from `from`, by the points of one cell.
INLINE void search_cell(const FarSearch& far, std::int64_t cell, const Point& from,
                        const Spacing& spacing, double& best, Point& nearest) {
  const Point corner{far.cell_corner[0][cell], far.cell_corner[1][cell], far.cell_corner[2][cell]};
  double z[kCellSize], y[kCellSize], x[kCellSize];
  for (int i = 0; i < kCellSize; ++i) {
    z[i] = (corner.z + i - from.z) * spacing.z;
    y[i] = (corner.y + i - from.y) * spacing.y;
    x[i] = (corner.x + i - from.x) * spacing.x;
    z[i] *= z[i], y[i] *= y[i], x[i] *= x[i];
  }
  for (std::uint64_t points = far.cell_points[cell]; points != 0; points &= points - 1) {
    const int i = __builtin_ctzll(points);
    const double squared = (z[i >> 4] + y[i >> 2 & 3]) + x[i & 3];
    if (squared < best) {
      best = squared;
      nearest = {corner.z + (i >> 4), corner.y + (i >> 2 & 3), corner.x + (i & 3)};
    }
  }
}

// Calls visit(i) for the cubes i in [first, end) that may hold a point closer than `best`.
template <class Visit>
INLINE void for_close_cubes(const std::int32_t* const corner[3], std::int64_t first,
                            std::int64_t end, std::int32_t size, const Point& from,
                            const float spacing[3], const double& best, Visit&& visit) {
  for (; first < end; first += kWidth) {
    const Floats bounds = lower_bounds(corner, first, from, size, spacing);
    const Ints close = bounds < static_cast<float>(best) * (1 + 1e-6f);
    std::uint64_t any = 0;
    for (unsigned i = 0; i < sizeof(close) / 8; ++i) {
      std::uint64_t pair;
      __builtin_memcpy(&pair, reinterpret_cast<const char*>(&close) + 8 * i, 8);
      any |= pair;
    }
    if (any == 0) continue;
    for (int lane = 0; lane < kWidth && first + lane < end; ++lane)
      if (close[lane] && bounds[lane] < best) visit(first + lane);
  }
}

double far_squared(const FarSearch& far, const Point& from, const Spacing& spacing,
                   Point& nearest) {
  const float lengths[3] = {static_cast<float>(spacing.z), static_cast<float>(spacing.y),
                            static_cast<float>(spacing.x)};
  double best = squared_between(from, nearest, spacing);
  for_close_cubes(far.block_corner, 0, far.num_blocks, kBlockSize, from, lengths, best,
                  [&](std::int64_t block) {
                    for_close_cubes(far.cell_corner, far.first_cell[block],
                                    far.first_cell[block + 1], kCellSize, from, lengths, best,
                                    [&](std::int64_t cell) {
                                      search_cell(far, cell, from, spacing, best, nearest);
                                    });
                  });
  return best;
}

// Whether no point can be as near as the near search looks: distances of voxels differ by no more
// than the voxels are apart.
INLINE bool surely_far(const Point& from, const LastFar& last, const NearSearch& near,
                       const Spacing& spacing) {
  if (!last.known) return false;
  const double apart = __builtin_sqrt(squared_between(from, last.from, spacing));
  const double least = (last.distance - apart) * (1 - 1e-6);
  return least > 0 && least * least > near.squared_radius;
}

std::int64_t nearest(const RowQuery& query, const NearSearch& near, const FarSearch* far,
                     const Spacing& spacing, LastFar& last, double* squared) {
  std::int64_t count = 0;
  for (std::int64_t word = 0; word < query.words; ++word) {
    for (std::uint64_t bits = query.own[word] & ~query.target[word]; bits != 0; bits &= bits - 1) {
      const std::int64_t x = 64 * word + __builtin_ctzll(bits);
      const Point from{query.z, query.y, static_cast<std::int32_t>(x)};
      double& result = squared[count++];
      result = surely_far(from, last, near, spacing) ? kInfinity
                                                     : near_squared(query.target, x, near);
      if (result <= near.squared_radius) continue;
      result = kInfinity;
      if (far == nullptr || far->num_blocks == 0) continue;
      if (!last.known) {
        const int i = __builtin_ctzll(far->cell_points[0]);
        last.nearest = {far->cell_corner[0][0] + (i >> 4), far->cell_corner[1][0] + (i >> 2 & 3),
                        far->cell_corner[2][0] + (i & 3)};
      }
      result = far_squared(*far, from, spacing, last.nearest);
      last.known = true;
      last.from = from;
      last.distance = __builtin_sqrt(result);
    }
  }
  return count;
}

}  // namespace

extern const SurfaceLoops kSurfaceLoops;
const SurfaceLoops kSurfaceLoops{{equal<std::uint8_t>, run<std::uint8_t>},
                                 {equal<std::int16_t>, run<std::int16_t>},
                                 {equal<std::int32_t>, run<std::int32_t>},
                                 {equal<std::int64_t>, run<std::int64_t>},
                                 nearest};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
