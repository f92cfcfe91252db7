// Compiled once per instruction set, into the namespace RECYCLESEG_ISA.
#include "vote/ensemble_vote_simd.hpp"

#include "common/simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

static_assert(kVoteAlignment % kWidth == 0, "rows hold whole vectors");

struct Float16 {
  std::uint16_t bits;
};

INLINE Floats read(const float* from) { return load<true>(from, kWidth); }
INLINE Floats read(const BFloat16* from) { return load<true>(from, kWidth); }
INLINE Floats read(const Float16* from) {
  Halves raw;
  __builtin_memcpy(&raw, from, sizeof(raw));
  const Words half = __builtin_convertvector(raw, Words);
  // Exponent and fraction move to their places in a float, whose exponent counts from 127 instead
  // of 15: times 2^112. Infinity and NaN keep the largest exponent.
  const Floats scaled = copy_bits<Floats>((half & 0x7fff) << 13) * 5.192296858534828e33f;
  const Words special = (half & 0x7c00) == 0x7c00 ? Words{} + 0x7f800000 : Words{};
  return copy_bits<Floats>(copy_bits<Words>(scaled) | special | (half & 0x8000) << 16);
}
INLINE float read_one(const float* from) { return *from; }
template <class T>
INLINE float read_one(const T* from) {
  T copies[kWidth] = {*from};
  return read(copies)[0];
}

using Bytes = std::uint8_t __attribute__((vector_size(kWidth)));
using Shorts = std::int16_t __attribute__((vector_size(2 * kWidth)));

struct WideLanes {
  using Float = Floats;
  using Int = Ints;
  static constexpr int kCount = kWidth;
  static INLINE Floats load(const float* from) { return read(from); }
  template <class Value, class T>
  static INLINE void store_some(const Value& value, T* to, std::int64_t count) {
    if (count >= kWidth)
      __builtin_memcpy(to, &value, sizeof(value));
    else
      __builtin_memcpy(to, &value, sizeof(T) * count);
  }
  static INLINE void store(const Floats& value, float* to, std::int64_t count) {
    store_some(value, to, count);
  }
  static INLINE void store(const Ints& value, std::uint8_t* to, std::int64_t count) {
    store_some(__builtin_convertvector(value, Bytes), to, count);
  }
  static INLINE void store(const Ints& value, std::int16_t* to, std::int64_t count) {
    store_some(__builtin_convertvector(value, Shorts), to, count);
  }
  static INLINE std::int32_t lane(const Ints& value, int i) { return value[i]; }
  static INLINE Ints bits(const Floats& x) { return copy_bits<Ints>(x); }

  // Below -87 and above 88, the last whose exponential is finite, it stays.
  static INLINE Floats exp(const Floats& unbounded) {
    Floats x = unbounded < -kEndOfExp ? Floats{} - kEndOfExp : unbounded;
    x = x > 88.0f ? Floats{} + 88.0f : x;
    return RECYCLESEG_ISA::exp(x);
  }

  // Of a normal positive float, to 2 units in the last place: x = 2^n m with m in [sqrt(1/2),
  // sqrt(2)), log(m) = 2 atanh(s) with s = (m - 1) / (m + 1).
  static INLINE Floats log(const Floats& x) {
    const Ints n = (copy_bits<Ints>(x) - 0x3f3504f3) >> 23;
    const Floats m = copy_bits<Floats>(copy_bits<Ints>(x) - (n << 23));
    const Floats s = (m - 1.0f) / (m + 1.0f);
    const Floats s2 = s * s;
    Floats series = s2 * (2.0f / 11) + (2.0f / 9);
    series = series * s2 + (2.0f / 7);
    series = series * s2 + (2.0f / 5);
    series = series * s2 + (2.0f / 3);
    const Floats exponent = __builtin_convertvector(n, Floats);
    const Floats low = s * (s2 * series) - exponent * 2.12194440e-4f;
    return exponent * 0.693359375f + (2.0f * s + low);
  }
};

INLINE std::int32_t largest(const Ints& values) {
  std::int32_t result = 0;
  for (int lane = 0; lane < kWidth; ++lane) result = values[lane] > result ? values[lane] : result;
  return result;
}

constexpr int kLine = 64;  // bytes that are brought into the cache at once

// Rows are read one after the other, because a processor prefetches few streams at once. Each row
// asks for the next one, because the processor cannot guess where that lies.
template <class T>
INLINE void prefetch(const T* from) {
  __builtin_prefetch(reinterpret_cast<const char*>(from), 0, 2);
}

template <class T>
void fetch(const MemberBlock& member, std::int64_t num_classes, std::int64_t count, float* rows,
           std::int64_t stride) {
  const std::int64_t whole = member.voxel_stride == 1 ? count / kWidth * kWidth : 0;
  constexpr std::int64_t kPerLine = kLine / sizeof(T);
  for (std::int64_t c = 0; c < num_classes; ++c) {
    const T* const from = static_cast<const T*>(member.data) + c * member.class_stride;
    float* const to = rows + c * stride;
    for (std::int64_t v = 0; v < whole; v += kWidth) {
      if (v % kPerLine == 0) prefetch(from + member.class_stride + v);
      WideLanes::store(read(from + v), to + v, kWidth);
    }
    for (std::int64_t v = whole; v < count; ++v) to[v] = read_one(from + v * member.voxel_stride);
    for (std::int64_t v = count; v % kWidth != 0; ++v) to[v] = 0;
  }
}

std::int32_t add(const Vote& vote, float* rows, std::int64_t stride, float weight, const Sums& sums,
                 std::int64_t count) {
  Ints worst{};
  for (std::int64_t v = 0; v < count; v += kWidth) {
    const auto x = [&](std::int64_t c) { return read(rows + c * stride + v); };
    if (vote.exclusive)
      add_exclusive<WideLanes>(vote, x, weight, sums.at(v), rows + v, stride, worst);
    else
      add_overlapping<WideLanes>(vote, x, weight, sums.at(v), worst);
  }
  return largest(worst);
}

void finish(const Vote& vote, const Sums& sums, const VoteResults& results, std::int64_t count) {
  for (std::int64_t v = 0; v < count; v += kWidth) {
    if (vote.exclusive)
      finish_exclusive<WideLanes>(vote, sums.at(v), results.at(v), count - v);
    else
      finish_overlapping<WideLanes>(vote, sums.at(v), results.at(v), count - v);
  }
}

// Adds one class of the next kMembers members to the sums of a vector of voxels. Reads them side by
// side: they are few and long, so that the processor prefetches them.
template <class T, int kMembers>
struct Streams {
  const T* from[kMembers];
  Floats weight[kMembers];

  INLINE Streams(const MemberBlock* members, std::int64_t c) {
    for (int k = 0; k < kMembers; ++k) {
      from[k] = static_cast<const T*>(members[k].data) + c * members[k].class_stride;
      weight[k] = Floats{} + members[k].weight;
    }
  }
  INLINE Floats add(const Vote& vote, std::int64_t v, Floats sum, Ints& worst) const {
    constexpr std::int64_t kPerLine = kLine / sizeof(T), kAhead = 1024 / sizeof(T);
    for (int k = 0; k < kMembers; ++k) {
      if (v % kPerLine == 0) prefetch(from[k] + v + kAhead);
      const Floats value = read(from[k] + v);
      note_worst<WideLanes>(vote, value, worst);
      sum += value * weight[k];
    }
    return sum;
  }
};

// Calls take(v, sum) with the sums over members of class c, for every vector of voxels; `sums` is
// used where there are more members than are read side by side.
template <class T, class Take>
INLINE void sum_class(const Vote& vote, const MemberBlock* members, std::int64_t num_members,
                      std::int64_t c, std::int64_t count, float* sums, Ints& worst,
                      const Take& take) {
  const auto pass = [&](auto streams, bool is_first, bool is_last) {
    for (std::int64_t v = 0; v < count; v += kWidth) {
      const Floats sum = streams.add(vote, v, is_first ? Floats{} : read(sums + v), worst);
      if (is_last)
        take(v, sum);
      else
        WideLanes::store(sum, sums + v, kWidth);
    }
  };
  constexpr int kMost = 5;
  for (std::int64_t k = 0; k < num_members; k += kMost) {
    const bool is_first = k == 0, is_last = k + kMost >= num_members;
    switch (is_last ? num_members - k : kMost) {
      case 1:
        pass(Streams<T, 1>(members + k, c), is_first, is_last);
        break;
      case 2:
        pass(Streams<T, 2>(members + k, c), is_first, is_last);
        break;
      case 3:
        pass(Streams<T, 3>(members + k, c), is_first, is_last);
        break;
      case 4:
        pass(Streams<T, 4>(members + k, c), is_first, is_last);
        break;
      default:
        pass(Streams<T, kMost>(members + k, c), is_first, is_last);
    }
  }
}

template <class T>
std::int32_t label_of_mean(const Vote& vote, const MemberBlock* members, std::int64_t num_members,
                           std::int64_t count, float* scratch, const VoteResults& results) {
  float *const sums = scratch, *const top = scratch + count;
  auto* const winner = reinterpret_cast<std::int32_t*>(scratch + 2 * count);
  Ints worst{};
  sum_class<T>(vote, members, num_members, 0, count, sums, worst,
               [&](std::int64_t v, const Floats& sum) { WideLanes::store(sum, top + v, kWidth); });
  __builtin_memset(winner, 0, sizeof(*winner) * count);
  for (std::int64_t c = 1; c < vote.num_classes; ++c)
    sum_class<T>(vote, members, num_members, c, count, sums, worst,
                 [&](std::int64_t v, const Floats& sum) {
                   const Floats best = read(top + v);
                   Ints before;
                   __builtin_memcpy(&before, winner + v, sizeof(before));
                   const Ints now = sum > best ? Ints{} + static_cast<std::int32_t>(c) : before;
                   WideLanes::store(sum > best ? sum : best, top + v, kWidth);
                   __builtin_memcpy(winner + v, &now, sizeof(now));
                 });
  for (std::int64_t v = 0; v < count; v += kWidth) {
    Ints label;
    __builtin_memcpy(&label, winner + v, sizeof(label));
    store_label<WideLanes>(results, v, label, kWidth);
  }
  return largest(worst);
}

template <class T>
constexpr VoteReaders kReaders{fetch<T>, label_of_mean<T>};

}  // namespace

extern const VoteLoops kVoteLoops;
const VoteLoops kVoteLoops{kReaders<float>, kReaders<BFloat16>, kReaders<Float16>, add, finish};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
