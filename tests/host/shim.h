// What CUDA provides, for the host: a kernel runs block by block, its threads as fibers.
//
// A thread runs until it meets a barrier or a shuffle, or ends. Blocks, and threads between barriers, run in an order
// that is shuffled by a seed, so that a result that depends on it differs between seeds. A barrier or shuffle that not
// all of its threads meet ends the program, as does any access outside of a buffer: compile with
// -fsanitize=address,undefined. Shared memory has the size that the launch says, and starts as NaN.

#pragma once
#define NAS_HOST_SHIM 1

#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <vector>

#define __device__
#define __global__
#define __restrict__
#define __launch_bounds__(...)
#define NAS_SHARED(name) unsigned char *name = shim::shared

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
};
struct float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
template <typename T> inline void __stwb(T *p, T v) { *p = v; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Half precision, rounded to nearest even by the compiler's own type; bfloat16 by hand.
struct __half {
  _Float16 bits;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};
inline float __half2float(__half v) { return static_cast<float>(v.bits); }
inline __half __float2half_rn(float v) { return {static_cast<_Float16>(v)}; }
inline float __bfloat162float(__nv_bfloat16 v) {
  const std::uint32_t bits = static_cast<std::uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (std::isnan(v)) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline unsigned __float_as_uint(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline unsigned short __half_as_ushort(__half v) {
  unsigned short bits;
  std::memcpy(&bits, &v.bits, 2);
  return bits;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }

namespace shim {

inline dim3 thread_index, block_index, block_size, grid_size;
inline unsigned char *shared = nullptr;

[[noreturn]] inline void fail(const char *what) {
  std::fprintf(stderr, "shim: %s in block (%u, %u, %u)\n", what, block_index.x, block_index.y, block_index.z);
  std::exit(3);
}

enum class State { ready, barrier, warp, shuffle, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void *fake = nullptr;
  dim3 index;
  State state;
  std::uint32_t slot;  // what it gives to a shuffle
};

constexpr std::size_t kStack = 64 * 1024;
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline void *scheduler_fake = nullptr;
inline const void *scheduler_stack = nullptr;
inline std::size_t scheduler_size = 0;
inline int current = -1;
inline std::function<void()> body;

inline void yield(State state) {
  Fiber &self = fibers[current];
  self.state = state;
  __sanitizer_start_switch_fiber(state == State::done ? nullptr : &self.fake, scheduler_stack, scheduler_size);
  swapcontext(&self.context, &scheduler);
  __sanitizer_finish_switch_fiber(self.fake, &scheduler_stack, &scheduler_size);
}

inline void entry() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
  body();
  yield(State::done);
}

inline void resume(int i) {
  Fiber &fiber = fibers[i];
  current = i;
  thread_index = fiber.index;
  __sanitizer_start_switch_fiber(&scheduler_fake, fiber.stack.get(), kStack);
  swapcontext(&scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
}

inline void run_block(std::mt19937 &random) {
  const int threads = static_cast<int>(fibers.size());
  for (int i = 0; i < threads; ++i) {
    Fiber &fiber = fibers[i];
    getcontext(&fiber.context);
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
    fiber.fake = nullptr;
    fiber.state = State::ready;
    const unsigned u = static_cast<unsigned>(i);
    fiber.index = {u % block_size.x, u / block_size.x % block_size.y, u / block_size.x / block_size.y};
  }
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  const auto count = [&](State state, int from, int to) {
    return std::count_if(fibers.begin() + from, fibers.begin() + to, [&](const Fiber &f) { return f.state == state; });
  };
  while (count(State::done, 0, threads) < threads) {
    std::shuffle(order.begin(), order.end(), random);
    for (int i : order)
      if (fibers[i].state == State::ready) resume(i);
    // Whole warps go on from a shuffle, the whole block from a barrier.
    bool moved = false;
    for (int from = 0; from < threads; from += 32) {
      const int to = std::min(from + 32, threads);
      const State kind = count(State::shuffle, from, to) ? State::shuffle : State::warp;
      const auto waiting = count(kind, from, to);
      if (waiting == 0) continue;
      if (waiting < to - from) {
        if (count(State::ready, from, to) == 0) fail("a shuffle that not all lanes of the warp meet");
        continue;
      }
      for (int i = from; i < to; ++i) fibers[i].state = State::ready;
      moved = true;
    }
    const auto waiting = count(State::barrier, 0, threads);
    if (!moved && waiting > 0) {
      if (waiting < threads) fail("a barrier that not all threads of the block meet");
      for (Fiber &fiber : fibers) fiber.state = State::ready;
    }
  }
}

template <typename F> void run(dim3 grid, dim3 block, std::size_t bytes, unsigned seed, F f) {
  grid_size = grid;
  block_size = block;
  body = f;
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > 1024) fail("a block of 0 or more than 1024 threads");
  if (bytes > 48 * 1024) fail("more than 48 KiB of shared memory");
  fibers = std::vector<Fiber>(threads);
  std::mt19937 random(seed);
  std::vector<unsigned> blocks(static_cast<std::size_t>(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (unsigned b : blocks) {
    block_index = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    void *memory = nullptr;
    if (posix_memalign(&memory, 16, bytes ? bytes : 1)) fail("no memory");
    shared = static_cast<unsigned char *>(memory);
    std::memset(shared, 0xff, bytes);
    run_block(random);
    std::free(memory);
  }
}

}  // namespace shim

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

// The index is a variable of the scheduler: it is set again after every switch.
inline void __syncthreads() {
  shim::yield(shim::State::barrier);
}
inline void __syncwarp(unsigned = 0xffffffffu) {
  shim::yield(shim::State::warp);
}
inline float __shfl_xor_sync(unsigned, float value, int distance) {
  std::memcpy(&shim::fibers[shim::current].slot, &value, 4);
  shim::yield(shim::State::shuffle);
  const int other = shim::current / 32 * 32 + ((shim::current % 32) ^ distance);
  if (other >= static_cast<int>(shim::fibers.size())) shim::fail("a shuffle with a lane that is not there");
  std::memcpy(&value, &shim::fibers[other].slot, 4);
  shim::yield(shim::State::shuffle);  // all have read before any gives another value
  return value;
}

inline void atomicAdd(float *p, float v) { *p += v; }
inline void atomicAdd(float4 *p, float4 v) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16) shim::fail("a vector sum at an address that is no multiple of 16");
  p->x += v.x;
  p->y += v.y;
  p->z += v.z;
  p->w += v.w;
}
