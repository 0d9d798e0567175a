// Runs the kernels under the shim on buffers of exactly the size they need, for AddressSanitizer.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../../csrc/activations.h"
#include "launch.h"

using namespace fused_dropout;
using namespace fused_dropout::cuda;

namespace {

size_t size_of(Storage storage) {
  return storage == Storage::kFloat64 ? 8 : storage == Storage::kFloat32 ? 4 : 2;
}

// Of no byte more than asked for, and `shift` elements past an aligned address.
class Buffer {
 public:
  Buffer(int64_t count, size_t size, int shift)
      : bytes_(static_cast<char*>(std::malloc((count + shift) * size))) {
    for (size_t i = 0; i < (count + shift) * size; ++i) bytes_[i] = static_cast<char>(i % 61);
    data_ = bytes_ + shift * size;
  }
  ~Buffer() { std::free(bytes_); }
  void* data() const { return data_; }

 private:
  char* bytes_;
  char* data_;
};

struct Shape {
  int64_t outer, channels, inner;
};

void run(const Shape& shape, Storage storage, bool wide, int activation, int shift, bool strided) {
  const int64_t numel = shape.outer * shape.channels * shape.inner;
  const size_t size = size_of(storage);
  const size_t wide_size = wide ? 4 : size;
  const Buffer x(numel, size, shift), y(numel, wide_size, shift), residual(numel, wide_size, shift);
  const Buffer dy(numel, wide_size, shift), dx(numel, size, shift);
  const Buffer bias(shape.channels, size, shift), dbias(shape.channels, size, 0);

  MaskRule mask;
  mask.kind = strided ? MaskKind::kStrided : MaskKind::kMemoryOrder;
  mask.set_keep_count(40000);
  mask.add_dimension(shape.outer * shape.channels, 1);  // one decision for each channel
  mask.add_dimension(shape.inner, 0);
  RandomState random;
  random.seed = 42;

  ForwardArgs forward{x.data(), residual.data(), y.data(), {}, {}, {}, {}, 1.5, -0.0, 0.0, 0.01};
  forward.bias.values = bias.data();
  forward.layout = layout_for(numel, shape.channels, shape.inner);
  forward.mask = mask;
  forward.random = random;
  launch_forward(forward, storage, wide, activation, nullptr);

  const int64_t sums = partial_rows(forward.layout) * forward.layout.period;
  const Buffer partials(sums, storage == Storage::kFloat64 ? 8 : 4, 0);
  BackwardArgs backward{dy.data(), x.data(), dx.data(), partials.data(), {}, {}, {}, {}, 1.5, 0.01};
  backward.bias = forward.bias;
  backward.layout = forward.layout;
  backward.mask = mask;
  backward.random = random;
  launch_backward(backward, storage, wide, activation, nullptr);
  launch_bias_sum(partials.data(), forward.layout, storage == Storage::kFloat64, dbias.data(),
                  storage, nullptr);

  const std::unique_ptr<bool[]> kept(new bool[numel]);
  launch_mask(mask, random, numel, kept.get(), nullptr);
}

}  // namespace

int main() {
  const std::vector<Shape> shapes = {
      {1, 1, 1},  {3, 5, 1},  {2, 8, 1},    {7, 31, 1},  {33, 40, 1},  {3, 1001, 1}, {70, 64, 1},
      {2, 3, 49}, {3, 4, 64}, {1, 3, 1089}, {500, 3, 1}, {1, 4096, 1}, {17, 2048, 1}};
  int runs = 0;
  for (const Shape& shape : shapes) {
    for (int storage = 0; storage < 4; ++storage) {
      for (const int shift : {0, 1, 5}) {
        for (const bool strided : {false, true}) {
          const bool half = storage >= 2;
          const int activation = runs % kActivationCount;
          run(shape, static_cast<Storage>(storage), false, activation, shift, strided);
          if (half) run(shape, static_cast<Storage>(storage), true, activation, shift, strided);
          ++runs;
        }
      }
    }
  }
  std::printf("%d calls, nothing out of bounds\n", runs);
}
