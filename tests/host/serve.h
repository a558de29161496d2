// Runs one kernel on buffers from a file, and writes them back: see host.py for the format.

#pragma once

namespace shim {

class File {
 public:
  File(const char *path, const char *mode) : file_(std::fopen(path, mode)) {
    if (!file_) fail("a file that cannot be opened");
  }
  ~File() { std::fclose(file_); }
  void read(void *to, std::size_t bytes) {
    if (bytes && std::fread(to, 1, bytes, file_) != bytes) fail("a file that ends early");
  }
  void write(const void *from, std::size_t bytes) {
    if (bytes && std::fwrite(from, 1, bytes, file_) != bytes) fail("a file that cannot be written");
  }
  template <typename T> T get() {
    T value;
    read(&value, sizeof(T));
    return value;
  }

 private:
  std::FILE *file_;
};

// A buffer of exactly its size, so that every access beside it is seen; as misaligned as the tensor was.
struct Buffer {
  std::unique_ptr<unsigned char[]> memory;
  std::uint64_t offset = 0, bytes = 0;
};

template <typename A> struct Value {
  A value;
  void read(File &in) {
    if (in.get<char>() != 'n' || in.get<std::uint64_t>() != sizeof(A)) fail("a number of another size");
    value = in.get<A>();
  }
  void write(File &) {}
  A get() { return value; }
};
template <typename T> struct Value<T *> {
  Buffer buffer;
  void read(File &in) {
    if (in.get<char>() != 't') fail("a number in place of a tensor");
    buffer.offset = in.get<std::uint64_t>();
    buffer.bytes = in.get<std::uint64_t>();
    buffer.memory.reset(new unsigned char[buffer.offset + buffer.bytes]);
    in.read(buffer.memory.get() + buffer.offset, buffer.bytes);
  }
  void write(File &out) { out.write(buffer.memory.get() + buffer.offset, buffer.bytes); }
  T *get() { return reinterpret_cast<T *>(buffer.memory.get() + buffer.offset); }
};

template <typename... A> int serve(void (*kernel)(A...), const char *path) {
  std::tuple<Value<A>...> values;
  std::uint32_t launch[8];
  {
    File in(path, "rb");
    in.read(launch, sizeof(launch));
    if (in.get<std::uint32_t>() != sizeof...(A)) fail("another number of arguments");
    std::apply([&](auto &...v) { (v.read(in), ...); }, values);
  }
  run({launch[0], launch[1], launch[2]}, {launch[3], launch[4], launch[5]}, launch[6], launch[7],
      [&] { std::apply([&](auto &...v) { kernel(v.get()...); }, values); });
  File out(path, "wb");
  std::apply([&](auto &...v) { (v.write(out), ...); }, values);
  return 0;
}

}  // namespace shim
