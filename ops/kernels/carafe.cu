// CARAFE, forward and backward: softmax, reassembly and pixel shuffle in one; the formula is that of
// nas.ops.functional.carafe.
//
// Layouts: x (N, C, H, W) and y (N, C, sH, sW) dense, channels last or, in the forward only, channels first; logits
// (N, K * K * S * S, H, W) with any steps; norms (N, H, W, S * S, 2) float32, dense: the largest logit of a softmax, and
// the logarithm of the sum of exponentials of what the others lack. (Their sum would lose the digits of the second.)
// An image of y is below 2^31 elements where `Index` is int; all offsets between images are 64-bit.
//
// A block takes a tile of source pixels and all channels. Its threads are lanes of channels, VEC at a time, times the
// pixels of the tile; an element of x is read once and serves SUBS output pixels at a time, all S * S where that fits
// into registers.

#include "common.cuh"

// Where a thread works. Channels last: lanes along threadIdx.x, so that a warp reads neighbouring channels. Channels
// first: pixels along threadIdx.x, so that it reads neighbouring pixels.
template <bool LAST> struct Spot {
  int64 image;
  int i, j, lane, lanes, pixel;
  bool inside;

  __device__ Spot(int64 n, int h, int w, int tiles_x) {
    image = n;
    lane = LAST ? threadIdx.x : threadIdx.y;
    lanes = LAST ? blockDim.x : blockDim.y;
    const int width = LAST ? blockDim.y : blockDim.x, column = LAST ? threadIdx.y : threadIdx.x;
    i = static_cast<int>(blockIdx.x / tiles_x) * blockDim.z + threadIdx.z;
    j = static_cast<int>(blockIdx.x % tiles_x) * width + column;
    pixel = threadIdx.z * width + column;
    inside = i < h && j < w;
  }
};

template <typename T, typename L, int VEC, int K, int S, int SUBS, bool LAST, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void carafe_forward(const T *x, const L *logits, T *y, float *norms, int64 n, int c, int h, int w, int64 ln,
                               int64 lc, int64 lh, int64 lw, int tiles_x) {
  NAS_SHARED(shared);
  constexpr int TAPS = K * K, SS = S * S, R = K / 2;
  const Index step = LAST ? 1 : static_cast<Index>(h) * w, out_step = LAST ? 1 : step * SS, pixel_step = LAST ? c : 1;
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    const Spot<LAST> at(image, h, w, tiles_x);
    float *weights = reinterpret_cast<float *>(shared) + at.pixel * TAPS * SS;
    if (at.inside) {
      const L *from = logits + image * ln + at.i * lh + at.j * lw;
      for (int t = at.lane; t < TAPS * SS; t += at.lanes) weights[t] = to_float(from[t * lc]);
    }
    __syncthreads();
    if (at.inside) {
      for (int sub = at.lane; sub < SS; sub += at.lanes) {
        float top = weights[sub], sum = 0.f;
        for (int t = 1; t < TAPS; ++t) top = fmaxf(top, weights[t * SS + sub]);
        for (int t = 0; t < TAPS; ++t) sum += expf(weights[t * SS + sub] - top);
        const float rest = logf(sum);
        for (int t = 0; t < TAPS; ++t) weights[t * SS + sub] = expf(weights[t * SS + sub] - top - rest);
        float *norm = norms + (((image * h + at.i) * w + at.j) * SS + sub) * 2;
        norm[0] = top;
        norm[1] = rest;
      }
    }
    __syncthreads();
    if (at.inside) {
      const T *from = x + image * h * w * static_cast<int64>(c);
      T *to = y + image * h * w * static_cast<int64>(c) * SS;
      for (int v = at.lane * VEC; v < c; v += at.lanes * VEC) {
        for (int first = 0; first < SS; first += SUBS) {
          float sum[SUBS][VEC] = {};
#pragma unroll
          for (int a = 0; a < K; ++a) {
            const int row = at.i + a - R;
            if (row < 0 || row >= h) continue;
#pragma unroll
            for (int b = 0; b < K; ++b) {
              const int column = at.j + b - R;
              if (column < 0 || column >= w) continue;
              float value[VEC];
              const T *source = from + (static_cast<Index>(row) * w + column) * pixel_step + v * step;
              if constexpr (LAST) {
                load(value, source);
              } else {
#pragma unroll
                for (int e = 0; e < VEC; ++e) value[e] = to_float(source[e * step]);
              }
#pragma unroll
              for (int sub = 0; sub < SUBS; ++sub) {
                const float share = weights[(a * K + b) * SS + first + sub];
#pragma unroll
                for (int e = 0; e < VEC; ++e) sum[sub][e] += share * value[e];
              }
            }
          }
#pragma unroll
          for (int sub = 0; sub < SUBS; ++sub) {
            const int gy = at.i * S + (first + sub) / S, gx = at.j * S + (first + sub) % S;
            T *out = to + (static_cast<Index>(gy) * w * S + gx) * pixel_step + v * out_step;
            if constexpr (LAST) {
              store(out, sum[sub]);
            } else if constexpr (S % 2 == 0 && SUBS % 2 == 0) {
              if (sub % 2) continue;  // two neighbours along a row at once
#pragma unroll
              for (int e = 0; e < VEC; ++e) {
                const float both[2] = {sum[sub][e], sum[sub + 1][e]};
                store(out + e * out_step, both);
              }
            } else {
#pragma unroll
              for (int e = 0; e < VEC; ++e) out[e * out_step] = from_float<T>(sum[sub][e]);
            }
          }
        }
      }
    }
    __syncthreads();
  }
}

// The gradient of x, as a gather: pixel q sums over all output pixels whose neighbourhood holds it. Deterministic.
template <typename T, typename L, int VEC, int K, int S, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void carafe_backward_input(const T *dy, const L *logits, const float *norms, T *dx, int64 n, int c, int h, int w,
                                      int64 ln, int64 lc, int64 lh, int64 lw, int tiles_x) {
  constexpr int SS = S * S, R = K / 2;
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    const Spot<true> at(image, h, w, tiles_x);
    if (!at.inside) continue;
    const T *from = dy + image * h * w * static_cast<int64>(c) * SS;
    T *to = dx + image * h * w * static_cast<int64>(c) + (static_cast<Index>(at.i) * w + at.j) * c;
    for (int v = at.lane * VEC; v < c; v += at.lanes * VEC) {
      float sum[VEC] = {};
      for (int a = 0; a < K; ++a) {
        const int row = at.i - (a - R);
        if (row < 0 || row >= h) continue;
#pragma unroll
        for (int b = 0; b < K; ++b) {
          const int column = at.j - (b - R);
          if (column < 0 || column >= w) continue;
          const L *logit = logits + image * ln + row * lh + column * lw + (a * K + b) * SS * lc;
          const float *norm = norms + ((image * h + row) * w + column) * SS * 2;
#pragma unroll
          for (int sub = 0; sub < SS; ++sub) {
            const float share = expf(to_float(logit[sub * lc]) - norm[2 * sub] - norm[2 * sub + 1]);
            const int gy = row * S + sub / S, gx = column * S + sub % S;
            float g[VEC];
            load(g, from + (static_cast<Index>(gy) * w * S + gx) * c + v);
#pragma unroll
            for (int e = 0; e < VEC; ++e) sum[e] += share * g[e];
          }
        }
      }
      store(to + v, sum);
    }
  }
}

// The gradient of the logits: dots of dy with the neighbourhood, then that of the softmax. Deterministic.
template <typename T, typename L, int VEC, int LANES, int K, int S, int SUBS, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void carafe_backward_logits(const T *dy, const T *x, const L *logits, const float *norms, L *dlogits, int64 n,
                                       int c, int h, int w, int64 ln, int64 lc, int64 lh, int64 lw, int64 gn, int64 gc,
                                       int64 gh, int64 gw, int tiles_x) {
  NAS_SHARED(shared);
  constexpr int TAPS = K * K, SS = S * S, R = K / 2;
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    const Spot<true> at(image, h, w, tiles_x);
    float *weights = reinterpret_cast<float *>(shared) + at.pixel * 2 * TAPS * SS, *dots_of = weights + TAPS * SS;
    if (at.inside) {
      const L *from = logits + image * ln + at.i * lh + at.j * lw;
      const float *norm = norms + ((image * h + at.i) * w + at.j) * SS * 2;
      for (int t = at.lane; t < TAPS * SS; t += LANES)
        weights[t] = expf(to_float(from[t * lc]) - norm[t % SS * 2] - norm[t % SS * 2 + 1]);
    }
    const T *grad = dy + image * h * w * static_cast<int64>(c) * SS, *input = x + image * h * w * static_cast<int64>(c);
    const bool one_pass = c <= LANES * VEC;
    for (int first = 0; first < SS; first += SUBS) {
      float g[SUBS][VEC] = {};
      const auto read = [&](int v) {
#pragma unroll
        for (int sub = 0; sub < SUBS; ++sub) {
          const int gy = at.i * S + (first + sub) / S, gx = at.j * S + (first + sub) % S;
          load(g[sub], grad + (static_cast<Index>(gy) * w * S + gx) * c + v);
        }
      };
      if (one_pass && at.inside && at.lane * VEC < c) read(at.lane * VEC);
      for (int a = 0; a < K; ++a) {
        for (int b = 0; b < K; ++b) {
          const int row = at.i + a - R, column = at.j + b - R;
          float dots[SUBS] = {};
          if (at.inside && row >= 0 && column >= 0 && row < h && column < w) {
            for (int v = at.lane * VEC; v < c; v += LANES * VEC) {
              if (!one_pass) read(v);
              float value[VEC];
              load(value, input + (static_cast<Index>(row) * w + column) * c + v);
#pragma unroll
              for (int sub = 0; sub < SUBS; ++sub)
#pragma unroll
                for (int e = 0; e < VEC; ++e) dots[sub] += g[sub][e] * value[e];
            }
          }
          float *to = dots_of + (a * K + b) * SS + first;
          if constexpr ((SUBS & (SUBS - 1)) == 0) {
            lane_sums<SUBS, LANES>(dots, at.lane);
            constexpr int HELD = SUBS > LANES ? SUBS / LANES : 1;
            if (at.inside && at.lane % (LANES > SUBS ? LANES / SUBS : 1) == 0)
#pragma unroll
              for (int i = 0; i < HELD; ++i) to[first_of<SUBS, LANES>(at.lane) + i] = dots[i];
          } else {
#pragma unroll
            for (int sub = 0; sub < SUBS; ++sub) {
              dots[sub] = lane_sum<LANES>(dots[sub]);
              if (at.inside && at.lane == 0) to[sub] = dots[sub];
            }
          }
        }
      }
    }
    __syncthreads();
    if (at.inside) {
      for (int sub = at.lane; sub < SS; sub += LANES) {
        float mean = 0.f;
        for (int t = 0; t < TAPS; ++t) mean += weights[t * SS + sub] * dots_of[t * SS + sub];
        for (int t = 0; t < TAPS; ++t) weights[t * SS + sub] *= dots_of[t * SS + sub] - mean;
      }
    }
    __syncthreads();
    if (at.inside) {
      L *to = dlogits + image * gn + at.i * gh + at.j * gw;
      for (int t = at.lane; t < TAPS * SS; t += LANES) to[t * gc] = from_float<L>(weights[t]);
    }
    __syncthreads();
  }
}
