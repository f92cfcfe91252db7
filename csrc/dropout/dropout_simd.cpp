// Compiled once per instruction set, into the namespace RECYCLESEG_ISA.
#include "dropout/dropout_simd.hpp"

#include "common/simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

// A bijection of 32-bit words whose outputs look random (C. Wellons's "lowbias32").
INLINE Words mix(Words word) {
  word ^= word >> 16;
  word *= 0x7feb352du;
  word ^= word >> 15;
  word *= 0x846ca68bu;
  return word ^ (word >> 16);
}

// A group draws 16 random words, one for each lane. Their low halves serve its first 16 elements
// and their high halves the other 16, whatever the width of a vector.
constexpr int kLanes = 16;

template <bool kFull, class T>
INLINE void drop(const T* x, T* y, const Words& bits, const DropoutKey& key, std::int64_t count) {
  const Floats value = load<kFull>(x, count) * key.scale;
  store<kFull>(bits < key.threshold ? Floats{} : value, y, count);
}

template <class T>
void dropout(const T* x, T* y, std::int64_t first, std::int64_t count, const DropoutKey& key) {
  Words lane{};
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  const auto low = static_cast<std::uint32_t>(key.seed);
  const auto high = static_cast<std::uint32_t>(key.seed >> 32);
  for (std::int64_t i = 0; i < count; i += kDropoutGroup) {
    const auto group = static_cast<std::uint64_t>(first + i) / kDropoutGroup;
    const auto word = static_cast<std::uint32_t>(group * kLanes);
    // Two rounds, each with half the seed; the counter's upper bits join the second.
    const std::uint32_t second = high ^ static_cast<std::uint32_t>(group >> 28) * 0x9e3779b9u;
    for (int part = 0; part < kLanes; part += kWidth) {
      const Words bits = mix(mix((lane + (word + part)) ^ low) ^ second);
      for (int half = 0; half < 2; ++half) {
        const std::int64_t element = i + half * kLanes + part;
        const std::int64_t left = count - element;
        const Words own = half ? bits >> 16 : bits & 0xffffu;
        if (left >= kWidth)
          drop<true>(x + element, y + element, own, key, kWidth);
        else if (left > 0)
          drop<false>(x + element, y + element, own, key, left);
      }
    }
  }
}

}  // namespace

extern const DropoutLoops kDropoutLoops;
const DropoutLoops kDropoutLoops{dropout<float>, dropout<BFloat16>};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
