// DCNv4 sampling, forward and backward; the formula is that of nas.ops.functional.dcnv4.
//
// Layouts, row-major and dense: x (N, H, W, C), points (N, Ho, Wo, P), y (N, Ho, Wo, C), C = G * D. In a row of points,
// group g holds 3K values from g * 3K: x and y offset of each tap in turn, then the K weights. C and P are below 2^31;
// all other sizes may be larger in their products: `Index` is int only where an image H * W * C is below 2^31.
//
// One block takes a tile of output pixels (threadIdx.y along the width, threadIdx.z along the height) and a chunk of
// groups; LANES neighbouring threads along threadIdx.x share a group, each with VEC channels at a time. Rows of points
// pass through shared memory, `stride` values apart, read and written once; whole (`packed`) where one chunk holds all
// groups and a row is a multiple of 16 bytes.

#include "common.cuh"

struct Geometry {
  int h, w, c, ho, wo, p, groups, d;
  int sh, sw, ph, pw, dh, dw;
  float scale;
};

// Where a thread works. `active` threads have a pixel and a group; the others only take part in loads and reductions.
struct Place {
  int64 image;
  int oy, ox, first, count, group, lane, pixel;
  bool inside, active;

  template <int LANES> __device__ static Place of(const Geometry &s, int64 z, int chunks, int tiles_x) {
    Place at;
    const int per_block = blockDim.x / LANES;
    at.image = z / chunks;
    at.first = static_cast<int>(z % chunks) * per_block;
    at.count = min(per_block, s.groups - at.first);
    at.oy = static_cast<int>(blockIdx.x / tiles_x) * blockDim.z + threadIdx.z;
    at.ox = static_cast<int>(blockIdx.x % tiles_x) * blockDim.y + threadIdx.y;
    at.group = threadIdx.x / LANES;
    at.lane = threadIdx.x % LANES;
    at.pixel = threadIdx.z * blockDim.y + threadIdx.y;
    at.inside = at.oy < s.ho && at.ox < s.wo;
    at.active = at.inside && at.group < at.count;
    return at;
  }
};

// Copy this pixel's points of the chunk's groups between its row and shared memory. Whole rows of aligned size move in
// packs of 16 bytes.
template <typename M> __device__ inline void copy_row(M *to, const M *from, int entries, bool packed) {
  constexpr int N = 16 / sizeof(M);
  if (packed) {
    for (int i = threadIdx.x * N; i < entries; i += blockDim.x * N)
      *reinterpret_cast<Pack<M, N> *>(to + i) = *reinterpret_cast<const Pack<M, N> *>(from + i);
  } else {
    for (int i = threadIdx.x; i < entries; i += blockDim.x) to[i] = from[i];
  }
}

// Visit the taps of one (pixel, group): f(tap, whether it counts, y, x, weight).
template <int KH, int KW, bool REMOVE, typename M, typename F>
__device__ inline void for_taps(const Geometry &s, const Place &at, const M *row, F f) {
  constexpr int K = KH * KW - REMOVE;
  const int ch = s.dh * (KH - 1) / 2, cw = s.dw * (KW - 1) / 2;
  const float base_y = static_cast<float>(at.oy * s.sh + ch - s.ph);
  const float base_x = static_cast<float>(at.ox * s.sw + cw - s.pw);
  // Unrolled along the height only: all taps at once would need more registers than there are.
#pragma unroll 1
  for (int i = 0; i < KW; ++i) {
#pragma unroll
    for (int j = 0; j < KH; ++j) {
      constexpr int centre = KW / 2 * KH + KH / 2;
      const int t = i * KH + j;
      if (REMOVE && t == centre) continue;
      const int tap = t - (REMOVE && t > centre);
      const float ox = at.active ? to_float(row[2 * tap]) : 0.f, oy = at.active ? to_float(row[2 * tap + 1]) : 0.f;
      const float m = at.active ? to_float(row[2 * K + tap]) : 0.f;
      const float px = base_x + (i * s.dw - cw + ox) * s.scale, py = base_y + (j * s.dh - ch + oy) * s.scale;
      // False for NaN as well, so that what follows may turn floats into ints.
      const bool counts = at.active && py > -1.f && px > -1.f && py < s.h && px < s.w;
      f(tap, counts, py, px, m);
    }
  }
}

template <typename T, typename M, int VEC, int LANES, int KH, int KW, bool REMOVE, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void dcnv4_forward(const T *x, const M *points, T *y, int64 n, int h, int w, int c, int ho, int wo, int p,
                              int groups, int sh, int sw, int ph, int pw, int dh, int dw, float scale, int chunks,
                              int tiles_x, int stride, bool packed) {
  NAS_SHARED(shared);
  M *rows = reinterpret_cast<M *>(shared);
  const Geometry s{h, w, c, ho, wo, p, groups, c / groups, sh, sw, ph, pw, dh, dw, scale};
  constexpr int E = 3 * (KH * KW - REMOVE);
  for (int64 z = blockIdx.z; z < n * chunks; z += gridDim.z) {
    const Place at = Place::of<LANES>(s, z, chunks, tiles_x);
    const int64 pixel = (at.image * ho + at.oy) * wo + at.ox;
    const int entries = packed ? p : at.count * E;
    if (at.inside) copy_row(rows + at.pixel * stride, points + pixel * p + at.first * E, entries, packed);
    __syncthreads();
    if (at.active) {
      const M *row = rows + at.pixel * stride + at.group * E;
      const int channel = (at.first + at.group) * s.d;
      const T *image = x + at.image * h * w * static_cast<int64>(c) + channel;
      for (int v = at.lane * VEC; v < s.d; v += LANES * VEC) {
        float sum[VEC] = {};
        for_taps<KH, KW, REMOVE>(s, at, row, [&](int, bool counts, float py, float px, float m) {
          if (!counts) return;
          const Corners corners(py, px);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int cy = corners.row(i), cx = corners.column(i);
            if (cy < 0 || cx < 0 || cy >= h || cx >= w) continue;
            float value[VEC];
            load(value, image + (static_cast<Index>(cy) * w + cx) * c + v);
            const float share = m * corners.along_y(i) * corners.along_x(i);
#pragma unroll
            for (int e = 0; e < VEC; ++e) sum[e] += share * value[e];
          }
        });
        store(y + pixel * c + channel + v, sum);
      }
    }
    __syncthreads();
  }
}

// dx is float32 whatever T is, zero at the start, and left alone unless `wanted`; dpoints is written whole, its tail with zeros. Per tap, the four dots
// of dy with the corners give the gradients of weight and offsets; they are summed over the lanes of the group.
template <typename T, typename M, int VEC, int LANES, int KH, int KW, bool REMOVE, typename Index>
__launch_bounds__(NAS_THREADS, 2) __global__ void dcnv4_backward(const T *dy, const T *x, const M *points, float *dx, M *dpoints, int64 n, int h, int w,
                               int c, int ho, int wo, int p, int groups, int sh, int sw, int ph, int pw, int dh, int dw,
                               float scale, int chunks, int tiles_x, int stride, bool packed, bool wanted) {
  NAS_SHARED(shared);
  M *rows = reinterpret_cast<M *>(shared);
  const Geometry s{h, w, c, ho, wo, p, groups, c / groups, sh, sw, ph, pw, dh, dw, scale};
  constexpr int K = KH * KW - REMOVE, E = 3 * K;
  for (int64 z = blockIdx.z; z < n * chunks; z += gridDim.z) {
    const Place at = Place::of<LANES>(s, z, chunks, tiles_x);
    const int64 pixel = (at.image * ho + at.oy) * wo + at.ox;
    const int entries = packed ? p : at.count * E;
    if (at.inside) copy_row(rows + at.pixel * stride, points + pixel * p + at.first * E, entries, packed);
    __syncthreads();
    if (packed)
      for (int i = groups * E + threadIdx.x; i < p; i += blockDim.x) rows[at.pixel * stride + i] = from_float<M>(0.f);
    // A thread without work runs along, so that all lanes meet in the reductions.
    M *row = rows + at.pixel * stride + (at.active ? at.group * E : 0);
    const int channel = (at.first + (at.active ? at.group : 0)) * s.d;
    const int64 offset = at.image * h * w * static_cast<int64>(c) + channel;
    const T *grad = dy + pixel * c + channel;
    float kept[VEC];  // dy, where one pass over the lanes covers the group
    const bool one_pass = s.d <= LANES * VEC;
    if (one_pass && at.active && at.lane * VEC < s.d) load(kept, grad + at.lane * VEC);
    for_taps<KH, KW, REMOVE>(s, at, row, [&](int tap, bool counts, float py, float px, float m) {
      const Corners corners(counts ? py : 0.f, counts ? px : 0.f);
      float dots[4] = {};
      if (counts) {
        for (int v = at.lane * VEC; v < s.d; v += LANES * VEC) {
          float g[VEC];
          if (one_pass) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) g[e] = kept[e];
          } else {
            load(g, grad + v);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int cy = corners.row(i), cx = corners.column(i);
            if (cy < 0 || cx < 0 || cy >= h || cx >= w) continue;
            const Index place = (static_cast<Index>(cy) * w + cx) * c + v;
            float value[VEC], part[VEC];
            load(value, x + offset + place);
            const float share = m * corners.along_y(i) * corners.along_x(i);
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
              dots[i] += g[e] * value[e];
              part[e] = share * g[e];
            }
            if (wanted && share != 0.f) atomic_add(dx + offset + place, part);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) dots[i] = lane_sum<LANES>(dots[i]);
      __syncwarp();  // every lane has read this tap's points
      if (at.active && at.lane == 0) {
        const float top = (1.f - corners.lx) * dots[0] + corners.lx * dots[1];
        const float bottom = (1.f - corners.lx) * dots[2] + corners.lx * dots[3];
        const float left = (1.f - corners.ly) * (dots[1] - dots[0]) + corners.ly * (dots[3] - dots[2]);
        // Zero where the tap is outside, whatever its weight is.
        row[2 * tap] = from_float<M>(counts ? left * m * scale : 0.f);
        row[2 * tap + 1] = from_float<M>(counts ? (bottom - top) * m * scale : 0.f);
        row[2 * K + tap] = from_float<M>((1.f - corners.ly) * top + corners.ly * bottom);
      }
    });
    __syncthreads();
    if (at.inside) {
      M *out = dpoints + pixel * p;
      copy_row(out + at.first * E, rows + at.pixel * stride, entries, packed);
      if (!packed && at.first + at.count == groups)
        for (int i = groups * E + threadIdx.x; i < p; i += blockDim.x) out[i] = from_float<M>(0.f);
    }
    __syncthreads();
  }
}
