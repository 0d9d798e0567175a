// Runs the kernels under the shim on buffers of exactly the size they need, for AddressSanitizer.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../../csrc/activations.h"
#include "block.h"
#include "gated.h"
#include "noise.h"
#include "norm.h"
#include "pointwise.h"

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

  PointwiseForwardArgs forward{x.data(), residual.data(), y.data(), {}, {}, {}, {}, 1.5, -0.0, 0.0,
                               0.01};
  forward.bias.values = bias.data();
  forward.layout = layout_for(numel, shape.channels, shape.inner);
  forward.mask = mask;
  forward.random = random;
  launch_pointwise_forward(forward, storage, wide, activation, nullptr);

  const int64_t sums = partial_rows(forward.layout) * forward.layout.period;
  const Buffer partials(sums, storage == Storage::kFloat64 ? 8 : 4, 0);
  PointwiseBackwardArgs backward{dy.data(), x.data(), dx.data(), partials.data(), {}, {}, {},
                                 {},        1.5,      0.01};
  backward.bias = forward.bias;
  backward.layout = forward.layout;
  backward.mask = mask;
  backward.random = random;
  launch_pointwise_backward(backward, storage, wide, activation, nullptr);
  const ColumnSums totals{
      partials.data(), forward.layout, copies_in(forward.layout), 1, {dbias.data()}};
  launch_column_sums(totals, storage == Storage::kFloat64, storage, nullptr);

  const std::unique_ptr<bool[]> kept(new bool[numel]);
  launch_mask(mask, random, numel, kept.get(), nullptr);
}

MaskRule mask_for(int64_t rows, int64_t width, bool strided) {
  MaskRule mask;
  mask.kind = strided ? MaskKind::kStrided : MaskKind::kMemoryOrder;
  mask.set_keep_count(40000);
  mask.add_dimension(rows, width);
  mask.add_dimension(width, 1);
  return mask;
}

void run_gated(int64_t rows, int64_t width, Storage storage, int activation, int shift,
               bool strided) {
  const size_t size = size_of(storage);
  const int64_t numel = rows * width;
  const Buffer x(2 * numel, size, shift), y(numel, size, shift), dx(2 * numel, size, shift);
  const Buffer bias(2 * width, size, shift), dbias(2 * width, size, 0);
  const auto half = [&](const Buffer& buffer) {
    return static_cast<char*>(buffer.data()) + width * size;
  };

  GatedForwardArgs forward;
  forward.gate = x.data();
  forward.value = half(x);
  forward.y = y.data();
  forward.gate_bias.values = bias.data();
  forward.value_bias.values = half(bias);
  forward.layout = layout_for(numel, width, 1);
  forward.mask = mask_for(rows, width, strided);
  forward.scale = 1.5;
  launch_gated_forward(forward, storage, activation, nullptr);

  const size_t wide_size = storage == Storage::kFloat64 ? 8 : 4;
  const int64_t sums = partial_rows(forward.layout) * forward.layout.period;
  const Buffer partials(2 * sums, wide_size, 0);
  GatedBackwardArgs backward;
  backward.dy = y.data();
  backward.gate = x.data();
  backward.value = half(x);
  backward.dgate = dx.data();
  backward.dvalue = half(dx);
  backward.gate_partials = partials.data();
  backward.value_partials = static_cast<char*>(partials.data()) + sums * wide_size;
  backward.gate_bias = forward.gate_bias;
  backward.value_bias = forward.value_bias;
  backward.layout = forward.layout;
  backward.mask = forward.mask;
  backward.scale = 1.5;
  launch_gated_backward(backward, storage, activation, nullptr);
  const ColumnSums totals{
      partials.data(), forward.layout, copies_in(forward.layout), 2, {dbias.data(), half(dbias)}};
  launch_column_sums(totals, storage == Storage::kFloat64, storage, nullptr);
}

void run_norm(int64_t rows, int64_t width, const NormTypes& types, int activation, int shift,
              bool strided) {
  const size_t size = size_of(types.x), wide_size = types.x == Storage::kFloat64 ? 8 : 4;
  const size_t h_size = types.wide_h ? 4 : size, y_size = types.wide_y ? 4 : size;
  const int64_t numel = rows * width;
  const Buffer x(numel, size, shift), residual(numel, h_size, shift), h(numel, h_size, shift);
  const Buffer y(numel, y_size, shift), dx(numel, size, shift), dresidual(numel, h_size, shift);
  const Buffer vector(width, size, shift), row_scale(rows, size, shift);
  const Buffer mean(rows, wide_size, 0), rstd(rows, wide_size, 0);

  NormArgs both{};
  both.branch.x = x.data();
  both.branch.bias.values = both.branch.layer_scale.values = vector.data();
  both.branch.row_scale.values = row_scale.data();
  both.branch.mask = mask_for(rows, width, strided);
  both.branch.scale = 1.5;
  both.branch.activation = activation;
  both.rows = rows;
  both.width = static_cast<int>(width);
  both.centered = !strided;
  both.weight.values = vector.data();
  both.residual = residual.data();

  NormForwardArgs forward{both};
  forward.eps = 1e-5;
  forward.norm_bias.values = vector.data();
  forward.y = y.data();
  forward.h = h.data();
  forward.mean = mean.data();
  forward.rstd = rstd.data();
  launch_norm_forward(forward, types, nullptr);

  const Storage arithmetic = types.x == Storage::kFloat64 ? types.x : Storage::kFloat32;
  const int vectors = kNormVectors;
  const Buffer partials(vectors * norm_partial_rows(rows, both.width) * width, wide_size, 0);
  const Buffer sums(vectors * width, wide_size, 0);
  const int64_t bytes = norm_scratch(rows, both.width, vectors, arithmetic);
  const Buffer scratch(bytes, 1, 0);
  NormBackwardArgs backward{both};
  backward.dy = y.data();
  backward.dh = h.data();
  backward.h = strided ? h.data() : nullptr;
  backward.mean = mean.data();
  backward.rstd = rstd.data();
  backward.dx = dx.data();
  backward.dresidual = dresidual.data();
  backward.vectors = vectors;
  backward.partials = partials.data();
  backward.scratch = bytes > 0 ? scratch.data() : nullptr;
  ColumnSums totals{partials.data(),
                    layout_for(numel, width, 1),
                    norm_partial_rows(rows, both.width),
                    vectors,
                    {}};
  for (int i = 0; i < vectors; ++i) {
    backward.place_of[i] = i;
    totals.targets[i] = static_cast<char*>(sums.data()) + i * width * wide_size;
  }
  launch_norm_backward(backward, types, nullptr);
  launch_column_sums(totals, arithmetic == Storage::kFloat64, arithmetic, nullptr);
}

// `axes`: sizes, the slowest first; 0 for none.
void run_block(int64_t volumes, const std::vector<int64_t>& axes, int64_t inner, int64_t run,
               int64_t copies, Storage storage, int shift) {
  BlockArgs args;
  args.rule.volumes = volumes;
  args.rule.copies = copies;
  for (const int64_t size : axes) {
    args.rule.axes[args.rule.ndim++] = {size, size < 7 ? size : 7};
  }
  args.rule.inner = inner;
  args.rule.run = run;
  args.rule.copy_stride = args.rule.places() * run;
  args.rule.volume_stride = copies * args.rule.copy_stride;
  args.rule.keep_count = 65000;
  args.random.seed = 42;
  const Buffer x(args.rule.numel(), size_of(storage), shift);
  const Buffer y(args.rule.numel(), size_of(storage), shift);
  int64_t kept = 0;
  launch_block_count(args, &kept, nullptr);
  args.x = x.data();
  args.y = y.data();
  args.kept = &kept;
  launch_block_apply(args, storage, nullptr);
}

void run_noise(int64_t rows, int64_t width, Storage storage, int shift, bool strided) {
  const size_t size = size_of(storage), wide_size = storage == Storage::kFloat64 ? 8 : 4;
  const int64_t numel = rows * width;
  const Buffer x(numel, size, shift), z(numel, size, shift), y(numel, size, shift);
  const Buffer dy(numel, size, shift), dx(numel, size, shift), dz(numel, size, shift);
  const Buffer logit(1, wide_size, 0), dlogit(1, wide_size, 0);
  const Layout layout = flat_layout(numel);
  const Buffer partials(partial_rows(layout) * layout.period, wide_size, 0);
  const MaskRule mask = mask_for(rows, width, strided);

  launch_gaussian({x.data(), y.data(), layout, {}, mask, 1.5}, storage, nullptr);
  launch_concrete_forward({x.data(), logit.data(), y.data(), layout, {}, mask, 10.0}, storage,
                          nullptr);
  launch_concrete_backward(
      {dy.data(), x.data(), logit.data(), dx.data(), partials.data(), layout, {}, mask, 10.0},
      storage, nullptr);
  launch_column_sums(flat_sums(partials.data(), layout, dlogit.data()),
                     storage == Storage::kFloat64,
                     storage == Storage::kFloat64 ? storage : Storage::kFloat32, nullptr);
  const StandoutArgs units{x.data(), z.data(), y.data(), layout, {}, mask, 1.0, 0.5};
  launch_standout(units, storage, true, nullptr);
  launch_standout(units, storage, false, nullptr);
  launch_standout_backward({dy.data(), x.data(), z.data(), dx.data(), dz.data(), layout, 1.0, 0.5},
                           storage, nullptr);
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
  const std::vector<Shape> rows = {{1, 1, 1},    {3, 5, 1},    {2, 8, 1},
                                   {300, 40, 1}, {7, 31, 1},   {5, 257, 1},
                                   {3, 1000, 1}, {2, 4104, 1}, {1, 5001, 1}};
  for (const Shape& shape : rows) {
    for (int storage = 0; storage < 4; ++storage) {
      for (const int shift : {0, 3}) {
        for (const bool strided : {false, true}) {
          const auto type = static_cast<Storage>(storage);
          const int activation = runs % kActivationCount;
          run_gated(shape.outer, shape.channels, type, activation, shift, strided);
          const bool wide = storage >= 2 && strided;
          run_norm(shape.outer, shape.channels, {type, wide, wide && shift > 0}, activation, shift,
                   strided);
          run_noise(shape.outer, shape.channels, type, shift, strided);
          runs += 3;
        }
      }
    }
  }
  for (int storage = 0; storage < 4; ++storage) {
    for (const int shift : {0, 3}) {
      const auto type = static_cast<Storage>(storage);
      const std::vector<std::vector<int64_t>> maps = {{5},      {40},    {7, 7},
                                                      {28, 28}, {3, 70}, {4, 9, 10}};
      for (const auto& axes : maps) {
        run_block(3, axes, 1, 1, 1, type, shift);
        run_block(2, axes, 40, 1, 1, type, shift);
        run_block(2, axes, 1, 5, 1, type, shift);
        run_block(1, axes, 3, 1, 2, type, shift);
        runs += 4;
      }
    }
  }
  run_block(1, {300000}, 1, 1, 1, Storage::kBFloat16, 0);
  run_block(1, {500, 460}, 1, 1, 1, Storage::kBFloat16, 0);
  run_block(1, {12, 30, 40}, 33, 1, 1, Storage::kBFloat16, 0);
  std::printf("%d calls, nothing out of bounds\n", runs);
}
