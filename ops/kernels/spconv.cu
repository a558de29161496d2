// SPConv's blend of two normalised branches, forward and backward; the formula is that of nas.ops.functional.spconv.
//
// With A = g + q: y = alpha * A + beta * v + delta, where the three coefficients of an image and channel follow from
// sums over its pixels. Forward: sums (one reading pass), gate (small), blend (one pass). Backward alike.
//
// Layouts: g, q, v, y and their gradients (N, H * W, C) dense, channels last; sums (N, SPLITS, C, ...), coefficients
// (N, C, 4) = alpha, beta, delta, p, means (N, C, 2) of A and v, statistics (4, C) = mean and variance of A, mean and
// variance of v; float32. Sums are taken of differences to the channel's first value in the batch, so that no digits are
// lost where the mean is large.
//
// In passes over pixels, threadIdx.x is a vector of VEC channels, threadIdx.y a pixel; blockIdx.x counts chunks of
// channels, blockIdx.y parts of an image, blockIdx.z images. In gates a warp has a channel, its lanes the images.

#include "common.cuh"

// The pixels [from, to) of part `split` of an image.
struct Part {
  int64 from, to;
  __device__ Part(int64 pixels, int split, int splits) : from(pixels * split / splits), to(pixels * (split + 1) / splits) {}
};

// Sum COUNT values over threadIdx.y, of which there is a power of two; the threads with threadIdx.y = 0 get them.
template <int COUNT> __device__ inline void column_sum(float (&v)[COUNT], float *shared) {
  const int threads = blockDim.x * blockDim.y, mine = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) shared[i * threads + mine] = v[i];
  for (int rows = blockDim.y / 2; rows > 0; rows /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < rows)
#pragma unroll
      for (int i = 0; i < COUNT; ++i) shared[i * threads + mine] += shared[i * threads + mine + rows * blockDim.x];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < COUNT; ++i) v[i] = shared[i * threads + threadIdx.x];
  __syncthreads();
}

// sums (N, SPLITS, C, 4): of A, of A squared, of v, of v squared.
template <typename T, int VEC>
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_sums(const T *g, const T *q, const T *v, float *sums, int64 n, int64 pixels, int c, int splits) {
  NAS_SHARED(shared);
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
  const bool active = channel < c;
  float first_a[VEC], first_v[VEC], part[VEC];
  if (active) {
    load(first_a, g + channel);
    load(part, q + channel);
    load(first_v, v + channel);
#pragma unroll
    for (int e = 0; e < VEC; ++e) first_a[e] += part[e];
  }
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    float sum[4 * VEC] = {};
    const Part span(pixels, blockIdx.y, splits);
    if (active) {
      for (int64 pixel = span.from + threadIdx.y; pixel < span.to; pixel += blockDim.y) {
        const int64 place = (image * pixels + pixel) * c + channel;
        float a[VEC], b[VEC];
        load(a, g + place);
        load(part, q + place);
        load(b, v + place);
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
          const float x = a[e] + part[e] - first_a[e], z = b[e] - first_v[e];
          sum[4 * e] += x;
          sum[4 * e + 1] += x * x;
          sum[4 * e + 2] += z;
          sum[4 * e + 3] += z * z;
        }
      }
    }
    column_sum(sum, reinterpret_cast<float *>(shared));
    if (active && threadIdx.y == 0)
#pragma unroll
      for (int i = 0; i < 4 * VEC; ++i) sums[((image * splits + blockIdx.y) * c + channel) * 4 + i] = sum[i];
  }
}

struct Norm {
  float mean, var, scale, shift;  // scale = weight / sqrt(var + eps), shift = bias - scale * mean
};

template <typename T>
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_gate(const T *g, const T *q, const T *v, const float *sums, const float *weight1, const float *bias1,
                     const float *weight2, const float *bias2, const float *mean1, const float *var1, const float *mean2,
                     const float *var2, float *coefficients, float *means, float *statistics, int64 n, int64 pixels,
                     int c, int splits, bool training, float eps1, float eps2) {
  const int channel = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  const bool active = channel < c;
  const int at = active ? channel : 0;
  const float first_a = to_float(g[at]) + to_float(q[at]), first_v = to_float(v[at]);
  float total[4] = {};
  for (int64 image = lane; image < n; image += 32) {
    float own[2] = {};
    for (int split = 0; split < splits; ++split) {
      const float *from = sums + ((image * splits + split) * c + at) * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += from[i];
      own[0] += from[0];
      own[1] += from[2];
    }
    if (active) {
      means[(image * c + channel) * 2] = first_a + own[0] / pixels;
      means[(image * c + channel) * 2 + 1] = first_v + own[1] / pixels;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) total[i] = lane_sum<32>(total[i]) / (static_cast<float>(n) * pixels);
  if (!active) return;
  Norm a{first_a + total[0], fmaxf(total[1] - total[0] * total[0], 0.f), 0.f, 0.f};
  Norm b{first_v + total[2], fmaxf(total[3] - total[2] * total[2], 0.f), 0.f, 0.f};
  if (!training) {
    a.mean = mean1[channel];
    a.var = var1[channel];
    b.mean = mean2[channel];
    b.var = var2[channel];
  }
  a.scale = weight1[channel] / sqrtf(a.var + eps1);
  a.shift = bias1[channel] - a.scale * a.mean;
  b.scale = weight2[channel] / sqrtf(b.var + eps2);
  b.shift = bias2[channel] - b.scale * b.mean;
  if (lane == 0) {
    statistics[channel] = a.mean;
    statistics[c + channel] = a.var;
    statistics[2 * c + channel] = b.mean;
    statistics[3 * c + channel] = b.var;
  }
  for (int64 image = lane; image < n; image += 32) {
    const float *mean = means + (image * c + channel) * 2;
    const float z = a.scale * mean[0] + a.shift - (b.scale * mean[1] + b.shift);
    const float p = 1.f / (1.f + expf(-z));
    float *to = coefficients + (image * c + channel) * 4;
    to[0] = p * a.scale;
    to[1] = (1.f - p) * b.scale;
    to[2] = p * a.shift + (1.f - p) * b.shift;
    to[3] = p;
  }
}

template <typename T, int VEC>
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_blend(const T *g, const T *q, const T *v, const float *coefficients, T *y, int64 n, int64 pixels, int c,
                      int splits) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
  if (channel >= c) return;
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    float alpha[VEC], beta[VEC], delta[VEC];
#pragma unroll
    for (int e = 0; e < VEC; ++e) {
      const float *from = coefficients + (image * c + channel + e) * 4;
      alpha[e] = from[0];
      beta[e] = from[1];
      delta[e] = from[2];
    }
    const Part span(pixels, blockIdx.y, splits);
    for (int64 pixel = span.from + threadIdx.y; pixel < span.to; pixel += blockDim.y) {
      const int64 place = (image * pixels + pixel) * c + channel;
      float a[VEC], part[VEC], b[VEC];
      load(a, g + place);
      load(part, q + place);
      load(b, v + place);
#pragma unroll
      for (int e = 0; e < VEC; ++e) a[e] = alpha[e] * (a[e] + part[e]) + beta[e] * b[e] + delta[e];
      store(y + place, a);
    }
  }
}

// sums (N, SPLITS, C, 3): of dy, of dy * A, of dy * v.
template <typename T, int VEC>
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_backward_sums(const T *dy, const T *g, const T *q, const T *v, float *sums, int64 n, int64 pixels, int c,
                              int splits) {
  NAS_SHARED(shared);
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
  const bool active = channel < c;
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    float sum[3 * VEC] = {};
    const Part span(pixels, blockIdx.y, splits);
    if (active) {
      for (int64 pixel = span.from + threadIdx.y; pixel < span.to; pixel += blockDim.y) {
        const int64 place = (image * pixels + pixel) * c + channel;
        float d[VEC], a[VEC], part[VEC], b[VEC];
        load(d, dy + place);
        load(a, g + place);
        load(part, q + place);
        load(b, v + place);
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
          sum[3 * e] += d[e];
          sum[3 * e + 1] += d[e] * (a[e] + part[e]);
          sum[3 * e + 2] += d[e] * b[e];
        }
      }
    }
    column_sum(sum, reinterpret_cast<float *>(shared));
    if (active && threadIdx.y == 0)
#pragma unroll
      for (int i = 0; i < 3 * VEC; ++i) sums[((image * splits + blockIdx.y) * c + channel) * 3 + i] = sum[i];
  }
}

// From sums to the gradients (4, C) of weight 1, bias 1, weight 2, bias 2, and to what the last pass adds:
// offsets (N, C, 2) and slopes (2, C), with dA = alpha * dy + offset + slope * A, dv alike.
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_backward_gate(const float *sums, const float *coefficients, const float *means, const float *statistics,
                              const float *weight1, const float *bias1, const float *weight2, const float *bias2,
                              float *offsets, float *slopes, float *dparameters, int64 n, int64 pixels, int c, int splits,
                              bool training, float eps1, float eps2) {
  const int channel = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  const bool active = channel < c;
  const int at = active ? channel : 0;
  const float root1 = 1.f / sqrtf(statistics[c + at] + eps1), root2 = 1.f / sqrtf(statistics[3 * c + at] + eps2);
  const float mean1 = statistics[at], mean2 = statistics[2 * c + at];
  const float scale1 = weight1[at] * root1, scale2 = weight2[at] * root2;
  const float shift1 = bias1[at] - scale1 * mean1, shift2 = bias2[at] - scale2 * mean2;
  float total[4] = {};  // gradients of scale 1, shift 1, scale 2, shift 2
  for (int64 image = lane; image < n; image += 32) {
    float d[3] = {};
    for (int split = 0; split < splits; ++split)
#pragma unroll
      for (int i = 0; i < 3; ++i) d[i] += sums[((image * splits + split) * c + at) * 3 + i];
    const float p = coefficients[(image * c + at) * 4 + 3];
    const float *mean = means + (image * c + at) * 2;
    // y = p * (scale1 * A + shift1) + (1 - p) * (scale2 * v + shift2)
    const float dp = d[1] * scale1 + d[0] * shift1 - d[2] * scale2 - d[0] * shift2;
    const float dz = dp * p * (1.f - p);
    total[0] += d[1] * p + dz * mean[0];
    total[1] += d[0] * p + dz;
    total[2] += d[2] * (1.f - p) - dz * mean[1];
    total[3] += d[0] * (1.f - p) - dz;
    if (active) {
      offsets[(image * c + channel) * 2] = dz * scale1 / pixels;
      offsets[(image * c + channel) * 2 + 1] = -dz * scale2 / pixels;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) total[i] = lane_sum<32>(total[i]);
  if (!active) return;
  const float dscale1 = total[0] - mean1 * total[1], dscale2 = total[2] - mean2 * total[3];
  const float count = static_cast<float>(n) * pixels;
  // Through variance and mean of the batch; d var / d A = 2 (A - mean) / count.
  const float slope1 = training ? -dscale1 * weight1[channel] * root1 * root1 * root1 / count : 0.f;
  const float slope2 = training ? -dscale2 * weight2[channel] * root2 * root2 * root2 / count : 0.f;
  const float add1 = training ? -scale1 * total[1] / count - slope1 * mean1 : 0.f;
  const float add2 = training ? -scale2 * total[3] / count - slope2 * mean2 : 0.f;
  if (lane == 0) {
    slopes[channel] = slope1;
    slopes[c + channel] = slope2;
    dparameters[channel] = dscale1 * root1;
    dparameters[c + channel] = total[1];
    dparameters[2 * c + channel] = dscale2 * root2;
    dparameters[3 * c + channel] = total[3];
  }
  for (int64 image = lane; image < n; image += 32) {
    offsets[(image * c + channel) * 2] += add1;
    offsets[(image * c + channel) * 2 + 1] += add2;
  }
}

template <typename T, int VEC>
__launch_bounds__(NAS_THREADS, 2) __global__ void spconv_backward_inputs(const T *dy, const T *g, const T *q, const T *v, const float *coefficients,
                                const float *offsets, const float *slopes, T *da, T *dv, int64 n, int64 pixels, int c,
                                int splits) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
  if (channel >= c) return;
  float slope_a[VEC], slope_v[VEC];
#pragma unroll
  for (int e = 0; e < VEC; ++e) {
    slope_a[e] = slopes[channel + e];
    slope_v[e] = slopes[c + channel + e];
  }
  for (int64 image = blockIdx.z; image < n; image += gridDim.z) {
    float alpha[VEC], beta[VEC], offset_a[VEC], offset_v[VEC];
#pragma unroll
    for (int e = 0; e < VEC; ++e) {
      const int64 at = image * c + channel + e;
      alpha[e] = coefficients[at * 4];
      beta[e] = coefficients[at * 4 + 1];
      offset_a[e] = offsets[at * 2];
      offset_v[e] = offsets[at * 2 + 1];
    }
    const Part span(pixels, blockIdx.y, splits);
    for (int64 pixel = span.from + threadIdx.y; pixel < span.to; pixel += blockDim.y) {
      const int64 place = (image * pixels + pixel) * c + channel;
      float d[VEC], a[VEC], part[VEC], b[VEC];
      load(d, dy + place);
      load(a, g + place);
      load(part, q + place);
      load(b, v + place);
#pragma unroll
      for (int e = 0; e < VEC; ++e) {
        a[e] = alpha[e] * d[e] + offset_a[e] + slope_a[e] * (a[e] + part[e]);
        b[e] = beta[e] * d[e] + offset_v[e] + slope_v[e] * b[e];
      }
      store(da + place, a);
      store(dv + place, b);
    }
  }
}
