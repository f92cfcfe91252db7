// Compiled once per instruction set, into the namespace RECYCLESEG_ISA.
#include "common/label_simd.hpp"

#include "common/simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

// equal64: bit i says whether labels[i] equals others[i], for 64 labels. equal_some: the same for
// the first `count` labels, up to 63, without reading more of them.
#ifdef __AVX2__

#ifdef __AVX512F__
using Vector = __m512i;
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::uint8_t) {
  return _mm512_cmpeq_epi8_mask(a, b);
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int16_t) {
  return _mm512_cmpeq_epi16_mask(a, b);
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int32_t) {
  return _mm512_cmpeq_epi32_mask(a, b);
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int64_t) {
  return _mm512_cmpeq_epi64_mask(a, b);
}
INLINE Vector load_bytes(const void* from, std::int64_t count) {
  return _mm512_maskz_loadu_epi8((std::uint64_t{1} << count) - 1, from);
}
#else
using Vector = __m256i;
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::uint8_t) {
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int16_t) {
  const Vector equal = _mm256_cmpeq_epi16(a, b);
  return _mm_movemask_epi8(
      _mm_packs_epi16(_mm256_castsi256_si128(equal), _mm256_extracti128_si256(equal, 1)));
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int32_t) {
  return _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)));
}
INLINE std::uint64_t equal_lanes(Vector a, Vector b, std::int64_t) {
  return _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b)));
}
INLINE Vector load_bytes(const void* from, std::int64_t count) {
  Vector some{};
  __builtin_memcpy(&some, from, count);
  return some;
}
#endif

template <class T>
INLINE std::uint64_t equal64(const T* labels, const T* others) {
  constexpr int kLanes = sizeof(Vector) / sizeof(T);
  std::uint64_t bits = 0;
  for (int i = 0; i < 64; i += kLanes) {
    Vector a, b;
    __builtin_memcpy(&a, labels + i, sizeof(a));
    __builtin_memcpy(&b, others + i, sizeof(b));
    bits |= equal_lanes(a, b, T{}) << i;
  }
  return bits;
}
template <class T>
INLINE std::uint64_t equal_some(const T* labels, const T* others, std::int64_t count) {
  constexpr int kLanes = sizeof(Vector) / sizeof(T);
  std::uint64_t bits = 0;
  for (int i = 0; i < count; i += kLanes) {
    const std::int64_t there = sizeof(T) * (count - i), all = sizeof(Vector);
    Vector a, b;
    if (there < all)
      a = load_bytes(labels + i, there);
    else
      __builtin_memcpy(&a, labels + i, sizeof(a));
    __builtin_memcpy(&b, others + i, sizeof(b));
    bits |= equal_lanes(a, b, T{}) << i;
  }
  return bits & ((std::uint64_t{1} << count) - 1);
}

#else

// Takes up to 64 labels.
template <class T>
INLINE std::uint64_t equal_some(const T* labels, const T* others, std::int64_t count) {
  std::uint8_t flags[64] = {};
  for (std::int64_t i = 0; i < count; ++i) flags[i] = labels[i] == others[i];
  std::uint64_t bits = 0;
  for (int i = 0; i < 64; i += 8) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, flags + i, 8);
    bits |= (eight * 0x0102040810204080u >> 56) << i;
  }
  return bits;
}
template <class T>
INLINE std::uint64_t equal64(const T* labels, const T* others) {
  return equal_some(labels, others, 64);
}

#endif

template <class T>
void equal(const T* labels, std::int64_t count, const T* end, T value, std::uint64_t* bits) {
  T values[64];
  for (T& each : values) each = value;
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) bits[i / 64] |= equal64(labels + i, values);
  if (i == count) return;
  bits[i / 64] |= end - (labels + i) >= 64
                      ? equal64(labels + i, values) & ((std::uint64_t{1} << (count - i)) - 1)
                      : equal_some(labels + i, values, count - i);
}

template <class T>
void run_ends(const T* labels, std::int64_t count, std::uint64_t* bits) {
  std::int64_t i = 0;
  for (; i + 64 < count; i += 64) bits[i / 64] |= ~equal64(labels + i, labels + i + 1);
  for (; i + 1 < count; ++i) bits[i / 64] |= std::uint64_t{labels[i] != labels[i + 1]} << i % 64;
}

template <class T>
constexpr LabelLoops<T> kLoops{equal<T>, run_ends<T>};

}  // namespace

extern const AllLabelLoops kLabelLoops;
const AllLabelLoops kLabelLoops{kLoops<std::uint8_t>, kLoops<std::int16_t>, kLoops<std::int32_t>,
                                kLoops<std::int64_t>};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
