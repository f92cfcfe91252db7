// Vectors of floats as wide as the instruction set, for files that are compiled once per set into
// the namespace RECYCLESEG_ISA. Such files use no template of the standard library, because the
// linker keeps one copy of it, and that one may be of the wrong set.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstdint>

#include "common/bfloat16.hpp"
#include "common/host_device.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

using Floats = float __attribute__((vector_size(4 * kWidth)));
using Words = std::uint32_t __attribute__((vector_size(4 * kWidth)));
using Ints = std::int32_t __attribute__((vector_size(4 * kWidth)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kWidth)));

#define INLINE RECYCLESEG_ALWAYS_INLINE

template <class To, class From>
INLINE To copy_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

INLINE Floats widen(const Floats& x) { return x; }
INLINE Floats widen(const Halves& x) {
  return copy_bits<Floats>(__builtin_convertvector(x, Words) << 16);
}
INLINE void narrow(const Floats& x, Floats& out) { out = x; }
INLINE void narrow(const Floats& x, Halves& out) {
#ifdef __AVX512BF16__
  out = copy_bits<Halves>(_mm512_cvtneps_pbh(copy_bits<__m512>(x)));  // subnormals become 0
#else
  // To nearest, ties to even; a NaN, whose payload might round to infinity, stays one.
  const Words bits = copy_bits<Words>(x);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out = __builtin_convertvector(x == x ? rounded : (Words{} + 0x7fc0), Halves);
#endif
}

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = Floats;
};
template <>
struct VectorOf<BFloat16> {
  using type = Halves;
};

// Reads and writes `count` channels, all kWidth of them where kFull.
template <bool kFull, class T>
INLINE Floats load(const T* from, std::int64_t count) {
  typename VectorOf<T>::type raw{};
  if (kFull)
    __builtin_memcpy(&raw, from, sizeof(raw));
  else
    __builtin_memcpy(&raw, from, sizeof(T) * count);
  return widen(raw);
}
template <bool kFull, class T>
INLINE void store(const Floats& value, T* to, std::int64_t count) {
  typename VectorOf<T>::type raw;
  narrow(value, raw);
  if (kFull)
    __builtin_memcpy(to, &raw, sizeof(raw));
  else
    __builtin_memcpy(to, &raw, sizeof(T) * count);
}

constexpr float kEndOfExp = 87.0f;  // exp(+-87) is a normal float32

// exp for |x| <= kEndOfExp, to 2 units in the last place: x = n ln 2 + r, exp(r) by a polynomial.
INLINE Floats exp(const Floats& x) {
  const float round_to_int = 12582912.0f;  // 1.5 * 2^23
  const Floats biased = x * 1.44269504f + round_to_int;
  const Floats n = biased - round_to_int;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = (p * r + 1.0f) * r + 1.0f;
  const Ints power = __builtin_convertvector(n, Ints) + 127;
  return p * copy_bits<Floats>(power << 23);
}

}  // namespace
}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
