#include <pybind11/pybind11.h>

#include <memory>

#include "overlap_counts.hpp"
#include "tensor_view.hpp"

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

// Binds fn(pred, ref, counts, invalid, last) to capsules; fn runs without the GIL.
template <class Last>
auto bind_overlap_counts(void (*fn)(const TensorView&, const TensorView&, const TensorView&,
                                    const TensorView&, Last)) {
  return [fn](const py::capsule& pred, const py::capsule& ref, const py::capsule& counts,
              const py::capsule& invalid, Last last) {
    const Borrowed pred_in("pred", pred), ref_in("ref", ref);
    const Borrowed counts_out("counts", counts), invalid_out("invalid", invalid);
    const py::gil_scoped_release release;
    fn(pred_in.view(), ref_in.view(), counts_out.view(), invalid_out.view(), last);
  };
}

py::dict build_config() {
  py::dict config("cuda"_a = false, "cuda_version"_a = py::none(),
                  "cuda_architectures"_a = py::none(), "compiler"_a = RECYCLESEG_COMPILER);
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
  module.def("overlap_counts_cpu", bind_overlap_counts(&overlap_counts_cpu), "pred"_a, "ref"_a,
             "counts"_a, "invalid"_a, "num_threads"_a);
#ifdef RECYCLESEG_WITH_CUDA
  module.def("overlap_counts_cuda", bind_overlap_counts(&overlap_counts_cuda), "pred"_a, "ref"_a,
             "counts"_a, "invalid"_a, "stream"_a);
#endif
}
