// One segmentation from those of several members: mean, majority or maximum, with uncertainty.
//
// Idea: every result of a voxel follows from a few sums over members: of probabilities, of votes,
// of entropies, and the largest probability. Only the sums that the results need are kept, and each
// number of a member is read once. Mutual information is the entropy of the mean less the mean
// entropy of the members (BALD: N. Houlsby, F. Huszar, Z. Ghahramani and M. Lengyel,
// arXiv 1112.5745, 2011).
//
// Time: proportional to the numbers of all members. Memory besides arguments and results: about
// 0.5 MB for each thread of a CPU and the shared memory of a GPU; where members are added one by
// one, a state of at most 4 (3 C + 1) bytes a voxel, with overlapping classes 16 C.
#pragma once

#include <cstdint>
#include <vector>

#include "counts/overlap_counts.hpp"

#define RECYCLESEG_VOTE RECYCLESEG_HOST_DEVICE RECYCLESEG_ALWAYS_INLINE

namespace recycleseg {

enum class VoteSource : std::int32_t { probs, logits, label };
enum class VoteMethod : std::int32_t { mean, majority, max };

// What is asked for: how members are combined, and which results besides the label.
struct VoteSettings {
  VoteSource source;
  VoteMethod method;
  bool exclusive;
  std::int64_t num_classes;
  bool probs, entropy, mutual_information, share;
};

// What is summed up over members.
enum VoteSums : std::int32_t { kMeanSum = 1, kPeak = 2, kTally = 4, kEntropySum = 8 };

// The sums that the results are made of.
inline std::int32_t kept_sums(const VoteSettings& settings) {
  if (settings.source == VoteSource::label) return kTally;
  std::int32_t kept = settings.method == VoteMethod::mean       ? kMeanSum
                      : settings.method == VoteMethod::majority ? kTally
                                                                : kPeak;
  if (settings.entropy || settings.mutual_information) kept |= kMeanSum;
  if (settings.share) kept |= kTally;
  return settings.mutual_information ? kept | kEntropySum : kept;
}

// What the loops need to know.
struct Vote {
  VoteSource source;
  VoteMethod method;
  bool exclusive;
  std::int32_t kept;  // VoteSums
  std::int64_t num_classes;
  float total_weight;
  const float* thresholds;  // of each class; null where exclusive

  RECYCLESEG_VOTE std::int64_t entropy_rows() const { return exclusive ? 1 : num_classes; }
  RECYCLESEG_VOTE std::int64_t rows() const {
    const int per_class = !!(kept & kMeanSum) + !!(kept & kPeak) + !!(kept & kTally);
    return per_class * num_classes + (kept & kEntropySum ? entropy_rows() : 0);
  }
};

// One call: adds members to the sums, and where there is a label, finishes.
struct VoteViews {
  std::vector<TensorView> members;  // (B, C, V), any strides; labels: (B, V) contiguous
  std::vector<double> weights;      // of each member; where there are none, of those added before
  const TensorView* thresholds;     // (C,) float32, or null where classes are exclusive
  const TensorView* state;    // (B, vote.rows(), >= V) float32, zeroed before the first; or null:
                              // all members are here
  const TensorView* label;    // (B, V), overlapping (B, C, V); null: more members follow
  const TensorView* probs;    // (B, C, V) float32
  const TensorView* entropy;  // (B, V), overlapping (B, C, V), float32; so are the next two
  const TensorView* mutual_information;
  const TensorView* share;
  const TensorView* ref;      // (B, V) labels; overlapping (B, C, V), nonzero is inside
  const TensorView* counts;   // (B, C, 3) int64, zeroed
  const TensorView* invalid;  // (2, 2) int64, zeroed: of members and ref, as in overlap_counts; of
                              // members that are no labels: the bits of the worst value
};

// Rows of the state are this much longer than V needs at most: a whole vector is read and written.
constexpr std::int64_t kVoteAlignment = 16;
inline std::int64_t padded_voxels(std::int64_t voxels) {
  return (voxels + kVoteAlignment - 1) / kVoteAlignment * kVoteAlignment;
}

// A call that was checked.
struct VoteCall {
  Vote vote;
  std::int64_t batch, voxels;
};

// Throws std::invalid_argument unless the tensors fit together and lie on such a device.
VoteCall check_ensemble_vote(const VoteSettings& settings, const VoteViews& views,
                             std::int32_t device_type);

// The memory of the sums over members: rows of floats for each batch element, and their length.
struct VoteStateShape {
  std::int64_t rows, length;
};
VoteStateShape vote_state_shape(const VoteSettings& settings, std::int64_t voxels);

// Whether one call on a GPU can take so many members. Without a state their sums lie in the shared
// memory of a thread block; so do the exponentials of a softmax, with a state or without.
bool ensemble_vote_fits_gpu(const VoteSettings& settings, std::int64_t num_members,
                            bool with_state);

void ensemble_vote_cpu(const VoteSettings& settings, const VoteViews& views,
                       std::int64_t num_threads);

// The same on the GPU that holds the tensors, without ref and counts. Does not wait for it.
void ensemble_vote_cuda(const VoteSettings& settings, const VoteViews& views,
                        std::uintptr_t stream);

// Rows of shared memory that a thread of a GPU takes.
inline std::int64_t shared_rows(const Vote& vote, bool has_members, bool with_state) {
  const bool softmax = has_members && vote.source == VoteSource::logits && vote.exclusive &&
                       (vote.kept & ~static_cast<std::int32_t>(kTally));
  return (with_state ? 0 : vote.rows()) + (softmax ? vote.num_classes : 0);
}
constexpr std::int64_t kMaxSharedRows = 96;  // of 128 threads: 48 KiB
constexpr std::int64_t kMaxGpuMembers = 64;  // in one call

}  // namespace recycleseg
