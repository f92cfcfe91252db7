// Marks of functions that both a host and a GPU run.
#pragma once

#ifdef __CUDACC__
#define RECYCLESEG_HOST_DEVICE __host__ __device__
#define RECYCLESEG_ALWAYS_INLINE __forceinline__
#else
#define RECYCLESEG_HOST_DEVICE
#define RECYCLESEG_ALWAYS_INLINE inline __attribute__((always_inline))
#endif
