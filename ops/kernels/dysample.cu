// DySample, forward and backward: from raw offsets to samples; the formula is that of nas.ops.functional.dysample.
//
// Layouts: x (N, C, H, W) and y (N, C, sH, sW), dense within an image, as NCHW (a pixel step of 1, a channel step of the
// plane) or channels last (a pixel step of C, a channel step of 1); offset (N, 2 * G * s^2, H, W) with any steps. One
// image of y is below 2^31 elements where `Index` is int; all offsets between images are 64-bit.
//
// One block takes a tile of output pixels (threadIdx.y along the width, threadIdx.z along the height) and a chunk of
// groups; LANES neighbouring threads along threadIdx.x share a group, each with VEC channels at a time. For NCHW that
// is one thread and one channel at a time, and neighbouring threads are neighbouring pixels.

#include "common.cuh"

struct Point {
  int64 image;
  int gy, gx, group, lane;  // output pixel
  int i, j, sub;            // source pixel, and which of its sub-pixels
  bool active;

  template <int LANES>
  __device__ static Point of(int64 z, int chunks, int tiles_x, int h, int w, int groups, int scale) {
    Point at;
    const int per_block = blockDim.x / LANES;
    at.image = z / chunks;
    at.group = static_cast<int>(z % chunks) * per_block + threadIdx.x / LANES;
    at.lane = threadIdx.x % LANES;
    at.gy = static_cast<int>(blockIdx.x / tiles_x) * blockDim.z + threadIdx.z;
    at.gx = static_cast<int>(blockIdx.x % tiles_x) * blockDim.y + threadIdx.y;
    at.i = at.gy / scale;
    at.j = at.gx / scale;
    at.sub = at.gy % scale * scale + at.gx % scale;
    at.active = at.gy < h * scale && at.gx < w * scale && at.group < groups;
    return at;
  }
};

// A coordinate inside of the image, and whether its gradient passes. NaN becomes 0.
struct Clamped {
  float at;
  bool passes;
  __device__ Clamped(float v, int size) {
    const float last = static_cast<float>(size - 1);
    passes = v > 0.f && v < last;
    at = fminf(fmaxf(v, 0.f), last);
  }
};

// Distance of sub-pixel `sub` (0 .. scale - 1) from the centre of its pixel, where offsets are seen from the sub-pixel.
__device__ inline float place_of(int sub, int scale, bool initial) {
  return initial ? (sub - (scale - 1) * 0.5f) / scale : 0.f;
}

template <typename T, typename O, int VEC, int LANES, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void dysample_forward(const T *x, const O *offset, T *y, int64 n, int c, int h, int w, int groups, int scale,
                                 float factor, bool initial, int64 on, int64 oc, int64 oh, int64 ow, Index pixel_step,
                                 Index channel_step, Index out_channel_step, int chunks, int tiles_x) {
  const int d = c / groups, half = groups * scale * scale;
  for (int64 z = blockIdx.z; z < n * chunks; z += gridDim.z) {
    const Point at = Point::of<LANES>(z, chunks, tiles_x, h, w, groups, scale);
    if (!at.active) continue;
    const O *o = offset + at.image * on + (at.group * scale * scale + at.sub) * oc + at.i * oh + at.j * ow;
    const float ox = to_float(o[0]) * factor + place_of(at.sub % scale, scale, initial);
    const float oy = to_float(o[half * oc]) * factor + place_of(at.sub / scale, scale, initial);
    const Corners corners(Clamped(at.i + oy, h).at, Clamped(at.j + ox, w).at);
    const T *image = x + at.image * h * w * static_cast<int64>(c);
    T *out = y + at.image * h * w * static_cast<int64>(c) * scale * scale +
             (static_cast<Index>(at.gy) * w * scale + at.gx) * pixel_step;
    for (int v = at.lane * VEC; v < d; v += LANES * VEC) {
      const int channel = at.group * d + v;
      float sum[VEC] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float share = corners.along_y(i) * corners.along_x(i);
        const int cy = corners.row(i), cx = corners.column(i);
        if (cy >= h || cx >= w) continue;  // then its share is zero
        float value[VEC];
        load(value, image + (static_cast<Index>(cy) * w + cx) * pixel_step + channel * channel_step);
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] += share * value[e];
      }
      store(out + channel * out_channel_step, sum);
    }
  }
}

// dx is float32 whatever T is, zero at the start, laid out as x, and left alone unless `wanted`; doffset has steps of its own, and is written whole.
template <typename T, typename O, int VEC, int LANES, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void dysample_backward(const T *dy, const T *x, const O *offset, float *dx, O *doffset, int64 n, int c, int h,
                                  int w, int groups, int scale, float factor, bool initial, int64 on, int64 oc, int64 oh,
                                  int64 ow, Index pixel_step, Index channel_step, Index out_channel_step,
                                  int chunks, int tiles_x, int64 gn, int64 gc, int64 gh, int64 gw, bool wanted) {
  const int d = c / groups, half = groups * scale * scale;
  for (int64 z = blockIdx.z; z < n * chunks; z += gridDim.z) {
    const Point at = Point::of<LANES>(z, chunks, tiles_x, h, w, groups, scale);
    // Threads without work run along, so that all lanes meet in the reductions.
    const int channel_of_offset = at.group * scale * scale + at.sub;
    float ox = 0.f, oy = 0.f;
    if (at.active) {
      const O *o = offset + at.image * on + channel_of_offset * oc + at.i * oh + at.j * ow;
      ox = to_float(o[0]) * factor + place_of(at.sub % scale, scale, initial);
      oy = to_float(o[half * oc]) * factor + place_of(at.sub / scale, scale, initial);
    }
    const Clamped py(at.i + oy, h), px(at.j + ox, w);
    const Corners corners(py.at, px.at);
    float dots[4] = {};
    if (at.active) {
      const int64 image = at.image * h * w * static_cast<int64>(c);
      const T *grad = dy + image * scale * scale + (static_cast<Index>(at.gy) * w * scale + at.gx) * pixel_step;
      for (int v = at.lane * VEC; v < d; v += LANES * VEC) {
        const int channel = at.group * d + v;
        float g[VEC];
        load(g, grad + channel * out_channel_step);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float share = corners.along_y(i) * corners.along_x(i);
          const int cy = corners.row(i), cx = corners.column(i);
          if (cy >= h || cx >= w) continue;
          const int64 place = image + (static_cast<Index>(cy) * w + cx) * pixel_step + channel * channel_step;
          float value[VEC], part[VEC];
          load(value, x + place);
#pragma unroll
          for (int e = 0; e < VEC; ++e) {
            dots[i] += g[e] * value[e];
            part[e] = share * g[e];
          }
          if (wanted && share != 0.f) atomic_add(dx + place, part);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dots[i] = lane_sum<LANES>(dots[i]);
    if (at.active && at.lane == 0) {
      const float across = (1.f - corners.ly) * (dots[1] - dots[0]) + corners.ly * (dots[3] - dots[2]);
      const float down = (1.f - corners.lx) * (dots[2] - dots[0]) + corners.lx * (dots[3] - dots[1]);
      O *o = doffset + at.image * gn + channel_of_offset * gc + at.i * gh + at.j * gw;
      o[0] = from_float<O>(px.passes ? across * factor : 0.f);
      o[half * gc] = from_float<O>(py.passes ? down * factor : 0.f);
    }
  }
}
