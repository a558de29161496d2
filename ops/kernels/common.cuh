// What all kernels share: element types, vectors of them, reductions among lanes, and atomic sums of vectors.
//
// Device code only, compiled at run time. For tests the same text is compiled for the host: NAS_HOST_SHIM is then
// defined, and what CUDA provides comes from a header that is included first.

#pragma once

#ifndef NAS_HOST_SHIM
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define NAS_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// No block has more threads than this, and two are to share a multiprocessor: 128 registers a thread.
#define NAS_THREADS 256

using half_t = __half;
using bfloat_t = __nv_bfloat16;
using int64 = long long;

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(half_t v) { return __half2float(v); }
__device__ inline float to_float(bfloat_t v) { return __bfloat162float(v); }

template <typename T> __device__ inline T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline half_t from_float<half_t>(float v) { return __float2half_rn(v); }
template <> __device__ inline bfloat_t from_float<bfloat_t>(float v) { return __float2bfloat16_rn(v); }

// VEC neighbours in memory, at an address that is a multiple of their size (16 bytes at most): one load, one store.
template <typename T, int VEC> struct alignas(sizeof(T) * VEC) Pack {
  T v[VEC];
};

// Read VEC neighbours in one load.
template <typename T, int VEC> __device__ inline void load(float (&out)[VEC], const T *p) {
  const Pack<T, VEC> pack = *reinterpret_cast<const Pack<T, VEC> *>(p);
#pragma unroll
  for (int i = 0; i < VEC; ++i) out[i] = to_float(pack.v[i]);
}

// The bits of one element, or of two neighbours.
__device__ inline unsigned bits_of(float v) { return __float_as_uint(v); }
__device__ inline unsigned bits_of(half_t v) { return __half_as_ushort(v); }
__device__ inline unsigned bits_of(bfloat_t v) { return __bfloat16_as_ushort(v); }

// Write VEC neighbours in one store. The compiler splits a struct of halves into stores of 2 bytes, so the words are
// packed by hand and stored by an intrinsic.
template <typename T, int VEC> __device__ inline void store(T *p, const float (&in)[VEC]) {
  if constexpr (sizeof(T) * VEC < 4) {
    p[0] = from_float<T>(in[0]);
  } else {
    constexpr int PER = 4 / sizeof(T), WORDS = VEC / PER;
    unsigned words[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      words[i] = bits_of(from_float<T>(in[i * PER]));
      if constexpr (PER == 2) words[i] |= bits_of(from_float<T>(in[i * PER + 1])) << 16;
    }
    if constexpr (WORDS == 4) {
      __stwb(reinterpret_cast<uint4 *>(p), make_uint4(words[0], words[1], words[2], words[3]));
    } else if constexpr (WORDS == 2) {
      __stwb(reinterpret_cast<uint2 *>(p), make_uint2(words[0], words[1]));
    } else {
      __stwb(reinterpret_cast<unsigned *>(p), words[0]);
    }
  }
}

// Add to VEC neighbouring sums that other threads add to as well. Four in one instruction from sm_90 on.
template <int VEC> __device__ inline void atomic_add(float *p, const float (&in)[VEC]) {
#if defined(NAS_HOST_SHIM) || __CUDA_ARCH__ >= 900
  if (VEC % 4 == 0) {
#pragma unroll
    for (int i = 0; i + 3 < VEC; i += 4)
      atomicAdd(reinterpret_cast<float4 *>(p + i), make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]));
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < VEC; ++i) atomicAdd(p + i, in[i]);
}

// Sum over each group of LANES neighbouring lanes, a power of two; all lanes of the warp take part and get the sum.
template <int LANES> __device__ inline float lane_sum(float v) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
  return v;
}

// Sum N values at once over each group of LANES neighbouring lanes, both powers of two: in every step lanes hand over the
// half of the values that they do not go on with. Afterwards v[0 .. max(N / LANES, 1)) are the sums from index
// `first_of<N, LANES>(lane)` on; where LANES > N, several lanes hold the same.
template <int N, int LANES> __device__ inline void lane_sums(float *v, int lane) {
  if constexpr (LANES > 1) {
    constexpr int distance = LANES / 2;
    if constexpr (N > 1) {
      const bool upper = lane & distance;
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        const float given = upper ? v[i] : v[i + N / 2], kept = upper ? v[i + N / 2] : v[i];
        v[i] = kept + __shfl_xor_sync(0xffffffffu, given, distance);
      }
      lane_sums<N / 2, distance>(v, lane);
    } else {
      v[0] += __shfl_xor_sync(0xffffffffu, v[0], distance);
      lane_sums<1, distance>(v, lane);
    }
  }
}
template <int N, int LANES> __device__ inline int first_of(int lane) {
  if constexpr (LANES > 1 && N > 1) return (lane & (LANES / 2) ? N / 2 : 0) + first_of<N / 2, LANES / 2>(lane);
  return 0;
}

// The corners of a bilinear sample at (y, x), and what each counts. Coordinates must be finite and above -2^31.
struct Corners {
  int y, x;      // upper left corner
  float ly, lx;  // distance from it, 0 <= l < 1

  __device__ Corners(float py, float px) {
    const float fy = floorf(py), fx = floorf(px);
    y = static_cast<int>(fy);
    x = static_cast<int>(fx);
    ly = py - fy;
    lx = px - fx;
  }
  // Corner i of 0..3: upper left, upper right, lower left, lower right.
  __device__ int row(int i) const { return y + (i >> 1); }
  __device__ int column(int i) const { return x + (i & 1); }
  __device__ float along_y(int i) const { return i >> 1 ? ly : 1.f - ly; }
  __device__ float along_x(int i) const { return i & 1 ? lx : 1.f - lx; }
};
