// Compiled once per instruction set, into the namespace RECYCLESEG_ISA.
#include "transform/distance_transform_simd.hpp"

#include "common/simd_vector.hpp"
#include "transform/distance_search.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

// Whether a < b in any lane.
INLINE bool any_below(const Floats& a, const Floats& b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(copy_bits<__m512>(a), copy_bits<__m512>(b), _CMP_LT_OQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(copy_bits<__m256>(a < b)) != 0;
#else
  using Pair = std::int64_t __attribute__((vector_size(16)));
  const Pair below = copy_bits<Pair>(a < b);
  return (below[0] | below[1]) != 0;
#endif
}

// As many of kDistanceLanes interleaved lines as a vector has lanes.
struct Lines {
  using Value = Floats;
  const float* values;
  const float* squares;  // of 0, 1, ... times the spacing
  Value floor;           // of all values, per lane

  INLINE static Value smaller(const Value& a, const Value& b) { return a < b ? a : b; }
  INLINE Value value(std::int64_t j) const {
    Value loaded;
    __builtin_memcpy(&loaded, values + j * kDistanceLanes, sizeof(loaded));
    return loaded;
  }
  INLINE float square(std::int64_t k) const { return squares[k]; }
  INLINE bool may_improve(const Value& best, std::int64_t k) const {
    return any_below(floor + squares[k], best);
  }
};

// What distance_scratch_size() has room for.
struct Scratch {
  float* values;
  float* squares;
  float* roots;
  std::int32_t* vertices;
  std::int32_t* starts;

  Scratch(float* memory, std::int64_t length)
      : values(memory),
        squares(values + kDistanceLanes * length),
        roots(squares + length),
        vertices(reinterpret_cast<std::int32_t*>(roots + length)),
        starts(vertices + length) {}
};

// One of the lines, in place, by the lower envelope of the parabolas rooted at its finite
// elements, from left to right (Felzenszwalb and Huttenlocher, Theory of Computing 8, 2012):
// parabola p of `count` is lowest at the integers from starts[p] to before starts[p + 1], at one
// integer at least.
void by_envelope(float* line, std::int64_t size, double spacing, const Scratch& scratch) {
  const auto length = static_cast<std::int32_t>(size);
  float* roots = scratch.roots;
  std::int32_t* vertices = scratch.vertices;
  std::int32_t* starts = scratch.starts;
  const double scale = 1 / (spacing * spacing);
  std::int32_t count = 0;
  for (std::int32_t j = 0; j < length; ++j) {
    const float root = line[j * kDistanceLanes];
    if (root == __builtin_inff()) continue;
    std::int32_t start = 0;
    for (; count > 0; --count) {
      const std::int32_t v = vertices[count - 1];
      const double rise = (static_cast<double>(root) - roots[count - 1]) * scale;
      const double meet = 0.5 * (rise / (j - v) + (j + v));
      start = meet < 0 ? 0 : meet < length ? static_cast<std::int32_t>(meet) + 1 : length;
      if (start > starts[count - 1]) break;
      start = 0;
    }
    if (start == length) continue;
    starts[count] = start;
    roots[count] = root;
    vertices[count++] = j;
  }
  if (count == 0) return;  // all are infinite
  starts[count] = length;
  for (std::int32_t p = 0; p < count; ++p) {
    const std::int32_t v = vertices[p];
    for (std::int32_t i = starts[p]; i < starts[p + 1]; ++i)
      line[i * kDistanceLanes] = roots[p] + scratch.squares[i < v ? v - i : i - v];
  }
}

// After kBudget steps for each element, and for kAdvance elements more, the search gives way to the
// envelope, which takes about as long.
constexpr std::int64_t kBudget = 64, kAdvance = 16;

template <bool kRoot>
INLINE void store_result(Floats squared, float* out) {
  if (kRoot)
    for (int l = 0; l < kWidth; ++l) squared[l] = static_cast<float>(__builtin_sqrt(squared[l]));
  __builtin_memcpy(out, &squared, sizeof(squared));
}

// Transforms the kDistanceLanes lines in scratch.values.
template <bool kRoot>
void transform(const Scratch& scratch, std::int64_t length, double spacing, float* out,
               std::int64_t stride) {
  for (std::int64_t k = 0; k < length; ++k) {
    const double distance = static_cast<double>(k) * spacing;
    scratch.squares[k] = static_cast<float>(distance * distance);
  }
  for (std::int64_t lane = 0; lane < kDistanceLanes; lane += kWidth) {
    Lines lines{scratch.values + lane, scratch.squares, {}};
    lines.floor = lines.value(0);
    for (std::int64_t j = 1; j < length; ++j)
      lines.floor = Lines::smaller(lines.floor, lines.value(j));

    std::int64_t i = 0;
    for (std::int64_t steps = 0; i < length && steps <= kBudget * (i + kAdvance); ++i)
      store_result<kRoot>(nearest(lines, i, length, steps), out + i * stride + lane);
    if (i == length) continue;
    for (std::int64_t l = lane; l < lane + kWidth; ++l)
      by_envelope(scratch.values + l, length, spacing, scratch);
    for (; i < length; ++i) store_result<kRoot>(lines.value(i), out + i * stride + lane);
  }
}

void columns(float* values, std::int64_t length, std::int64_t stride, std::int64_t columns,
             double spacing, bool root, float* memory) {
  const Scratch scratch(memory, length);
  const bool full = columns == kDistanceLanes;
  float* out = full ? values : memory + distance_scratch_size(length);
  const std::int64_t out_stride = full ? stride : kDistanceLanes;
  for (std::int64_t i = 0; i < length; ++i) {
    const float* from = values + i * stride;
    float* to = scratch.values + i * kDistanceLanes;
    if (full)
      __builtin_memcpy(to, from, sizeof(float) * kDistanceLanes);
    else  // the last column again and again: another value might make the search longer
      for (std::int64_t lane = 0; lane < kDistanceLanes; ++lane)
        to[lane] = from[lane < columns ? lane : columns - 1];
  }
  if (root)
    transform<true>(scratch, length, spacing, out, out_stride);
  else
    transform<false>(scratch, length, spacing, out, out_stride);
  if (!full)
    for (std::int64_t i = 0; i < length; ++i)
      __builtin_memcpy(values + i * stride, out + i * out_stride, sizeof(float) * columns);
}

// Neighbouring voxels are mostly all inside or all outside.
enum class Group { outside, inside, mixed };

INLINE Group group_at(const std::uint8_t* inside) {
  static_assert(kRowPadding == 16, "a group is two words");
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  std::uint64_t words[2];
  __builtin_memcpy(words, inside, sizeof(words));
  if ((words[0] | words[1]) == 0) return Group::outside;
  return (words[0] & words[1]) == kOnes ? Group::inside : Group::mixed;
}

void row(const std::uint8_t* inside, std::int64_t size, double spacing, float* squared,
         std::int32_t* steps) {
  constexpr std::int32_t kGroup = kRowPadding;
  const auto length = static_cast<std::int32_t>(size);
  const std::int32_t padded = (length + kGroup - 1) / kGroup * kGroup;
  std::int32_t run = length;  // steps from the last zero; at least `length` where there is none
  for (std::int32_t begin = 0; begin < padded; begin += kGroup) {
    const Group group = group_at(inside + begin);
    if (group == Group::mixed) {
      for (std::int32_t i = begin; i < begin + kGroup; ++i)
        steps[i] = run = (run + 1) & -static_cast<std::int32_t>(inside[i]);
    } else if (group == Group::inside) {
      for (std::int32_t t = 0; t < kGroup; ++t) steps[begin + t] = run + 1 + t;
      run += kGroup;
    } else {
      for (std::int32_t t = 0; t < kGroup; ++t) steps[begin + t] = 0;
      run = 0;
    }
  }
  run = length;
  for (std::int32_t begin = padded - kGroup; begin >= 0; begin -= kGroup) {
    const Group group = group_at(inside + begin);
    if (group == Group::mixed) {
      for (std::int32_t i = begin + kGroup - 1; i >= begin; --i)
        steps[i] = run = run + 1 < steps[i] ? run + 1 : steps[i];
    } else {
      if (group == Group::inside)
        for (std::int32_t t = 0; t < kGroup; ++t) {
          const std::int32_t back = run + kGroup - t;
          steps[begin + t] = back < steps[begin + t] ? back : steps[begin + t];
        }
      run = steps[begin];
    }
  }
  for (std::int32_t i = 0; i < length; ++i) {
    const double distance = steps[i] * spacing;
    squared[i] = steps[i] < length ? static_cast<float>(distance * distance) : __builtin_inff();
  }
}

}  // namespace

extern const DistanceLoops kDistanceLoops;
const DistanceLoops kDistanceLoops{columns, row};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
