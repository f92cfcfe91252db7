// What every launch of a CUDA kernel needs.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace recycleseg {

inline void check_cuda(const char* operation, cudaError_t error) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(operation) + ": CUDA: " + cudaGetErrorString(error));
}

// Makes a device the current one for as long as it lives.
class DeviceGuard {
 public:
  DeviceGuard(const char* operation, int device) {
    check_cuda(operation, cudaGetDevice(&previous_));
    check_cuda(operation, cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

}  // namespace recycleseg
