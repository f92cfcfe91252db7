// Inner loops of ensemble_vote. ensemble_vote_simd.cpp is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "vote/vote_maths.hpp"

namespace recycleseg {

// A block of voxels of one member: class c of voxel v lies at data[c * class_stride + v *
// voxel_stride].
struct MemberBlock {
  const void* data;
  std::int64_t class_stride, voxel_stride;
  float weight;
};

// Loops over members of one element type.
struct VoteReaders {
  // Copies a member's `count` voxels as floats to rows, `stride` apart, padded with zeros to whole
  // vectors.
  void (*fetch)(const MemberBlock& member, std::int64_t num_classes, std::int64_t count,
                float* rows, std::int64_t stride);
  // Label of the mean of probabilities whose voxel_stride is 1; count: a multiple of
  // kVoteAlignment; scratch: 3 * count floats. Returns the bits of the worst value.
  std::int32_t (*label_of_mean)(const Vote& vote, const MemberBlock* members,
                                std::int64_t num_members, std::int64_t count, float* scratch,
                                const VoteResults& results);
};

struct VoteLoops {
  VoteReaders of_float, of_bfloat16, of_float16;
  // Adds a member that was fetched, and overwrites it. Returns the bits of the worst value.
  std::int32_t (*add)(const Vote& vote, float* rows, std::int64_t stride, float weight,
                      const Sums& sums, std::int64_t count);
  void (*finish)(const Vote& vote, const Sums& sums, const VoteResults& results,
                 std::int64_t count);
};

}  // namespace recycleseg
