// A program that calls every kind of kernel on buffers of exactly the size that they need. g++ with
// shim.h compiles it for AddressSanitizer. nvcc compiles it with the kernels of csrc/cuda, without
// torch, for compute-sanitizer.
//
//   --every N    run one of N calls
//   --seconds S  start no call after this time; the calls run in mixed order
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "cuda/drop_block.h"
#include "cuda/gated.h"
#include "cuda/noise.h"
#include "cuda/norm.h"
#include "cuda/pointwise.h"
#include "math/activations.h"
#include "sanitize_memory.h"

using namespace fused_dropout;
using namespace fused_dropout::cuda;

namespace {

struct Shape {
  int64_t outer, channels, inner;
};

void run_pointwise(const Shape& shape, Storage storage, bool wide, int activation, int shift,
                   bool strided) {
  const int64_t numel = shape.outer * shape.channels * shape.inner;
  const size_t size = size_of(storage);
  const size_t wide_size = wide ? 4 : size;
  const Input x(numel, size, shift), residual(numel, wide_size, shift), dy(numel, wide_size, shift);
  const Input bias(shape.channels, size, shift);
  const Output y(numel, wide_size, shift), dx(numel, size, shift), dbias(shape.channels, size, 0);

  MaskIndexing mask;
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
  const Output partials(sums, storage == Storage::kFloat64 ? 8 : 4, 0);
  PointwiseBackwardArgs backward{dy.data(), x.data(), dx.data(), partials.data(), {}, {}, {},
                                 {},        1.5,      0.01};
  backward.bias = forward.bias;
  backward.layout = forward.layout;
  backward.mask = mask;
  backward.random = random;
  launch_pointwise_backward(backward, storage, wide, activation, nullptr);
  const ColumnSums totals{
      partials.data(), forward.layout, partial_copies(forward.layout), 1, {dbias.data()}};
  launch_column_sums(totals, storage == Storage::kFloat64, storage, nullptr);

  const Output kept(numel, sizeof(bool), 0);
  launch_mask(mask, random, numel, static_cast<bool*>(kept.data()), nullptr);
}

MaskIndexing mask_for(int64_t rows, int64_t width, bool strided) {
  MaskIndexing mask;
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
  const Input x(2 * numel, size, shift), bias(2 * width, size, shift);
  const Output y(numel, size, shift), dx(2 * numel, size, shift), dbias(2 * width, size, 0);
  const auto half = [&](const Output& buffer) {
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
  const Output partials(2 * sums, wide_size, 0);
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
  const ColumnSums totals{partials.data(),
                          forward.layout,
                          partial_copies(forward.layout),
                          2,
                          {dbias.data(), half(dbias)}};
  launch_column_sums(totals, storage == Storage::kFloat64, storage, nullptr);
}

void run_norm(int64_t rows, int64_t width, const NormTypes& types, int activation, int shift,
              bool strided) {
  const size_t size = size_of(types.x), wide_size = types.x == Storage::kFloat64 ? 8 : 4;
  const size_t h_size = types.wide_h ? 4 : size, y_size = types.wide_y ? 4 : size;
  const int64_t numel = rows * width;
  const Input x(numel, size, shift), residual(numel, h_size, shift);
  const Input vector(width, size, shift), row_scale(rows, size, shift);
  const Output h(numel, h_size, shift), y(numel, y_size, shift), dx(numel, size, shift);
  const Output dresidual(numel, h_size, shift), mean(rows, wide_size, 0), rstd(rows, wide_size, 0);

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
  const Output partials(vectors * norm_partial_rows(rows, both.width) * width, wide_size, 0);
  const Output sums(vectors * width, wide_size, 0);
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
  const int64_t bytes = norm_scratch_bytes(backward, types);
  const Output scratch(bytes, 1, 0);
  backward.scratch = bytes > 0 ? scratch.data() : nullptr;
  ColumnSums totals{partials.data(),
                    layout_for(numel, width, 1),
                    norm_partial_rows(rows, both.width),
                    vectors,
                    {}};
  for (int i = 0; i < vectors; ++i) {
    backward.index_of[i] = i;
    totals.targets[i] = static_cast<char*>(sums.data()) + i * width * wide_size;
  }
  launch_norm_backward(backward, types, nullptr);
  launch_column_sums(totals, arithmetic == Storage::kFloat64, arithmetic, nullptr);
}

// `axes` are the sizes of the spatial axes, the slowest first.
void run_drop_block(int64_t volumes, const std::vector<int64_t>& axes, int64_t inner, int64_t run,
                    int64_t copies, Storage storage, int shift) {
  DropBlockArgs args;
  args.geometry.volumes = volumes;
  args.geometry.copies = copies;
  for (const int64_t size : axes) {
    args.geometry.axes[args.geometry.ndim++] = {size, size < 7 ? size : 7};
  }
  args.geometry.inner = inner;
  args.geometry.run = run;
  args.geometry.copy_stride = args.geometry.decisions() * run;
  args.geometry.volume_stride = copies * args.geometry.copy_stride;
  args.geometry.keep_count = 65000;
  args.random.seed = 42;
  const Input x(args.geometry.numel(), size_of(storage), shift);
  const Output y(args.geometry.numel(), size_of(storage), shift);
  const Counter kept(0);
  launch_drop_block_count(args, kept.number(), nullptr);
  args.x = x.data();
  args.y = y.data();
  args.kept = kept.number();
  launch_drop_block_apply(args, storage, nullptr);
}

template <class Functor>
void run_functor(int64_t rows, int64_t width, Storage storage, int shift, bool strided) {
  const size_t size = size_of(storage), wide_size = storage == Storage::kFloat64 ? 8 : 4;
  const int64_t numel = rows * width;
  const Input x(numel, size, shift), y(numel, size, shift), z(numel, size, shift);
  const Output dx(numel, size, shift), dz(numel, size, shift);
  const Input scalar(1, wide_size, 0);
  const Output sum(1, wide_size, 0);
  const Layout layout = flat_layout(numel);
  const Output partials(partial_rows(layout) * layout.period, wide_size, 0);

  static_assert(kMaxNoiseInputs == 3 && kMaxNoiseOutputs == 2);
  const Input* inputs[] = {&x, &y, &z};
  const Output* outputs[] = {&dx, &dz};
  NoiseArgs args;
  for (int i = 0; i < Functor::kInputs; ++i) args.inputs[i] = inputs[i]->data();
  for (int i = 0; i < Functor::kOutputs; ++i) args.outputs[i] = outputs[i]->data();
  for (Number& constant : args.constants) constant = 1.5;
  args.scalar = scalar.data();
  args.layout = layout;
  args.mask = mask_for(rows, width, strided);
  if (Functor::kSum) args.partials = partials.data();
  launch_noise(kNoiseIndex<Functor>, args, storage, nullptr);
  if (Functor::kSum) {
    launch_column_sums(flat_sums(partials.data(), layout, sum.data()), storage == Storage::kFloat64,
                       storage == Storage::kFloat64 ? storage : Storage::kFloat32, nullptr);
  }
}

template <class... Functors>
void run_noise(NoiseList<Functors...>, int64_t rows, int64_t width, Storage storage, int shift,
               bool strided) {
  (run_functor<Functors>(rows, width, storage, shift, strided), ...);
}

using Call = std::function<void()>;

void add_pointwise(std::vector<Call>& calls) {
  const std::vector<Shape> shapes = {
      {1, 1, 1},  {3, 5, 1},  {2, 8, 1},    {7, 31, 1},  {33, 40, 1},  {3, 1001, 1}, {70, 64, 1},
      {2, 3, 49}, {3, 4, 64}, {1, 3, 1089}, {500, 3, 1}, {1, 4096, 1}, {17, 2048, 1}};
  int count = 0;
  for (const Shape& shape : shapes) {
    for (int storage = 0; storage < 4; ++storage) {
      for (const int shift : {0, 1, 5}) {
        for (const bool strided : {false, true}) {
          const auto type = static_cast<Storage>(storage);
          const int activation = count++ % kActivationCount;
          for (const bool wide : {false, true}) {
            if (wide && storage < 2) continue;  // only 16-bit types have a wide variant
            calls.push_back([=] { run_pointwise(shape, type, wide, activation, shift, strided); });
          }
        }
      }
    }
  }
}

void add_rows(std::vector<Call>& calls) {
  const std::vector<std::pair<int64_t, int64_t>> shapes = {
      {1, 1}, {3, 5}, {2, 8}, {300, 40}, {7, 31}, {5, 257}, {3, 1000}, {2, 4104}, {1, 5001}};
  int count = 0;
  for (const auto& [outer, channels] : shapes) {
    const int64_t rows = outer, width = channels;
    for (int storage = 0; storage < 4; ++storage) {
      for (const int shift : {0, 3}) {
        for (const bool strided : {false, true}) {
          const auto type = static_cast<Storage>(storage);
          const int activation = count++ % kActivationCount;
          const bool wide = storage >= 2 && strided;
          const NormTypes types{type, wide, wide && shift > 0};
          calls.push_back([=] { run_gated(rows, width, type, activation, shift, strided); });
          calls.push_back([=] { run_norm(rows, width, types, activation, shift, strided); });
          calls.push_back([=] { run_noise(NoiseFunctors(), rows, width, type, shift, strided); });
        }
      }
    }
  }
}

void add_drop_block(std::vector<Call>& calls) {
  using Axes = std::vector<int64_t>;
  for (int storage = 0; storage < 4; ++storage) {
    for (const int shift : {0, 3}) {
      const auto type = static_cast<Storage>(storage);
      for (const Axes& axes : {Axes{5}, {40}, {7, 7}, {28, 28}, {3, 70}, {4, 9, 10}}) {
        calls.push_back([=] { run_drop_block(3, axes, 1, 1, 1, type, shift); });
        calls.push_back([=] { run_drop_block(2, axes, 40, 1, 1, type, shift); });
        calls.push_back([=] { run_drop_block(2, axes, 1, 5, 1, type, shift); });
        calls.push_back([=] { run_drop_block(1, axes, 3, 1, 2, type, shift); });
      }
    }
  }
  calls.push_back([] { run_drop_block(1, {300000}, 1, 1, 1, Storage::kBFloat16, 0); });
  calls.push_back([] { run_drop_block(1, {500, 460}, 1, 1, 1, Storage::kBFloat16, 0); });
  calls.push_back([] { run_drop_block(1, {12, 30, 40}, 33, 1, 1, Storage::kBFloat16, 0); });
}

struct Options {
  long every = 1;
  double seconds = 1e9;
};

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; i += 2) {
    const double value = i + 1 < count ? std::atof(arguments[i + 1]) : 0;
    if (value >= 1 && std::strcmp(arguments[i], "--every") == 0) {
      options.every = static_cast<long>(value);
    } else if (value > 0 && std::strcmp(arguments[i], "--seconds") == 0) {
      options.seconds = value;
    } else {
      std::fprintf(stderr, "usage: %s [--every N] [--seconds S]\n", arguments[0]);
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  const Options options = parse(count, arguments);
  std::vector<Call> calls;
  add_pointwise(calls);
  add_rows(calls);
  add_drop_block(calls);
  // A large stride mixes the order, so that even few calls cover every kind of kernel.
  const size_t all = calls.size();
  const size_t step = std::gcd(all, size_t{7919}) == 1 ? 7919 : 1;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  int runs = 0;
  for (size_t i = 0; i < all && elapsed() < options.seconds; i += options.every) {
    calls[i * step % all]();
    memory::synchronize();
    ++runs;
  }
  std::printf("%d of %zu calls\n", runs, all);
}
