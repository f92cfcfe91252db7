#include <stdexcept>
#include <string>

#include "vote/ensemble_vote.hpp"

namespace recycleseg {
namespace {

using Shape = std::vector<std::int64_t>;

void require_like(const TensorView* view, const Shape& shape, DType dtype,
                  std::int32_t device_type) {
  if (!view) return;
  require_contiguous(*view, device_type);
  if (view->shape != shape || view->dtype != dtype)
    throw std::invalid_argument(view->name + ": expected another shape or dtype, got " +
                                std::to_string(view->size()) + " elements, " +
                                describe(view->dlpack_dtype));
}

void check_settings(const VoteSettings& settings) {
  const bool labels = settings.source == VoteSource::label;
  if (settings.source < VoteSource::probs || settings.source > VoteSource::label ||
      settings.method < VoteMethod::mean || settings.method > VoteMethod::max ||
      (labels && (!settings.exclusive || settings.method == VoteMethod::max)))
    throw std::invalid_argument("source, method: expected a pair that exists");
  if (settings.num_classes < 1 || settings.num_classes > kMaxClasses)
    throw std::invalid_argument("num_classes: expected 1 to 4096");
}

Vote vote_of(const VoteSettings& settings) {
  return {settings.source,
          settings.method,
          settings.exclusive,
          kept_sums(settings),
          settings.num_classes,
          0,
          nullptr};
}

void check_member(const VoteCall& call, const TensorView& member, const TensorView& first,
                  std::int32_t device_type) {
  if (member.device.type != device_type || member.device.id != first.device.id)
    throw std::invalid_argument("members: expected all on one device of DLPack type " +
                                std::to_string(device_type));
  if (call.vote.source == VoteSource::label) {
    require_labels(member);
    require_contiguous(member, device_type);
    if (member.shape != Shape{call.batch, call.voxels})
      throw std::invalid_argument("members: expected labels of one shape (B, V)");
    return;
  }
  const bool floating = member.dtype == DType::float32 || member.dtype == DType::bfloat16 ||
                        member.dtype == DType::float16;
  if (!floating || member.dtype != first.dtype)
    throw std::invalid_argument("members: expected float32, bfloat16 or float16 throughout, got " +
                                describe(member.dlpack_dtype));
  if (member.shape != Shape{call.batch, call.vote.num_classes, call.voxels})
    throw std::invalid_argument("members: expected one shape (B, C, V)");
}

void check_members(const VoteCall& call, const VoteViews& views, std::int32_t device_type) {
  if (views.members.empty() && !views.state)
    throw std::invalid_argument("members: expected at least one, got none");
  if (!views.members.empty() && views.weights.size() != views.members.size())
    throw std::invalid_argument("weights: expected one for each member");
  for (const TensorView& member : views.members)
    check_member(call, member, views.members.front(), device_type);
}

// Results are written with the label, and made of sums that are kept only where they are asked for.
void check_results(const VoteSettings& settings, const VoteViews& views) {
  const auto check = [&](const char* name, const TensorView* view, bool asked) {
    if ((view != nullptr) != (asked && views.label != nullptr))
      throw std::invalid_argument(std::string(name) +
                                  ": expected with the label, where it is asked for, else none");
  };
  check("probs", views.probs, settings.probs);
  check("entropy", views.entropy, settings.entropy);
  check("mutual_information", views.mutual_information, settings.mutual_information);
  check("share", views.share, settings.share);
}

void check_shapes(const VoteCall& call, const VoteViews& views, std::int32_t device_type) {
  const std::int64_t C = call.vote.num_classes;
  const bool exclusive = call.vote.exclusive;
  const Shape of_class{call.batch, C, call.voxels};
  const Shape own = exclusive ? Shape{call.batch, call.voxels} : of_class;
  require_like(views.thresholds, {C}, DType::float32, device_type);
  require_like(views.state, {call.batch, call.vote.rows(), padded_voxels(call.voxels)},
               DType::float32, device_type);
  require_like(views.label, own, exclusive && C > 256 ? DType::int16 : DType::uint8, device_type);
  require_like(views.probs, of_class, DType::float32, device_type);
  for (const TensorView* view : {views.entropy, views.mutual_information, views.share})
    require_like(view, own, DType::float32, device_type);
  require_like(views.counts, {call.batch, C, kColumns}, DType::int64, device_type);
  require_like(views.invalid, {2, 2}, DType::int64, device_type);
  if (!views.ref) return;
  require_labels(*views.ref);
  require_like(views.ref, own, views.ref->dtype, device_type);
}

}  // namespace

VoteCall check_ensemble_vote(const VoteSettings& settings, const VoteViews& views,
                             std::int32_t device_type) {
  check_settings(settings);
  if (settings.exclusive == (views.thresholds != nullptr) || !views.invalid ||
      !(views.label || views.state) || (!views.ref) != (!views.counts))
    throw std::invalid_argument("thresholds, invalid, label, counts: one is missing or too many");
  const TensorView* const like = views.members.empty() ? views.label : &views.members.front();
  if (!like || like->shape.size() < 2)
    throw std::invalid_argument("members, label: expected at least two axes");
  VoteCall call{vote_of(settings), like->shape.front(), like->shape.back()};
  check_members(call, views, device_type);
  check_results(settings, views);
  check_shapes(call, views, device_type);
  double total = 0;
  for (const double weight : views.weights) total += weight;
  call.vote.total_weight = static_cast<float>(total);
  call.vote.thresholds = data_of<const float>(views.thresholds);
  return call;
}

VoteStateShape vote_state_shape(const VoteSettings& settings, std::int64_t voxels) {
  check_settings(settings);
  return {vote_of(settings).rows(), padded_voxels(voxels)};
}

bool ensemble_vote_fits_gpu(const VoteSettings& settings, std::int64_t num_members,
                            bool with_state) {
  check_settings(settings);
  return num_members <= kMaxGpuMembers &&
         shared_rows(vote_of(settings), num_members > 0, with_state) <= kMaxSharedRows;
}

}  // namespace recycleseg
