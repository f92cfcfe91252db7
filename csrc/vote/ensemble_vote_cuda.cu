#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "common/cuda_device.hpp"
#include "vote/vote_maths.hpp"

namespace recycleseg {
namespace {

using Counter = unsigned long long;  // the 64-bit type that atomics take

constexpr int kThreads = 128;
constexpr std::int64_t kMaxBlocks = 4096;

struct Member {
  const void* data;
  std::int64_t stride_b, stride_c, stride_v;
  float weight;
};

struct Members {
  Member of[kMaxGpuMembers];
  int count;
};

struct Job {
  Vote vote;
  VoteResults results;  // of voxel 0 of batch element 0; label null: more members follow
  float* state;         // (B, rows, state_stride); null: the sums lie in shared memory
  std::int64_t state_stride;
  std::int64_t batch, voxels;
  Counter* invalid;
};

__device__ float widen(float x) { return x; }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float widen(__half x) { return __half2float(x); }

// A member as probabilities or logits. exps: room for a number per class of this thread.
template <class T>
struct FloatMember {
  static __device__ void add(const Job& job, const Member& member, std::int64_t b, std::int64_t v,
                             const Sums& sums, float* exps) {
    const T* const data =
        static_cast<const T*>(member.data) + b * member.stride_b + v * member.stride_v;
    const auto x = [&](std::int64_t c) { return widen(data[c * member.stride_c]); };
    std::int32_t worst = 0;
    if (job.vote.exclusive)
      add_exclusive<OneLane>(job.vote, x, member.weight, sums, exps, kThreads, worst);
    else
      add_overlapping<OneLane>(job.vote, x, member.weight, sums, worst);
    if (is_bad(job.vote, worst)) atomicMax(&job.invalid[0], static_cast<Counter>(worst));
  }
};

template <class T>
struct LabelMember {
  static __device__ void add(const Job& job, const Member& member, std::int64_t b, std::int64_t v,
                             const Sums& sums, float*) {
    const T label = static_cast<const T*>(member.data)[b * job.voxels + v];
    if (add_label(job.vote, label, member.weight, sums)) return;
    atomicAdd(&job.invalid[0], Counter{1});
    atomicExch(&job.invalid[1], static_cast<Counter>(static_cast<std::int64_t>(label)));
  }
};

// Each thread steps over the voxels by the number of all threads. Its sums and exponentials are a
// column of shared memory, which no other thread reads.
template <class Reader>
__global__ void __launch_bounds__(kThreads)
    ensemble_vote_kernel(const __grid_constant__ Job job, const __grid_constant__ Members members) {
  extern __shared__ float columns[];
  const std::int64_t shared_rows = job.state ? 0 : job.vote.rows();
  float* const own = columns + threadIdx.x;
  float* const exps = own + shared_rows * kThreads;
  const std::int64_t size = job.batch * job.voxels;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size;
       i += step) {
    const std::int64_t b = i / job.voxels, v = i % job.voxels;
    for (std::int64_t row = 0; row < shared_rows; ++row) own[row * kThreads] = 0;
    const Sums sums =
        job.state ? split_rows(job.vote, job.state + b * job.vote.rows() * job.state_stride + v,
                               job.state_stride)
                  : split_rows(job.vote, own, kThreads);
    for (int k = 0; k < members.count; ++k) Reader::add(job, members.of[k], b, v, sums, exps);
    if (!job.results.label) continue;

    VoteResults results =
        job.results.at(job.vote.exclusive ? i : b * job.vote.num_classes * job.voxels + v);
    if (results.probs)
      results.probs = job.results.probs + b * job.vote.num_classes * job.voxels + v;
    if (job.vote.exclusive)
      finish_exclusive<OneLane>(job.vote, sums, results, 1);
    else
      finish_overlapping<OneLane>(job.vote, sums, results, 1);
  }
}

template <class Reader>
void launch(const Job& job, const Members& members, cudaStream_t stream) {
  const std::int64_t rows = shared_rows(job.vote, members.count > 0, job.state != nullptr);
  if (rows > kMaxSharedRows)
    throw std::invalid_argument("num_classes: expected at most " + std::to_string(kMaxSharedRows) +
                                " rows of shared memory, got " + std::to_string(rows));
  const std::int64_t size = job.batch * job.voxels;
  const auto blocks =
      static_cast<unsigned int>(std::min((size + kThreads - 1) / kThreads, kMaxBlocks));
  ensemble_vote_kernel<Reader>
      <<<blocks, kThreads, rows * kThreads * sizeof(float), stream>>>(job, members);
  check_cuda("ensemble_vote", cudaGetLastError());
}

void check_one_gpu(const VoteViews& views) {
  if (views.members.size() > kMaxGpuMembers)
    throw std::invalid_argument("members: expected at most " + std::to_string(kMaxGpuMembers) +
                                " at once");
  if (views.ref) throw std::invalid_argument("ref: expected none on a GPU");
  const std::int32_t device = views.invalid->device.id;
  for (const TensorView* view : {views.thresholds, views.state, views.label, views.probs,
                                 views.entropy, views.mutual_information, views.share})
    if (view && view->device.id != device)
      throw std::invalid_argument(view->name + ": expected a tensor on the GPU of invalid");
  if (!views.members.empty() && views.members[0].device.id != device)
    throw std::invalid_argument("members: expected tensors on the GPU of invalid");
}

Members members_of(const Vote& vote, const VoteViews& views) {
  Members members{};
  for (const TensorView& view : views.members) {
    const bool labels = vote.source == VoteSource::label;
    const auto stride = [&](int axis) { return labels ? 0 : view.strides[axis]; };
    members.of[members.count] = {view.data, stride(0), stride(1), stride(2),
                                 static_cast<float>(views.weights[members.count])};
    ++members.count;
  }
  return members;
}

}  // namespace

void ensemble_vote_cuda(const VoteSettings& settings, const VoteViews& views,
                        std::uintptr_t stream) {
  const auto [vote, batch, voxels] = check_ensemble_vote(settings, views, dlpack::kCuda);
  check_one_gpu(views);
  if (batch == 0 || voxels == 0) return;

  const VoteResults results{data_of<void>(views.label),
                            views.label && views.label->dtype == DType::int16,
                            data_of<float>(views.probs),
                            data_of<float>(views.entropy),
                            data_of<float>(views.mutual_information),
                            data_of<float>(views.share),
                            voxels};
  const Job job{
      vote,  results, data_of<float>(views.state),    views.state ? views.state->shape[2] : 0,
      batch, voxels,  data_of<Counter>(views.invalid)};
  const Members members = members_of(vote, views);
  const DeviceGuard guard("ensemble_vote", views.invalid->device.id);
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  const DType dtype = views.members.empty() ? DType::float32 : views.members[0].dtype;
  switch (dtype) {
    case DType::float32:
      return launch<FloatMember<float>>(job, members, on);
    case DType::bfloat16:
      return launch<FloatMember<__nv_bfloat16>>(job, members, on);
    case DType::float16:
      return launch<FloatMember<__half>>(job, members, on);
    case DType::uint8:
      return launch<LabelMember<std::uint8_t>>(job, members, on);
    case DType::int16:
      return launch<LabelMember<std::int16_t>>(job, members, on);
    case DType::int32:
      return launch<LabelMember<std::int32_t>>(job, members, on);
    case DType::int64:
      return launch<LabelMember<std::int64_t>>(job, members, on);
    case DType::float64:
      throw std::invalid_argument("members: expected float32, float16 or bfloat16, got float64");
  }
}

}  // namespace recycleseg
