// The Python module: takes DLPack capsules, and checks and frees them. No other file knows Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "common/interruption.hpp"
#include "common/tensor_view.hpp"
#include "counts/overlap_counts.hpp"
#include "dropout/dropout.hpp"
#include "norm/norm_act.hpp"
#include "surface/surface_distances.hpp"
#include "transform/distance_transform.hpp"
#include "vote/ensemble_vote.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace recycleseg {
namespace {

// Owns the tensor of a DLPack capsule, which it marks as used, and views it.
class Borrowed {
 public:
  Borrowed(const char* name, const py::capsule& capsule) {
    if (!PyCapsule_IsValid(capsule.ptr(), "dltensor"))
      throw std::invalid_argument(std::string(name) + ": expected an unused DLPack capsule");
    auto* managed =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    managed_.reset(managed);
    view_ = make_view(name, managed->tensor);
  }
  const TensorView& view() const { return view_; }

 private:
  struct Release {
    void operator()(dlpack::ManagedTensor* managed) const {
      if (managed->deleter != nullptr) managed->deleter(managed);
    }
  };
  std::unique_ptr<dlpack::ManagedTensor, Release> managed_;
  TensorView view_;
};

// A tensor that may be None.
class Optional {
 public:
  Optional(const char* name, const py::object& object) {
    if (!object.is_none()) borrowed_.emplace(name, object.cast<py::capsule>());
  }
  const TensorView* view() const { return borrowed_ ? &borrowed_->view() : nullptr; }

 private:
  std::optional<Borrowed> borrowed_;
};

// Whether all calls have to end. Python runs the handlers of signals on its main thread alone.
std::atomic<bool> cancelled = false;

// Calls fn() without the GIL. A signal whose handler raises, as Ctrl-C does, ends the call between
// two chunks of its work, and what was raised is thrown.
template <class Fn>
void without_gil(const Fn& fn) {
  std::optional<py::error_already_set> raised;
  const Interruption interruption([&raised] {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() == 0) {
      if (!cancelled) return false;
      PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
    raised.emplace();
    return true;
  });
  try {
    const py::gil_scoped_release release;
    fn();
  } catch (const Interrupted&) {
  }
  if (raised) throw py::error_already_set(*raised);
}

void bind_distance_transform_cpu(const py::capsule& mask, const py::capsule& distance,
                                 const std::vector<double>& spacing, std::int64_t num_threads) {
  const Borrowed mask_in("mask", mask), distance_out("distance", distance);
  without_gil(
      [&] { distance_transform_cpu(mask_in.view(), distance_out.view(), spacing, num_threads); });
}

#ifdef RECYCLESEG_WITH_CUDA
void bind_distance_transform_cuda(const py::capsule& mask, const py::capsule& distance,
                                  const py::capsule& workspace, const std::vector<double>& spacing,
                                  std::uintptr_t stream) {
  const Borrowed mask_in("mask", mask), distance_out("distance", distance);
  const Borrowed workspace_out("workspace", workspace);
  without_gil([&] {
    distance_transform_cuda(mask_in.view(), distance_out.view(), workspace_out.view(), spacing,
                            stream);
  });
}
#endif

// Binds fn(pred, ref, counts, invalid, last, sums) to capsules; fn runs without the GIL.
template <class Last>
auto bind_overlap_counts(void (*fn)(const TensorView&, const TensorView&, const TensorView&,
                                    const TensorView&, Last, const TensorView*)) {
  return [fn](const py::capsule& pred, const py::capsule& ref, const py::capsule& counts,
              const py::capsule& invalid, Last last, const py::object& sums) {
    const Borrowed pred_in("pred", pred), ref_in("ref", ref);
    const Borrowed counts_out("counts", counts), invalid_out("invalid", invalid);
    const Optional sums_out("sums", sums);
    without_gil([&] {
      fn(pred_in.view(), ref_in.view(), counts_out.view(), invalid_out.view(), last,
         sums_out.view());
    });
  };
}

void bind_norm_act_forward(const py::capsule& x, const py::capsule& weight, const py::capsule& bias,
                           const py::object& residual, const py::capsule& y,
                           const py::capsule& moments, bool activation, float eps,
                           std::int64_t num_threads) {
  const Borrowed x_in("x", x), weight_in("weight", weight), bias_in("bias", bias);
  const Optional residual_in("residual", residual);
  const Borrowed y_out("y", y), moments_out("moments", moments);
  without_gil([&] {
    norm_act_forward_cpu(
        {x_in.view(), weight_in.view(), bias_in.view(), residual_in.view(), activation},
        y_out.view(), moments_out.view(), eps, num_threads);
  });
}

void bind_norm_act_backward(const py::capsule& x, const py::capsule& weight,
                            const py::capsule& bias, const py::object& residual,
                            const py::capsule& grad_y, const py::capsule& moments,
                            const py::capsule& grad_x, const py::object& grad_residual,
                            const py::capsule& grad_affine, bool activation,
                            std::int64_t num_threads) {
  const Borrowed x_in("x", x), weight_in("weight", weight), bias_in("bias", bias);
  const Optional residual_in("residual", residual);
  const Borrowed grad_y_in("grad_y", grad_y), moments_in("moments", moments);
  const Borrowed grad_x_out("grad_x", grad_x), grad_affine_out("grad_affine", grad_affine);
  const Optional grad_residual_out("grad_residual", grad_residual);
  without_gil([&] {
    norm_act_backward_cpu(
        {x_in.view(), weight_in.view(), bias_in.view(), residual_in.view(), activation},
        grad_y_in.view(), moments_in.view(), grad_x_out.view(), grad_residual_out.view(),
        grad_affine_out.view(), num_threads);
  });
}

void bind_dropout(const py::capsule& x, const py::capsule& y, double rate, std::int64_t seed,
                  std::int64_t rows, std::int64_t first_row, std::int64_t num_threads) {
  const Borrowed x_in("x", x), y_out("y", y);
  without_gil([&] {
    dropout_cpu(x_in.view(), y_out.view(), rate, static_cast<std::uint64_t>(seed), rows, first_row,
                num_threads);
  });
}

SurfaceQuery surface_query(const py::handle& query) {
  using Labels = std::vector<std::vector<std::int64_t>>;
  const auto labels = query.attr("structures").cast<std::optional<Labels>>();
  return {labels.value_or(Labels{}),
          !labels.has_value(),
          query.attr("spacing").cast<std::vector<double>>(),
          query.attr("tolerances").cast<std::vector<double>>(),
          query.attr("percentiles").cast<std::vector<double>>(),
          query.attr("areas").cast<std::vector<double>>(),
          query.attr("border_is_outside").cast<bool>()};
}

// counts: none, or the capsules of CountViews.
void bind_surface_distances(const py::capsule& pred, const py::capsule& ref,
                            const py::object& query, const py::capsule& directed,
                            const py::capsule& pooled, std::int64_t num_threads,
                            const std::vector<py::capsule>& counts) {
  if (!counts.empty() && counts.size() != 3)
    throw std::invalid_argument("counts: expected counts, sums and unlisted, or none, got " +
                                std::to_string(counts.size()));
  const Borrowed pred_in("pred", pred), ref_in("ref", ref);
  const Borrowed directed_out("directed", directed), pooled_out("pooled", pooled);
  std::vector<Borrowed> counts_out;
  constexpr const char* kNames[] = {"counts", "sums", "unlisted"};
  for (const py::capsule& capsule : counts)
    counts_out.emplace_back(kNames[counts_out.size()], capsule);
  std::optional<CountViews> count_views;
  if (!counts.empty())
    count_views.emplace(
        CountViews{counts_out[0].view(), counts_out[1].view(), counts_out[2].view()});
  const SurfaceQuery asked = surface_query(query);
  without_gil([&] {
    surface_distances_cpu(pred_in.view(), ref_in.view(), asked, directed_out.view(),
                          pooled_out.view(), num_threads, count_views ? &*count_views : nullptr);
  });
}

// From a Python record with the fields of VoteSettings, all numbers.
VoteSettings vote_settings(const py::handle& settings) {
  const auto number = [&](const char* name) { return settings.attr(name).cast<std::int64_t>(); };
  return {static_cast<VoteSource>(number("source")),
          static_cast<VoteMethod>(number("method")),
          number("exclusive") != 0,
          number("num_classes"),
          number("probs") != 0,
          number("entropy") != 0,
          number("mutual_information") != 0,
          number("share") != 0};
}

// Binds fn(settings, views, last); `tensors` maps the names of VoteViews to capsules or None.
template <class Last>
auto bind_ensemble_vote(void (*fn)(const VoteSettings&, const VoteViews&, Last)) {
  return [fn](const py::object& settings, const std::vector<py::capsule>& members,
              const std::vector<double>& weights, const py::dict& tensors, Last last) {
    std::vector<Borrowed> borrowed;
    VoteViews views{};
    views.weights = weights;
    for (const py::capsule& member : members) {
      borrowed.emplace_back("members", member);
      views.members.push_back(borrowed.back().view());
    }
    const auto tensor = [&](const char* name) { return Optional(name, tensors[name]); };
    const Optional thresholds = tensor("thresholds"), state = tensor("state");
    const Optional label = tensor("label"), probs = tensor("probs"), entropy = tensor("entropy");
    const Optional mutual_information = tensor("mutual_information"), share = tensor("share");
    const Optional ref = tensor("ref"), counts = tensor("counts"), invalid = tensor("invalid");
    views.thresholds = thresholds.view();
    views.state = state.view();
    views.label = label.view();
    views.probs = probs.view();
    views.entropy = entropy.view();
    views.mutual_information = mutual_information.view();
    views.share = share.view();
    views.ref = ref.view();
    views.counts = counts.view();
    views.invalid = invalid.view();
    const VoteSettings asked = vote_settings(settings);
    without_gil([&] { fn(asked, views, last); });
  };
}

py::dict build_config() {
  py::dict config("cuda"_a = false, "cuda_version"_a = py::none(),
                  "cuda_architectures"_a = py::none(), "compiler"_a = RECYCLESEG_COMPILER,
                  "sanitized"_a = false);
#ifdef RECYCLESEG_SANITIZE
  config["sanitized"] = true;
#endif
#ifdef RECYCLESEG_WITH_CUDA
  config["cuda"] = true;
  config["cuda_version"] = RECYCLESEG_CUDA_VERSION;
  config["cuda_architectures"] = RECYCLESEG_CUDA_ARCHITECTURES;
#endif
  return config;
}

}  // namespace
}  // namespace recycleseg

PYBIND11_MODULE(_C, module) {
  using namespace recycleseg;
  module.def("build_config", &build_config);
  module.def("cancel_calls", [](bool cancel) { cancelled = cancel; }, "cancel"_a);
  module.def("distance_transform_cpu", &bind_distance_transform_cpu, "mask"_a, "distance"_a,
             "spacing"_a, "num_threads"_a);
  module.def("dropout_cpu", &bind_dropout, "x"_a, "y"_a, "rate"_a, "seed"_a, "rows"_a,
             "first_row"_a, "num_threads"_a);
  module.def("ensemble_vote_cpu", bind_ensemble_vote(&ensemble_vote_cpu), "settings"_a, "members"_a,
             "weights"_a, "tensors"_a, "num_threads"_a);
  module.def(
      "vote_state_shape",
      [](const py::object& settings, std::int64_t voxels) {
        const VoteStateShape shape = vote_state_shape(vote_settings(settings), voxels);
        return py::make_tuple(shape.rows, shape.length);
      },
      "settings"_a, "voxels"_a);
  module.def(
      "ensemble_vote_fits_gpu",
      [](const py::object& settings, std::int64_t num_members, bool with_state) {
        return ensemble_vote_fits_gpu(vote_settings(settings), num_members, with_state);
      },
      "settings"_a, "num_members"_a, "with_state"_a);
  module.def("overlap_counts_cpu", bind_overlap_counts(&overlap_counts_cpu), "pred"_a, "ref"_a,
             "counts"_a, "invalid"_a, "num_threads"_a, "sums"_a = py::none());
  module.def("norm_act_forward_cpu", &bind_norm_act_forward, "x"_a, "weight"_a, "bias"_a,
             "residual"_a, "y"_a, "moments"_a, "activation"_a, "eps"_a, "num_threads"_a);
  module.def("norm_act_backward_cpu", &bind_norm_act_backward, "x"_a, "weight"_a, "bias"_a,
             "residual"_a, "grad_y"_a, "moments"_a, "grad_x"_a, "grad_residual"_a, "grad_affine"_a,
             "activation"_a, "num_threads"_a);
  module.def("surface_distances_cpu", &bind_surface_distances, "pred"_a, "ref"_a, "query"_a,
             "directed"_a, "pooled"_a, "num_threads"_a, "counts"_a = std::vector<py::capsule>{});
#ifdef RECYCLESEG_WITH_CUDA
  module.def("ensemble_vote_cuda", bind_ensemble_vote(&ensemble_vote_cuda), "settings"_a,
             "members"_a, "weights"_a, "tensors"_a, "stream"_a);
  module.def("distance_transform_cuda", &bind_distance_transform_cuda, "mask"_a, "distance"_a,
             "workspace"_a, "spacing"_a, "stream"_a);
  module.def("overlap_counts_cuda", bind_overlap_counts(&overlap_counts_cuda), "pred"_a, "ref"_a,
             "counts"_a, "invalid"_a, "stream"_a, "sums"_a = py::none());
#endif
}
