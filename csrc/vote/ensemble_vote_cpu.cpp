#include <algorithm>
#include <mutex>
#include <vector>

#include "common/instruction_set.hpp"
#include "common/label_runs.hpp"
#include "common/threads.hpp"
#include "vote/ensemble_vote.hpp"
#include "vote/ensemble_vote_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BUILDS(VoteLoops, kVoteLoops)

namespace {

constexpr std::int64_t kBlock = 8192;             // voxels at once; rows of 32 KiB
constexpr std::int64_t kSmallBlock = 1024;        // voxels at once of what is not a plain mean
constexpr std::int64_t kBlocksPerChunk = 4;       // that a thread takes at once
constexpr std::int64_t kScratchFloats = 1 << 16;  // of a thread: what its second cache holds

std::int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::uint8:
      return 1;
    case DType::int64:
      return 8;
    case DType::int32:
    case DType::float32:
      return 4;
    default:
      return 2;
  }
}

const VoteReaders& readers(const VoteLoops& loops, DType dtype) {
  if (dtype == DType::bfloat16) return loops.of_bfloat16;
  return dtype == DType::float16 ? loops.of_float16 : loops.of_float;
}

// The element `offset` of a view; null where there is none.
template <class T>
T* at(const TensorView* view, std::int64_t offset) {
  return view ? data_of<T>(*view) + offset : nullptr;
}

// One call, seen by all its threads.
class Voting {
 public:
  Voting(const VoteCall& call, const VoteViews& views)
      : vote_(call.vote),
        views_(views),
        batch_(call.batch),
        voxels_(call.voxels),
        plain_(is_plain()) {
    const std::int64_t rows = vote_.rows() + vote_.num_classes;  // sums and a member
    const std::int64_t fits = kScratchFloats / rows / kVoteAlignment * kVoteAlignment;
    block_ = plain_ ? kBlock : std::clamp(fits, kVoteAlignment, kSmallBlock);
    blocks_ = (voxels_ + block_ - 1) / block_;
    chunks_ = (blocks_ + kBlocksPerChunk - 1) / kBlocksPerChunk;
  }
  std::int64_t chunks() const { return batch_ * chunks_; }

  void work(ChunkQueue& queue) {
    Scratch scratch(*this);
    for (std::int64_t chunk; queue.next(chunk);) {
      const std::int64_t b = chunk / chunks_, first = chunk % chunks_ * kBlocksPerChunk;
      const std::int64_t last = std::min(first + kBlocksPerChunk, blocks_);
      for (std::int64_t block = first; block < last; ++block) {
        const std::int64_t begin = block * block_;
        run_block(b, begin, std::min(block_, voxels_ - begin), scratch);
      }
      flush(b, scratch);
    }
  }

 private:
  struct Scratch {
    explicit Scratch(const Voting& voting)
        : stride(voting.block_ + kVoteAlignment),  // rows a power of two apart share cache lines
          sums((voting.vote_.rows()) * stride),
          member(std::max<std::int64_t>(voting.vote_.num_classes * stride, 3 * kBlock)),
          blocks(voting.views_.members.size()),
          counts(voting.views_.counts ? voting.vote_.num_classes * kColumns : 0) {}
    std::int64_t stride;
    std::vector<float> sums, member;
    std::vector<MemberBlock> blocks;
    std::vector<std::int64_t> counts;
    std::int64_t invalid[2][2] = {};
  };

  // The label of the mean of probabilities, and nothing else.
  bool is_plain() const {
    if (views_.state || vote_.source != VoteSource::probs || !vote_.exclusive) return false;
    if (vote_.kept != kMeanSum || views_.probs || views_.entropy) return false;
    return std::all_of(views_.members.begin(), views_.members.end(), [](const TensorView& member) {
      return member.strides[2] == 1 || member.shape[2] == 1;
    });
  }

  MemberBlock block_of(std::size_t k, std::int64_t b, std::int64_t begin) const {
    const TensorView& member = views_.members[k];
    const std::int64_t offset = b * member.strides[0] + begin * member.strides[2];
    return {static_cast<const char*>(member.data) + offset * element_bytes(member.dtype),
            member.strides[1], member.strides[2], static_cast<float>(views_.weights[k])};
  }

  VoteResults results_at(std::int64_t b, std::int64_t begin) const {
    const std::int64_t of_class = b * vote_.num_classes * voxels_ + begin;
    const std::int64_t own = vote_.exclusive ? b * voxels_ + begin : of_class;
    const bool wide = views_.label->dtype == DType::int16;
    return {at<char>(views_.label, wide ? 2 * own : own),
            wide,
            at<float>(views_.probs, of_class),
            at<float>(views_.entropy, own),
            at<float>(views_.mutual_information, own),
            at<float>(views_.share, own),
            voxels_};
  }

  void note(std::int32_t worst, Scratch& scratch) const {
    if (is_bad(vote_, worst))
      scratch.invalid[0][0] = std::max<std::int64_t>(scratch.invalid[0][0], worst);
  }

  void run_block(std::int64_t b, std::int64_t begin, std::int64_t count, Scratch& scratch) {
    if (plain_ && count % kVoteAlignment == 0) {
      for (std::size_t k = 0; k < scratch.blocks.size(); ++k)
        scratch.blocks[k] = block_of(k, b, begin);
      const VoteReaders& reader = readers(loops_, views_.members[0].dtype);
      note(reader.label_of_mean(vote_, scratch.blocks.data(), scratch.blocks.size(), count,
                                scratch.member.data(), results_at(b, begin)),
           scratch);
    } else {
      const Sums sums = sums_at(b, begin, scratch);
      for (std::size_t k = 0; k < views_.members.size(); ++k)
        add_member(k, b, begin, count, sums, scratch);
      if (!views_.label) return;
      loops_.finish(vote_, sums, results_at(b, begin), count);
    }
    if (views_.ref) count_block(b, begin, count, scratch);
  }

  Sums sums_at(std::int64_t b, std::int64_t begin, Scratch& scratch) const {
    if (!views_.state) {
      std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0f);
      return split_rows(vote_, scratch.sums.data(), scratch.stride);
    }
    const std::int64_t stride = views_.state->shape[2];
    float* const rows = at<float>(views_.state, b * vote_.rows() * stride);
    return split_rows(vote_, rows, stride).at(begin);
  }

  void add_member(std::size_t k, std::int64_t b, std::int64_t begin, std::int64_t count,
                  const Sums& sums, Scratch& scratch) const {
    const TensorView& member = views_.members[k];
    const auto weight = static_cast<float>(views_.weights[k]);
    if (vote_.source == VoteSource::label) {
      visit(member, [&](const auto* labels) {
        for (std::int64_t v = 0; v < count; ++v) {
          const auto label = labels[b * voxels_ + begin + v];
          if (add_label(vote_, label, weight, sums.at(v))) continue;
          ++scratch.invalid[0][0];
          scratch.invalid[0][1] = label;
        }
      });
    } else {
      float* const rows = scratch.member.data();
      readers(loops_, member.dtype)
          .fetch(block_of(k, b, begin), vote_.num_classes, count, rows, scratch.stride);
      note(loops_.add(vote_, rows, scratch.stride, weight, sums, count), scratch);
    }
  }

  void count_block(std::int64_t b, std::int64_t begin, std::int64_t count, Scratch& scratch) const {
    const auto reject = [&](int argument, std::int64_t value, std::int64_t n) {
      scratch.invalid[argument][0] += n;
      scratch.invalid[argument][1] = value;
    };
    visit(*views_.label, [&](const auto* pred) {
      visit(*views_.ref, [&](const auto* ref) {
        if (vote_.exclusive) {
          const std::int64_t at = b * voxels_ + begin;
          const auto add = [&](std::int64_t i, std::int64_t n) { scratch.counts[i] += n; };
          count_runs(pred + at, ref + at, count, vote_.num_classes, add, reject, LabelRunWalk{});
          return;
        }
        for (std::int64_t c = 0; c < vote_.num_classes; ++c) {
          const std::int64_t at = (b * vote_.num_classes + c) * voxels_ + begin;
          std::int64_t both = 0, predicted = 0, true_ = 0;
          for (std::int64_t v = at; v < at + count; ++v) {
            predicted += pred[v] != 0;
            true_ += ref[v] != 0;
            both += pred[v] != 0 && ref[v] != 0;
          }
          std::int64_t* const row = scratch.counts.data() + c * kColumns;
          row[kTruePositive] += both;
          row[kPredicted] += predicted;
          row[kTrue] += true_;
        }
      });
    });
  }

  // Adds what a thread has counted in batch element b to the outputs.
  void flush(std::int64_t b, Scratch& scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto* const invalid = data_of<std::int64_t>(views_.invalid);
    if (vote_.source == VoteSource::label)
      invalid[0] += scratch.invalid[0][0];
    else
      invalid[0] = std::max(invalid[0], scratch.invalid[0][0]);
    if (scratch.invalid[0][0]) invalid[1] = scratch.invalid[0][1];
    invalid[2] += scratch.invalid[1][0];
    if (scratch.invalid[1][0]) invalid[3] = scratch.invalid[1][1];
    std::fill(&scratch.invalid[0][0], &scratch.invalid[0][0] + 4, 0);
    if (scratch.counts.empty()) return;
    auto* const counts = at<std::int64_t>(views_.counts, b * vote_.num_classes * kColumns);
    for (std::size_t i = 0; i < scratch.counts.size(); ++i) counts[i] += scratch.counts[i];
    std::fill(scratch.counts.begin(), scratch.counts.end(), 0);
  }

  const Vote vote_;
  const VoteViews& views_;
  const std::int64_t batch_, voxels_;
  const bool plain_;
  const VoteLoops& loops_ = select(RECYCLESEG_BUILDS(kVoteLoops));
  std::int64_t block_, blocks_, chunks_;
  std::mutex mutex_;
};

}  // namespace

void ensemble_vote_cpu(const VoteSettings& settings, const VoteViews& views,
                       std::int64_t num_threads) {
  const VoteCall call = check_ensemble_vote(settings, views, dlpack::kCpu);
  if (call.batch == 0 || call.voxels == 0) return;
  Voting voting(call, views);
  share_chunks(voting.chunks(), num_threads, [&](ChunkQueue& queue) { voting.work(queue); });
}

}  // namespace recycleseg
