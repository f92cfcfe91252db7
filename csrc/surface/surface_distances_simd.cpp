// Compiled once per instruction set, into the namespace RECYCLESEG_ISA. Squares are added in one
// order everywhere, z and y first, and never contracted, so that equal distances have equal bits.
#include "surface/surface_distances_simd.hpp"

#include "common/simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

constexpr double kInfinity = __builtin_inf();

void border(const FaceNeighbours& rows, std::int64_t words, std::uint64_t* border) {
  const auto [own, above, below, before, behind] = rows;
  for (std::int64_t w = 0; w < words; ++w) {
    const std::uint64_t left = own[w] << 1 | own[w - 1] >> 63;
    const std::uint64_t right = own[w] >> 1 | own[w + 1] << 63;
    border[w] = own[w] & ~(left & right & above[w] & below[w] & before[w] & behind[w]);
  }
}

std::int64_t shared(const std::uint64_t* a, const std::uint64_t* b, std::int64_t words) {
  std::int64_t count = 0;
  for (std::int64_t w = 0; w < words; ++w) count += __builtin_popcountll(a[w] & b[w]);
  return count;
}

// The window of bits around voxel x: where it starts, in bytes from the row's, and the bit of it
// that is voxel x, 28 to 35.
struct Window {
  std::int64_t byte;
  int bit;
  explicit Window(std::int64_t x) : byte(((x + 4) >> 3) - 4), bit(static_cast<int>(x - 8 * byte)) {}
};

// The nearest point found so far.
struct Best {
  double squared;
  Point point;
};

// From the window's voxel to the nearest bit of a row: voxels along x, left or right; 64 if there
// is none.
struct Along {
  int left, right;
  INLINE Along(const char* row, const Window& window) {
    std::uint64_t bits;
    __builtin_memcpy(&bits, row + window.byte, 8);
    const std::uint64_t at_right = bits >> window.bit, at_left = bits << (63 - window.bit);
    right = at_right ? __builtin_ctzll(at_right) : 64;
    left = at_left ? __builtin_clzll(at_left) : 64;
  }
  INLINE int length() const { return right < left ? right : left; }
  INLINE int signed_length() const { return right < left ? right : -left; }
};

// The bits of a double that is not negative, as an integer: they are ordered as the doubles are.
INLINE std::int64_t ordinal(double value) { return copy_bits<std::int64_t>(value); }

// The row that holds the nearest point, if it is nearer than `least`, else -1. `least` becomes its
// distance. This function is not inlined, so that its few variables stay in registers; it compares
// integers, so that no branch is taken for a new least.
__attribute__((noinline)) std::int64_t nearest_row(const char* row, const Window& window,
                                                   const NearSearch& near, double& least) {
  const RowStep* const rows = near.rows;
  const std::int64_t num_rows = near.num_rows;
  std::int64_t ordinal_of_least = ordinal(least), found = -1;
  for (std::int64_t i = 0; i < num_rows && ordinal(rows[i].squared) < ordinal_of_least; ++i) {
    const Along along(row + rows[i].offset, window);
    const std::int64_t own = ordinal(rows[i].squared + near.squared_along[along.length()]);
    found = own < ordinal_of_least ? i : found;
    ordinal_of_least = own < ordinal_of_least ? own : ordinal_of_least;
  }
  least = copy_bits<double>(ordinal_of_least);
  return found;
}

// Improves `best` by the groups of rows around voxel x of a row.
__attribute__((noinline)) void search_groups(const RowQuery& query, std::int64_t x,
                                             const Window& window, std::int64_t place,
                                             const NearSearch& near, Best& best) {
  const char* const row = reinterpret_cast<const char*>(query.target);
  const char* const group_row = reinterpret_cast<const char*>(query.target_group);
  const GroupStep* const groups = near.groups[place];
  for (std::int64_t i = 0; i < near.num_groups[place] && groups[i].squared < best.squared; ++i) {
    const GroupStep& group = groups[i];
    const Along along(group_row + group.offset, window);
    if (group.squared + near.squared_along[along.length()] >= best.squared) continue;
    for (std::int32_t z = group.z; z < group.z + near.group.z; ++z)
      for (std::int32_t y = group.y; y < group.y + near.group.y; ++y) {
        const Along own(row + z * near.stride_z + y * near.stride_y, window);
        const double squared =
            (near.squared_z[z] + near.squared_y[y]) + near.squared_along[own.length()];
        if (squared < best.squared)
          best = {squared,
                  {query.z + z, query.y + y, static_cast<std::int32_t>(x + own.signed_length())}};
      }
  }
}

// Improves `best` by the rows around voxel x of a row. Where it is then beyond the search's radius,
// there may be a nearer point still.
INLINE void search_near(const RowQuery& query, std::int64_t x, std::int64_t place,
                        const NearSearch& near, Best& best) {
  const Window window(x);
  const char* const row = reinterpret_cast<const char*>(query.target);
  const std::int64_t found = nearest_row(row, window, near, best.squared);
  if (found >= 0) {
    const RowStep& step = near.rows[found];
    const Along along(row + step.offset, window);
    best.point = {query.z + step.z, query.y + step.y,
                  static_cast<std::int32_t>(x + along.signed_length())};
  }
  if (best.squared > near.squared_rows) search_groups(query, x, window, place, near, best);
}

// Lower bounds of the squared distances from a voxel to kWidth cubes of `size` voxels a side. They
// are reduced by more than the rounding of floats, so that no cube is left out by it.
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

// Improves `best` by the points of one cell.
INLINE void search_cell(const FarSearch& far, std::int64_t cell, const Point& from,
                        const Spacing& spacing, Best& best) {
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
    if (squared < best.squared)
      best = {squared, {corner.z + (i >> 4), corner.y + (i >> 2 & 3), corner.x + (i & 3)}};
  }
}

// One bit for each lane that is not 0.
INLINE std::uint32_t lanes_set(const Ints& lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(copy_bits<__m512i>(lanes));
#elif defined(__AVX2__)
  return _mm256_movemask_ps(copy_bits<__m256>(lanes));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= (lanes[i] & 1u) << i;
  return bits;
#endif
}

// Searches the cubes [first, end) of one level that may hold a point nearer than `best`.
template <int kLevel>
INLINE void search_cubes(const FarSearch& far, std::int64_t first, std::int64_t end,
                         const Point& from, const Spacing& spacing, const float lengths[3],
                         Best& best) {
  const FarSearch::Cubes& cubes = far.levels[kLevel];
  for (; first < end; first += kWidth) {
    const Floats bounds = lower_bounds(cubes.corner, first, from, kCubeSize[kLevel], lengths);
    std::uint32_t close = lanes_set(bounds < static_cast<float>(best.squared) * (1 + 1e-6f));
    if (end - first < kWidth) close &= (1u << (end - first)) - 1;
    for (; close != 0; close &= close - 1) {
      const int lane = __builtin_ctz(close);
      if (bounds[lane] >= best.squared) continue;
      if constexpr (kLevel == 0)
        search_cell(far, first + lane, from, spacing, best);
      else
        search_cubes<kLevel - 1>(far, cubes.first_child[first + lane],
                                 cubes.first_child[first + lane + 1], from, spacing, lengths, best);
    }
  }
}

// Whether no point can be as near as the near search looks: distances of voxels differ by no more
// than the voxels are apart.
INLINE bool surely_far(const Point& from, const Hint& hint, const NearSearch& near,
                       const Spacing& spacing) {
  if (!hint.known || hint.squared <= near.squared_radius) return false;
  const double apart = __builtin_sqrt(squared_between(from, hint.from, spacing));
  const double least = (__builtin_sqrt(hint.squared) - apart) * (1 - 1e-6);
  return least > 0 && least * least > near.squared_radius;
}

// A point to start from: one of the first cell.
INLINE Point any_point(const FarSearch& far) {
  const auto& corner = far.levels[0].corner;
  const int i = __builtin_ctzll(far.points[0]);
  return {corner[0][0] + (i >> 4), corner[1][0] + (i >> 2 & 3), corner[2][0] + (i & 3)};
}

// Improves `best` by all points. Not inlined, so that the loop over near points keeps its
// registers.
__attribute__((noinline)) void search_far(const FarSearch& far, const Point& from,
                                          const Spacing& spacing, Best& best) {
  const float lengths[3] = {static_cast<float>(spacing.z), static_cast<float>(spacing.y),
                            static_cast<float>(spacing.x)};
  if (best.squared == kInfinity) {
    const Point start = any_point(far);
    best = {squared_between(from, start, spacing), start};
  }
  search_cubes<kLevels - 1>(far, 0, far.levels[kLevels - 1].count, from, spacing, lengths, best);
}

RowDistances nearest(const RowQuery& query, const NearSearch& near, const FarSearch* far,
                     const Spacing& spacing, Hint* hints, std::int64_t* short_counts,
                     double* squared) {
  const std::int64_t place =
      (query.z & (near.group.z - 1)) * near.group.y + (query.y & (near.group.y - 1));
  std::int64_t written = 0;
  Best best{kInfinity, {}};  // of the voxel before, in this row
  std::uint64_t seen = (std::uint64_t{1} << query.first % 64) - 1;
  for (std::int64_t word = query.first / 64; word < query.words; ++word, seen = 0) {
    std::uint64_t bits = query.own[word] & ~query.target[word] & ~seen;
    for (; bits != 0; bits &= bits - 1) {
      const std::int64_t x = 64 * word + __builtin_ctzll(bits);
      const Point from{query.z, query.y, static_cast<std::int32_t>(x)};
      Hint& hint = hints[x / kHintWidth];
      if (best.squared != kInfinity) best.squared = squared_between(from, best.point, spacing);
      if (hint.known) {
        const double known = squared_between(from, hint.nearest, spacing);
        const Point* const nearer = known < best.squared ? &hint.nearest : &best.point;
        best = {known < best.squared ? known : best.squared, *nearer};
      }
      if (!surely_far(from, hint, near, spacing)) search_near(query, x, place, near, best);
      if (best.squared > near.squared_radius) {
        if (far == nullptr) return {written, x};
        if (far->levels[0].count == 0) {
          squared[written++] = kInfinity;
          continue;
        }
        search_far(*far, from, spacing, best);
      }
      hint = {true, from, best.point, best.squared};
      const std::uint16_t steps = steps_between(from, best.point);
      if (short_counts != nullptr && steps != kManySteps)
        ++short_counts[steps];
      else
        squared[written++] = best.squared;
    }
  }
  return {written, 64 * query.words};
}

}  // namespace

extern const SurfaceLoops kSurfaceLoops;
const SurfaceLoops kSurfaceLoops{border, shared, nearest};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
