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

// Lower bounds of the squared distances from a voxel to kWidth cubes of `size` voxels a side: less
// than they are by more than the rounding of floats.
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
  const auto& corners = far.levels[0].corner;
  const Point corner{corners[0][cell], corners[1][cell], corners[2][cell]};
  double z[4], y[4], x[4];
  for (int i = 0; i < 4; ++i) {
    z[i] = (corner.z + i - from.z) * spacing.z;
    y[i] = (corner.y + i - from.y) * spacing.y;
    x[i] = (corner.x + i - from.x) * spacing.x;
    z[i] *= z[i], y[i] *= y[i], x[i] *= x[i];
  }
  for (std::uint64_t points = far.points[cell]; points != 0; points &= points - 1) {
    const int i = __builtin_ctzll(points);
    const double squared = (z[i >> 4] + y[i >> 2 & 3]) + x[i & 3];
    if (squared < best) {
      best = squared;
      nearest = {corner.z + (i >> 4), corner.y + (i >> 2 & 3), corner.x + (i & 3)};
    }
  }
}

// One bit for each lane that is not 0.
INLINE std::uint32_t lanes_set(const Ints& lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(copy_bits<__m512i>(lanes));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= (lanes[i] & 1u) << i;
  return bits;
#endif
}

// Searches the cubes [first, end) of one level that may hold a point closer than `best`.
template <int kLevel>
INLINE void search_cubes(const FarSearch& far, std::int64_t first, std::int64_t end,
                         const Point& from, const Spacing& spacing, const float lengths[3],
                         double& best, Point& nearest) {
  const FarSearch::Cubes& cubes = far.levels[kLevel];
  for (; first < end; first += kWidth) {
    const Floats bounds = lower_bounds(cubes.corner, first, from, kCubeSize[kLevel], lengths);
    std::uint32_t close = lanes_set(bounds < static_cast<float>(best) * (1 + 1e-6f));
    if (end - first < kWidth) close &= (1u << (end - first)) - 1;
    for (; close != 0; close &= close - 1) {
      const int lane = __builtin_ctz(close);
      if (bounds[lane] >= best) continue;
      if constexpr (kLevel == 0)
        search_cell(far, first + lane, from, spacing, best, nearest);
      else
        search_cubes<kLevel - 1>(far, cubes.first_child[first + lane],
                                 cubes.first_child[first + lane + 1], from, spacing, lengths, best,
                                 nearest);
    }
  }
}

INLINE double far_squared(const FarSearch& far, const Point& from, const Spacing& spacing,
                          Point& nearest) {
  const float lengths[3] = {static_cast<float>(spacing.z), static_cast<float>(spacing.y),
                            static_cast<float>(spacing.x)};
  double best = squared_between(from, nearest, spacing);
  search_cubes<kLevels - 1>(far, 0, far.levels[kLevels - 1].count, from, spacing, lengths, best,
                            nearest);
  return best;
}

// Whether no point can be as near as the near search looks: distances of voxels differ by no more
// than the voxels are apart.
INLINE bool surely_far(const Point& from, const FarHint& hint, const NearSearch& near,
                       const Spacing& spacing) {
  if (!hint.known) return false;
  const double apart = __builtin_sqrt(squared_between(from, hint.from, spacing));
  const double least = (hint.distance - apart) * (1 - 1e-6);
  return least > 0 && least * least > near.squared_radius;
}

std::int64_t nearest(const RowQuery& query, const NearSearch& near, const FarSearch* far,
                     const Spacing& spacing, FarHint* hints, double* squared) {
  std::int64_t count = 0;
  // Where no hint is known yet, the search starts from the point found last, or any.
  Point last{};
  if (far != nullptr && far->levels[0].count != 0) {
    const auto& corner = far->levels[0].corner;
    const int i = __builtin_ctzll(far->points[0]);
    last = {corner[0][0] + (i >> 4), corner[1][0] + (i >> 2 & 3), corner[2][0] + (i & 3)};
  }
  for (std::int64_t word = 0; word < query.words; ++word) {
    for (std::uint64_t bits = query.own[word] & ~query.target[word]; bits != 0; bits &= bits - 1) {
      const std::int64_t x = 64 * word + __builtin_ctzll(bits);
      const Point from{query.z, query.y, static_cast<std::int32_t>(x)};
      FarHint& hint = hints[x / kHintWidth];
      double& result = squared[count++];
      result =
          surely_far(from, hint, near, spacing) ? kInfinity : near_squared(query.target, x, near);
      if (result <= near.squared_radius) continue;
      result = kInfinity;
      if (far == nullptr || far->levels[0].count == 0) continue;
      if (hint.known &&
          squared_between(from, hint.nearest, spacing) < squared_between(from, last, spacing))
        last = hint.nearest;
      result = far_squared(*far, from, spacing, last);
      hint = {true, from, last, __builtin_sqrt(result)};
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
