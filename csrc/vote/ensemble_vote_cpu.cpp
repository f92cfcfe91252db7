#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "vote/ensemble_vote.hpp"
#include "vote/ensemble_vote_simd.hpp"
#include "common/instruction_set.hpp"
#include "counts/label_runs.hpp"
#include "common/threads.hpp"

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

template <class T>
T* data_of(const TensorView* view, std::int64_t offset) {
  return view ? static_cast<T*>(view->data) + offset : nullptr;
}

// One call, seen by all its threads.
class Voting {
 public:
  Voting(const Vote& vote, const VoteViews& views)
      : vote_(vote), views_(views), plain_(is_plain()) {
    const std::int64_t rows = vote.rows() + vote.num_classes;  // sums and a member
    const std::int64_t fits = kScratchFloats / rows / kVoteAlignment * kVoteAlignment;
    block_ = plain_ ? kBlock : std::clamp(fits, kVoteAlignment, kSmallBlock);
    blocks_ = (views.voxels + block_ - 1) / block_;
    chunks_ = (blocks_ + kBlocksPerChunk - 1) / kBlocksPerChunk;
  }
  std::int64_t chunks() const { return views_.batch * chunks_; }

  void work(ChunkQueue& queue) {
    Scratch scratch(*this);
    for (std::int64_t chunk; queue.next(chunk);) {
      const std::int64_t b = chunk / chunks_, first = chunk % chunks_ * kBlocksPerChunk;
      const std::int64_t last = std::min(first + kBlocksPerChunk, blocks_);
      for (std::int64_t block = first; block < last; ++block) {
        const std::int64_t begin = block * block_;
        run_block(b, begin, std::min(block_, views_.voxels - begin), scratch);
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
            member.strides[1], member.strides[2], views_.weights[k]};
  }

  VoteResults results_at(std::int64_t b, std::int64_t begin) const {
    const std::int64_t voxels = views_.voxels;
    const std::int64_t of_class = b * vote_.num_classes * voxels + begin;
    const std::int64_t own = vote_.exclusive ? b * voxels + begin : of_class;
    const bool wide = views_.label->dtype == DType::int16;
    return {data_of<char>(views_.label, wide ? 2 * own : own),
            wide,
            data_of<float>(views_.probs, of_class),
            data_of<float>(views_.entropy, own),
            data_of<float>(views_.mutual_information, own),
            data_of<float>(views_.share, own),
            voxels};
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
    float* const rows = data_of<float>(views_.state, b * vote_.rows() * stride);
    return split_rows(vote_, rows, stride).at(begin);
  }

  void add_member(std::size_t k, std::int64_t b, std::int64_t begin, std::int64_t count,
                  const Sums& sums, Scratch& scratch) const {
    const TensorView& member = views_.members[k];
    const float weight = views_.weights[k];
    if (vote_.source == VoteSource::label) {
      visit(member, [&](const auto* labels) {
        for (std::int64_t v = 0; v < count; ++v) {
          const auto label = labels[b * views_.voxels + begin + v];
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
          const std::int64_t at = b * views_.voxels + begin;
          const auto add = [&](std::int64_t i, std::int64_t n) { scratch.counts[i] += n; };
          count_runs(pred + at, ref + at, count, vote_.num_classes, add, reject, LabelRunWalk{});
          return;
        }
        for (std::int64_t c = 0; c < vote_.num_classes; ++c) {
          const std::int64_t at = (b * vote_.num_classes + c) * views_.voxels + begin;
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
    auto* const invalid = data_of<std::int64_t>(views_.invalid, 0);
    if (vote_.source == VoteSource::label)
      invalid[0] += scratch.invalid[0][0];
    else
      invalid[0] = std::max(invalid[0], scratch.invalid[0][0]);
    if (scratch.invalid[0][0]) invalid[1] = scratch.invalid[0][1];
    invalid[2] += scratch.invalid[1][0];
    if (scratch.invalid[1][0]) invalid[3] = scratch.invalid[1][1];
    std::fill(&scratch.invalid[0][0], &scratch.invalid[0][0] + 4, 0);
    if (scratch.counts.empty()) return;
    auto* const counts = data_of<std::int64_t>(views_.counts, b * vote_.num_classes * kColumns);
    for (std::size_t i = 0; i < scratch.counts.size(); ++i) counts[i] += scratch.counts[i];
    std::fill(scratch.counts.begin(), scratch.counts.end(), 0);
  }

  const Vote& vote_;
  const VoteViews& views_;
  const bool plain_;
  const VoteLoops& loops_ = select(RECYCLESEG_BUILDS(kVoteLoops));
  std::int64_t block_, blocks_, chunks_;
  std::mutex mutex_;
};

using Shape = std::vector<std::int64_t>;

void require(const TensorView* view, const Shape& shape, DType dtype, std::int32_t device_type) {
  if (!view) return;
  require_contiguous(*view, device_type);
  if (view->shape != shape || view->dtype != dtype)
    throw std::invalid_argument(view->name + ": expected another shape or dtype, got " +
                                std::to_string(view->size()) + " elements, " +
                                describe(view->dlpack_dtype));
}

void check_member(const Vote& vote, const VoteViews& views, const TensorView& member,
                  std::int32_t device_type) {
  const TensorView& first = views.members.front();
  if (member.device.type != device_type || member.device.id != first.device.id)
    throw std::invalid_argument("members: expected all on one device of DLPack type " +
                                std::to_string(device_type));
  if (vote.source == VoteSource::label) {
    require_labels(member);
    require_contiguous(member, device_type);
    if (member.shape != Shape{views.batch, views.voxels})
      throw std::invalid_argument("members: expected labels of one shape (B, V)");
  } else {
    const bool floating = member.dtype == DType::float32 || member.dtype == DType::bfloat16 ||
                          member.dtype == DType::float16;
    if (!floating || member.dtype != first.dtype)
      throw std::invalid_argument(
          "members: expected float32, bfloat16 or float16 throughout, got " +
          describe(member.dlpack_dtype));
    if (member.shape != Shape{views.batch, vote.num_classes, views.voxels})
      throw std::invalid_argument("members: expected one shape (B, C, V)");
  }
}

// What is finished needs sums that were kept.
void check_kept(const Vote& vote, const VoteViews& views) {
  const bool labels = vote.source == VoteSource::label;
  std::int32_t needed = labels ? kTally : 0;
  if (!labels && vote.method == VoteMethod::mean) needed |= kMeanSum;
  if (vote.method == VoteMethod::max) needed |= kPeak;
  if (vote.method == VoteMethod::majority || views.share) needed |= kTally;
  if (!labels && (views.entropy || views.mutual_information)) needed |= kMeanSum;
  if (!labels && views.mutual_information) needed |= kEntropySum;
  if ((vote.kept & needed) != needed || vote.kept > 15 || (labels && vote.kept != kTally))
    throw std::invalid_argument("kept: expected the sums that the results are made of");
}

}  // namespace

void check_ensemble_vote(const Vote& vote, const VoteViews& views, std::int32_t device_type) {
  const bool labels = vote.source == VoteSource::label;
  if (vote.source < VoteSource::probs || vote.source > VoteSource::label ||
      vote.method < VoteMethod::mean || vote.method > VoteMethod::max ||
      (labels && (!vote.exclusive || vote.method == VoteMethod::max)))
    throw std::invalid_argument("source, method: expected a pair that exists");
  if (vote.num_classes < 1 || vote.num_classes > kMaxClasses)
    throw std::invalid_argument("num_classes: expected 1 to 4096");
  if (views.batch < 0 || views.voxels < 0 || views.weights.size() != views.members.size())
    throw std::invalid_argument("weights: expected one for each member");
  if (views.members.empty() && !views.state)
    throw std::invalid_argument("members: expected at least one, got none");
  for (const TensorView& member : views.members) check_member(vote, views, member, device_type);
  check_kept(vote, views);

  const std::int64_t C = vote.num_classes;
  const Shape of_class{views.batch, C, views.voxels};
  const Shape own = vote.exclusive ? Shape{views.batch, views.voxels} : of_class;
  if (vote.exclusive == (views.thresholds != nullptr) || !views.invalid ||
      !(views.label || views.state) || (!views.ref) != (!views.counts))
    throw std::invalid_argument("thresholds, invalid, label, counts: one is missing or too many");
  require(views.thresholds, {C}, DType::float32, device_type);
  if (views.state)
    require(views.state, {views.batch, vote.rows(), padded_voxels(views.voxels)}, DType::float32,
            device_type);
  require(views.label, own, vote.exclusive && C > 256 ? DType::int16 : DType::uint8, device_type);
  require(views.probs, of_class, DType::float32, device_type);
  for (const TensorView* view : {views.entropy, views.mutual_information, views.share})
    require(view, own, DType::float32, device_type);
  require(views.counts, {views.batch, C, kColumns}, DType::int64, device_type);
  require(views.invalid, {2, 2}, DType::int64, device_type);
  if (views.ref) {
    require_labels(*views.ref);
    require(views.ref, own, views.ref->dtype, device_type);
  }
}

void ensemble_vote_cpu(Vote vote, const VoteViews& views, std::int64_t num_threads) {
  check_ensemble_vote(vote, views, dlpack::kCpu);
  if (views.batch == 0 || views.voxels == 0) return;
  vote.thresholds = data_of<const float>(views.thresholds, 0);
  Voting voting(vote, views);
  share_chunks(voting.chunks(), num_threads, [&](ChunkQueue& queue) { voting.work(queue); });
}

}  // namespace recycleseg
