// A checked, typed view of a tensor that comes as a DLPack capsule.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace recycleseg {

// The DLPack C structures, version 0 (https://dmlc.github.io/dlpack/latest/c_api.html).
namespace dlpack {

struct Device {
  std::int32_t type;  // kCpu | kCuda | ...
  std::int32_t id;
};
constexpr std::int32_t kCpu = 1;
constexpr std::int32_t kCuda = 2;

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
constexpr std::uint8_t kInt = 0;
constexpr std::uint8_t kUInt = 1;
constexpr std::uint8_t kFloat = 2;
constexpr std::uint8_t kBFloat = 4;
constexpr std::uint8_t kBool = 6;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

}  // namespace dlpack

enum class DType { uint8, int16, int32, int64, bfloat16, float16, float32, float64 };

struct TensorView {
  std::string name;  // of the argument, for messages
  void* data;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements
  DType dtype;
  dlpack::DataType dlpack_dtype;
  dlpack::Device device;

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t extent : shape) product *= extent;
    return product;
  }

  bool is_contiguous() const {
    if (size() == 0) return true;
    std::int64_t expected = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (shape[axis] > 1 && strides[axis] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }
};

// The elements of a view; null where there is none.
template <class T>
T* data_of(const TensorView* view) {
  return view ? static_cast<T*>(view->data) : nullptr;
}
template <class T>
T* data_of(const TensorView& view) {
  return static_cast<T*>(view.data);
}

inline std::string describe(const dlpack::DataType& dtype) {
  return "DLPack code " + std::to_string(dtype.code) + " with " + std::to_string(dtype.bits) +
         " bits";
}

inline DType element_type(const std::string& name, const dlpack::DataType& dtype) {
  if (dtype.lanes == 1) {
    if (dtype.bits == 8 && (dtype.code == dlpack::kUInt || dtype.code == dlpack::kBool))
      return DType::uint8;
    if (dtype.bits == 16 && dtype.code == dlpack::kInt) return DType::int16;
    if (dtype.bits == 32 && dtype.code == dlpack::kInt) return DType::int32;
    if (dtype.bits == 64 && dtype.code == dlpack::kInt) return DType::int64;
    if (dtype.bits == 16 && dtype.code == dlpack::kBFloat) return DType::bfloat16;
    if (dtype.bits == 16 && dtype.code == dlpack::kFloat) return DType::float16;
    if (dtype.bits == 32 && dtype.code == dlpack::kFloat) return DType::float32;
    if (dtype.bits == 64 && dtype.code == dlpack::kFloat) return DType::float64;
  }
  throw std::invalid_argument(name + ": expected a dtype that torch calls bool, uint8, int16, " +
                              "int32, int64, bfloat16, float16, float32 or float64, got " +
                              describe(dtype));
}

inline TensorView make_view(const std::string& name, const dlpack::Tensor& tensor) {
  TensorView view{name,
                  static_cast<char*>(tensor.data) + tensor.byte_offset,
                  {tensor.shape, tensor.shape + tensor.ndim},
                  std::vector<std::int64_t>(tensor.ndim),
                  element_type(name, tensor.dtype),
                  tensor.dtype,
                  tensor.device};
  std::int64_t stride = 1;
  for (std::int32_t axis = tensor.ndim; axis-- > 0;) {
    view.strides[axis] = tensor.strides ? tensor.strides[axis] : stride;
    stride *= view.shape[axis];
  }
  return view;
}

inline void require(bool condition, const TensorView& view, const char* expected) {
  if (!condition) throw std::invalid_argument(view.name + ": expected " + expected);
}

inline void require_contiguous(const TensorView& view, std::int32_t device_type) {
  if (view.device.type != device_type)
    throw std::invalid_argument(view.name + ": expected DLPack device type " +
                                std::to_string(device_type) + ", got " +
                                std::to_string(view.device.type));
  if (!view.is_contiguous())
    throw std::invalid_argument(view.name + ": expected a contiguous tensor, got a strided one");
}

inline void require_labels(const TensorView& view) {
  if (view.dtype == DType::bfloat16 || view.dtype == DType::float16 ||
      view.dtype == DType::float32 || view.dtype == DType::float64)
    throw std::invalid_argument(view.name +
                                ": expected dtype bool, uint8, int16, int32 or int64, got " +
                                describe(view.dlpack_dtype));
}

// Calls fn with the data of a view of labels as a pointer of its element type.
template <class Fn>
void visit(const TensorView& view, Fn&& fn) {
  switch (view.dtype) {
    case DType::uint8:
      return fn(static_cast<const std::uint8_t*>(view.data));
    case DType::int16:
      return fn(static_cast<const std::int16_t*>(view.data));
    case DType::int32:
      return fn(static_cast<const std::int32_t*>(view.data));
    case DType::int64:
      return fn(static_cast<const std::int64_t*>(view.data));
    default:
      require_labels(view);
  }
}

}  // namespace recycleseg
