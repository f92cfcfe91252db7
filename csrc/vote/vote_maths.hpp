// What a vote computes for each voxel: a member is added to the sums, and results follow from
// these.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vote/ensemble_vote.hpp"

namespace recycleseg {

// The sums of a voxel over members: a number per class, `stride` apart; null where not kept.
struct Sums {
  float* mean;     // of weight * probability
  float* peak;     // the largest probability
  float* tally;    // of the weights of those who vote for the class
  float* entropy;  // of weight * entropy: one number, per class where classes overlap
  std::int64_t stride;

  RECYCLESEG_VOTE Sums at(std::int64_t voxel) const {
    return {mean ? mean + voxel : mean, peak ? peak + voxel : peak, tally ? tally + voxel : tally,
            entropy ? entropy + voxel : entropy, stride};
  }
};

RECYCLESEG_VOTE Sums split_rows(const Vote& vote, float* rows, std::int64_t stride) {
  const auto take = [&](std::int32_t sum, std::int64_t count) {
    float* const first = vote.kept & sum ? rows : nullptr;
    if (first) rows += count * stride;
    return first;
  };
  Sums sums{};
  sums.mean = take(kMeanSum, vote.num_classes);
  sums.peak = take(kPeak, vote.num_classes);
  sums.tally = take(kTally, vote.num_classes);
  sums.entropy = take(kEntropySum, vote.entropy_rows());
  sums.stride = stride;
  return sums;
}

// Where the results of a voxel go; those of its classes are `stride` apart; null: not wanted.
struct VoteResults {
  void* label;
  bool wide_label;  // int16 instead of uint8
  float* probs;
  float* entropy;
  float* mutual_information;
  float* share;
  std::int64_t stride;

  RECYCLESEG_VOTE VoteResults at(std::int64_t voxel) const {
    const std::int64_t bytes = wide_label ? 2 * voxel : voxel;
    return {label ? static_cast<char*>(label) + bytes : label,
            wide_label,
            probs ? probs + voxel : probs,
            entropy ? entropy + voxel : entropy,
            mutual_information ? mutual_information + voxel : mutual_information,
            share ? share + voxel : share,
            stride};
  }
};

// The maths below is written for some number of voxels at once, L::kCount, in vectors L::Float and
// L::Int: a thread of a GPU takes one, the CPU's loops as many as its vectors hold.
struct OneLane {
  using Float = float;
  using Int = std::int32_t;
  static constexpr int kCount = 1;
  static RECYCLESEG_VOTE float load(const float* from) { return *from; }
  static RECYCLESEG_VOTE void store(float value, float* to, std::int64_t) { *to = value; }
  static RECYCLESEG_VOTE void store(Int value, std::uint8_t* to, std::int64_t) {
    *to = static_cast<std::uint8_t>(value);
  }
  static RECYCLESEG_VOTE void store(Int value, std::int16_t* to, std::int64_t) {
    *to = static_cast<std::int16_t>(value);
  }
  static RECYCLESEG_VOTE Int lane(Int value, int) { return value; }
  static RECYCLESEG_VOTE float exp(float x) { return expf(x); }
  static RECYCLESEG_VOTE float log(float x) { return logf(x); }
  static RECYCLESEG_VOTE Int bits(float x) {
    Int word;
    memcpy(&word, &x, sizeof(word));
    return word;
  }
};

constexpr std::int32_t kNanBits = 0x7fc00000;
constexpr std::int32_t kLargestProbBits = 0x3f8147ae;  // of 1.01: half precision rounds up

// Keeps the bits of the worst value: for probabilities the largest magnitude, for logits one that
// is NaN or infinity. (As integers, magnitudes of floats are ordered as they are, NaN above all.)
template <class L>
RECYCLESEG_VOTE void note_worst(const Vote& vote, typename L::Float x, typename L::Int& worst) {
  const typename L::Int magnitude = L::bits(x) & 0x7fffffff;
  if (vote.source == VoteSource::probs) {
    worst = magnitude > worst ? magnitude : worst;
  } else {
    const typename L::Float infinity = typename L::Float{} + HUGE_VALF;
    worst = x < infinity ? worst : magnitude;
  }
}
RECYCLESEG_VOTE bool is_bad(const Vote& vote, std::int32_t worst) {
  return worst > (vote.source == VoteSource::probs ? kLargestProbBits : 0);
}

// p log p, 0 at 0 (and below the smallest normal float).
template <class L>
RECYCLESEG_VOTE typename L::Float p_log_p(typename L::Float p) {
  const typename L::Float zero{};
  const typename L::Float safe = p > 1.17549435e-38f ? p : zero + 1.0f;
  return safe * L::log(safe);
}
template <class L>
RECYCLESEG_VOTE typename L::Float binary_entropy(typename L::Float p) {
  return -(p_log_p<L>(p) + p_log_p<L>(1.0f - p));
}

template <class L>
RECYCLESEG_VOTE void add_to(float* sum, typename L::Float value) {
  L::store(L::load(sum) + value, sum, L::kCount);
}

// Adds a member's probabilities of one class to its sums.
template <class L>
RECYCLESEG_VOTE void add_probability(const Sums& sums, std::int64_t row, float weight,
                                     typename L::Float p) {
  if (sums.mean) add_to<L>(sums.mean + row, weight * p);
  if (sums.peak) {
    const typename L::Float peak = L::load(sums.peak + row);
    L::store(p > peak ? p : peak, sums.peak + row, L::kCount);
  }
}

// Adds a member, whose probability or logit of class c is x(c), to the sums of exclusive classes.
// exps: room for a number per class, which may hold what x reads.
template <class L, class X>
RECYCLESEG_VOTE void add_exclusive(const Vote& vote, const X& x, float weight, const Sums& sums,
                                   float* exps, std::int64_t exps_stride, typename L::Int& worst) {
  using Float = typename L::Float;
  using Int = typename L::Int;
  Float top = x(0);
  Int winner{};
  for (std::int64_t c = 0; c < vote.num_classes; ++c) {
    const Float value = x(c);
    note_worst<L>(vote, value, worst);
    winner = value > top ? Int{} + static_cast<std::int32_t>(c) : winner;
    top = value > top ? value : top;
  }
  const bool softmax = vote.source == VoteSource::logits;
  if (softmax) worst = top > -HUGE_VALF ? worst : Int{} + kNanBits;  // no class at all
  if (sums.tally)
    for (int lane = 0; lane < L::kCount; ++lane)
      sums.tally[L::lane(winner, lane) * sums.stride + lane] += weight;
  if (!sums.mean && !sums.peak && !sums.entropy) return;

  Float scale = Float{} + 1.0f;
  if (softmax) {
    Float total{};
    for (std::int64_t c = 0; c < vote.num_classes; ++c) {
      const Float e = L::exp(x(c) - top);
      L::store(e, exps + c * exps_stride, L::kCount);
      total += e;
    }
    scale = 1.0f / total;
  }
  Float negative{};
  for (std::int64_t c = 0; c < vote.num_classes; ++c) {
    const Float p = softmax ? L::load(exps + c * exps_stride) * scale : x(c);
    add_probability<L>(sums, c * sums.stride, weight, p);
    if (sums.entropy) negative += p_log_p<L>(p);
  }
  if (sums.entropy) add_to<L>(sums.entropy, -weight * negative);
}

// The same where classes overlap: each is foreground or not.
template <class L, class X>
RECYCLESEG_VOTE void add_overlapping(const Vote& vote, const X& x, float weight, const Sums& sums,
                                     typename L::Int& worst) {
  using Float = typename L::Float;
  const Float zero{};
  for (std::int64_t c = 0; c < vote.num_classes; ++c) {
    const std::int64_t row = c * sums.stride;
    const Float value = x(c);
    note_worst<L>(vote, value, worst);
    const Float p = vote.source == VoteSource::logits ? 1.0f / (1.0f + L::exp(-value)) : value;
    add_probability<L>(sums, row, weight, p);
    if (sums.tally) add_to<L>(sums.tally + row, p >= vote.thresholds[c] ? zero + weight : zero);
    if (sums.entropy) add_to<L>(sums.entropy + row, weight * binary_entropy<L>(p));
  }
}

// Adds the vote of a member that is a label map; whether the label is a class.
template <class T>
RECYCLESEG_VOTE bool add_label(const Vote& vote, T label, float weight, const Sums& sums) {
  const std::int64_t c = label;
  const bool valid = c >= 0 && c < vote.num_classes;
  if (valid) sums.tally[c * sums.stride] += weight;
  return valid;
}

RECYCLESEG_VOTE const float* scores(const Vote& vote, const Sums& sums) {
  if (vote.method == VoteMethod::majority || vote.source == VoteSource::label) return sums.tally;
  return vote.method == VoteMethod::mean ? sums.mean : sums.peak;
}

template <class L>
RECYCLESEG_VOTE void store_label(const VoteResults& results, std::int64_t row,
                                 typename L::Int value, std::int64_t count) {
  if (results.wide_label)
    L::store(value, static_cast<std::int16_t*>(results.label) + row, count);
  else
    L::store(value, static_cast<std::uint8_t*>(results.label) + row, count);
}

// Entropy of the mean, and that less the mean entropy of members; rounding may not make either
// negative. Label maps have no entropy of their own.
template <class L>
RECYCLESEG_VOTE void store_entropy(const VoteResults& results, std::int64_t row,
                                   typename L::Float entropy, const float* sum, float total_weight,
                                   std::int64_t count) {
  const typename L::Float zero{};
  entropy = entropy > 0.0f ? entropy : zero;
  if (results.entropy) L::store(entropy, results.entropy + row, count);
  if (!results.mutual_information) return;
  const typename L::Float gain = sum ? entropy - L::load(sum) / total_weight : entropy;
  L::store(gain > 0.0f ? gain : zero, results.mutual_information + row, count);
}

// Writes the results of `count` voxels, of exclusive classes, from the sums over all members.
template <class L>
RECYCLESEG_VOTE void finish_exclusive(const Vote& vote, const Sums& sums,
                                      const VoteResults& results, std::int64_t count) {
  using Float = typename L::Float;
  using Int = typename L::Int;
  const float* const score = scores(vote, sums);
  const float divisor = score == sums.peak ? 1.0f : vote.total_weight;
  Float top = L::load(score);
  Int winner{};
  for (std::int64_t c = 0; c < vote.num_classes; ++c) {
    const Float value = L::load(score + c * sums.stride);
    winner = value > top ? Int{} + static_cast<std::int32_t>(c) : winner;
    top = value > top ? value : top;
    if (results.probs) L::store(value / divisor, results.probs + c * results.stride, count);
  }
  store_label<L>(results, 0, winner, count);
  if (results.entropy || results.mutual_information) {
    const float* const mean = vote.source == VoteSource::label ? sums.tally : sums.mean;
    Float negative{};
    for (std::int64_t c = 0; c < vote.num_classes; ++c)
      negative += p_log_p<L>(L::load(mean + c * sums.stride) / vote.total_weight);
    store_entropy<L>(results, 0, -negative, sums.entropy, vote.total_weight, count);
  }
  if (results.share)
    for (int lane = 0; lane < L::kCount && lane < count; ++lane)
      results.share[lane] =
          sums.tally[L::lane(winner, lane) * sums.stride + lane] / vote.total_weight;
}

// The same of overlapping classes.
template <class L>
RECYCLESEG_VOTE void finish_overlapping(const Vote& vote, const Sums& sums,
                                        const VoteResults& results, std::int64_t count) {
  using Float = typename L::Float;
  using Int = typename L::Int;
  const float* const score = scores(vote, sums);
  const float divisor = score == sums.peak ? 1.0f : vote.total_weight;
  for (std::int64_t c = 0; c < vote.num_classes; ++c) {
    const std::int64_t row = c * sums.stride, out = c * results.stride;
    const Float value = L::load(score + row) / divisor;
    const Int one = Int{} + 1;
    const Int on = vote.method == VoteMethod::majority
                       ? (value > 0.5f ? one : Int{})
                       : (value >= vote.thresholds[c] ? one : Int{});
    store_label<L>(results, out, on, count);
    if (results.probs) L::store(value, results.probs + out, count);
    if (results.entropy || results.mutual_information)
      store_entropy<L>(results, out,
                       binary_entropy<L>(L::load(sums.mean + row) / vote.total_weight),
                       sums.entropy ? sums.entropy + row : nullptr, vote.total_weight, count);
    if (results.share) {
      const Float share = L::load(sums.tally + row) / vote.total_weight;
      L::store(on > 0 ? share : 1.0f - share, results.share + out, count);
    }
  }
}

}  // namespace recycleseg
