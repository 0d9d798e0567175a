// The functions that shim.py calls: launches of the kernels that g++ compiles with shim.h.
#include <cstdlib>
#include <cstring>

#include "cuda/device/column_loop.cuh"
#include "cuda/device/row_group.cuh"
#include "cuda/drop_block.h"
#include "cuda/gated.h"
#include "cuda/noise.h"
#include "cuda/norm.h"
#include "cuda/pointwise.h"

using namespace fused_dropout;
using namespace fused_dropout::cuda;

struct Call {
  int64_t numel, channels, inner;
  uint64_t seed, offset;
  int32_t mask_kind, keep_count;
  int64_t first;
  const int64_t* sizes;
  const int64_t* strides;
  double scale, shift, fill, parameter;
  int32_t ndim, storage, wide, bias_wide, activation;
};

static MaskIndexing mask_of(const Call& call) {
  MaskIndexing mask;
  mask.kind = static_cast<MaskKind>(call.mask_kind);
  mask.set_keep_count(static_cast<uint32_t>(call.keep_count));
  mask.first = call.first;
  for (int dim = 0; dim < call.ndim; ++dim) {
    mask.add_dimension(call.sizes[dim], call.strides[dim]);
  }
  return mask;
}

static RandomState random_of(const Call& call) {
  RandomState random;
  random.seed = call.seed;
  random.offset = call.offset;
  return random;
}

static void* advanced(const void* data, int64_t elements, Storage storage) {
  return data ? const_cast<char*>(static_cast<const char*>(data)) + elements * size_of(storage)
              : nullptr;
}

struct Halves {
  int64_t gate, value;
  Halves(const Call& call, bool gate_first)
      : gate(gate_first ? 0 : call.channels), value(call.channels - gate) {}
  void* gate_of(const void* data, Storage storage) const { return advanced(data, gate, storage); }
  void* value_of(const void* data, Storage storage) const { return advanced(data, value, storage); }
};

template <class Args>
static void set_gated(const Call& call, bool gate_first, const void* x, const void* bias,
                      Args& args) {
  const Halves halves(call, gate_first);
  const auto storage = static_cast<Storage>(call.storage);
  const Storage bias_storage = call.bias_wide ? Storage::kFloat32 : storage;
  args.gate = halves.gate_of(x, storage);
  args.value = halves.value_of(x, storage);
  args.gate_bias = {halves.gate_of(bias, bias_storage), call.bias_wide != 0};
  args.value_bias = {halves.value_of(bias, bias_storage), call.bias_wide != 0};
  args.layout = layout_for(call.numel, call.channels, 1);
  args.mask = mask_of(call);
  args.scale = call.scale;
  args.parameter = call.parameter;
}

// The operands of the norm kernels. `channels` of the Call is the width. The vectors are fp32 with
// `vectors_wide`, otherwise they have the type of x. Their gradients are fp32, or fp64 for fp64.
struct NormCall {
  const void *x, *residual, *bias, *layer_scale, *row_scale, *weight, *norm_bias;
  double eps;
  int32_t centered, wide_h, wide_y, vectors_wide;
};

static NormTypes types_of(const Call& call, const NormCall& norm) {
  return {static_cast<Storage>(call.storage), norm.wide_h != 0, norm.wide_y != 0};
}

static void set_norm(const Call& call, const NormCall& norm, NormArgs& args) {
  const bool wide = norm.vectors_wide != 0;
  args.branch = {norm.x,
                 {norm.bias, wide},
                 {norm.layer_scale, wide},
                 {norm.row_scale, wide},
                 random_of(call),
                 mask_of(call),
                 call.scale,
                 call.shift,
                 call.fill,
                 call.parameter,
                 call.activation};
  args.rows = call.numel / call.channels;
  args.width = static_cast<int>(call.channels);
  args.centered = norm.centered != 0;
  args.weight = {norm.weight, wide};
  args.residual = norm.residual;
}

// The arguments of the DropBlock kernels. The slowest axis comes first.
struct DropBlockCall {
  int64_t volumes, copies, volume_stride, copy_stride;
  int64_t sizes[3], blocks[3];
  int64_t inner, run;
  uint64_t seed, offset;
  double p;
  int32_t ndim, storage;
};

static DropBlockArgs drop_block_args(const DropBlockCall& call) {
  DropBlockArgs args;
  args.geometry.volumes = call.volumes;
  args.geometry.copies = call.copies;
  args.geometry.volume_stride = call.volume_stride;
  args.geometry.copy_stride = call.copy_stride;
  args.geometry.ndim = call.ndim;
  for (int i = 0; i < call.ndim; ++i) args.geometry.axes[i] = {call.sizes[i], call.blocks[i]};
  args.geometry.inner = call.inner;
  args.geometry.run = call.run;
  args.geometry.keep_count =
      keep_count_of(drop_block::seed_probability(call.p, args.geometry.axes, call.ndim));
  args.random.seed = call.seed;
  args.random.offset = call.offset;
  return args;
}

// What the noise kernels take beside a Call. Tensors that a functor does not have, or that are not
// wanted, are null. `scalar` and `sum` are of arithmetic type; `partials` has shim_partials
// numbers.
struct NoiseCall {
  const void* inputs[kMaxNoiseInputs];
  void* outputs[kMaxNoiseOutputs];
  double constants[kMaxNoiseConstants];
  const void* scalar;
  void *partials, *sum;
};

template <class... Functors>
static int noise_index(NoiseList<Functors...>, const char* name) {
  const char* names[] = {Functors::kName...};
  for (int i = 0; i < NoiseFunctors::kCount; ++i) {
    if (std::strcmp(names[i], name) == 0) return i;
  }
  std::abort();
}

extern "C" {

void shim_state(const int64_t* drawn, uint64_t added_offset, int64_t* rng_state) {
  RandomState random = RandomState::at(drawn, 1);
  random.added_offset = added_offset;
  launch_state(random, rng_state, nullptr);
}

void shim_forward(const Call* call, const void* x, const void* bias, const void* residual,
                  void* y) {
  PointwiseForwardArgs args{x,          residual,       y, {}, {}, {}, {}, call->scale, call->shift,
                            call->fill, call->parameter};
  args.bias = {bias, call->bias_wide != 0};
  args.layout = layout_for(call->numel, call->channels, call->inner);
  args.random = random_of(*call);
  args.mask = mask_of(*call);
  launch_pointwise_forward(args, static_cast<Storage>(call->storage), call->wide, call->activation,
                           nullptr);
}

int64_t shim_partials(const Call* call) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  return partial_rows(layout) * layout.period;
}

// The kernel reads seed and offset from `state`, as in a captured graph.
void shim_backward(const Call* call, const void* dy, const void* x, const void* bias, void* dx,
                   void* partials, void* dbias, int32_t dbias_storage, const int64_t* state) {
  PointwiseBackwardArgs args{dy, x, dx, partials, {}, {}, {}, {}, call->scale, call->parameter};
  args.bias = {bias, call->bias_wide != 0};
  args.layout = layout_for(call->numel, call->channels, call->inner);
  args.random = RandomState::at(state, /*stride=*/1);
  args.mask = mask_of(*call);
  const auto storage = static_cast<Storage>(call->storage);
  launch_pointwise_backward(args, storage, call->wide, call->activation, nullptr);
  if (dbias) {
    const ColumnSums sums{partials, args.layout, partial_copies(args.layout), 1, {dbias}};
    launch_column_sums(sums, storage == Storage::kFloat64, static_cast<Storage>(dbias_storage),
                       nullptr);
  }
}

// Rows of `x` have twice `channels` elements. If the bias gradient is wanted, `partials` has twice
// shim_partials numbers, and `dbias` is fp32, or fp64 for fp64.
void shim_gated_forward(const Call* call, bool gate_first, const void* x, const void* bias,
                        void* y) {
  GatedForwardArgs args;
  set_gated(*call, gate_first, x, bias, args);
  args.y = y;
  args.random = random_of(*call);
  args.shift = call->shift;
  args.fill = call->fill;
  launch_gated_forward(args, static_cast<Storage>(call->storage), call->activation, nullptr);
}

void shim_gated_backward(const Call* call, bool gate_first, const void* dy, const void* x,
                         const void* bias, void* dx, void* partials, void* dbias) {
  GatedBackwardArgs args;
  set_gated(*call, gate_first, x, bias, args);
  const auto storage = static_cast<Storage>(call->storage);
  const Storage arithmetic = storage == Storage::kFloat64 ? storage : Storage::kFloat32;
  const Halves halves(*call, gate_first);
  args.dy = dy;
  args.dgate = halves.gate_of(dx, storage);
  args.dvalue = halves.value_of(dx, storage);
  args.random = random_of(*call);
  const int64_t rows = partial_rows(args.layout);
  args.gate_partials = partials;
  args.value_partials = advanced(partials, rows * args.layout.period, arithmetic);
  launch_gated_backward(args, storage, call->activation, nullptr);
  if (!dbias) return;
  const ColumnSums sums{partials,
                        args.layout,
                        partial_copies(args.layout),
                        2,
                        {halves.gate_of(dbias, arithmetic), halves.value_of(dbias, arithmetic)}};
  launch_column_sums(sums, arithmetic == Storage::kFloat64, arithmetic, nullptr);
}

void shim_norm_forward(const Call* call, const NormCall* norm, void* y, void* h, void* mean,
                       void* rstd) {
  NormForwardArgs args;
  set_norm(*call, *norm, args);
  args.eps = norm->eps;
  args.norm_bias = {norm->norm_bias, norm->vectors_wide != 0};
  args.y = y;
  args.h = h;
  args.mean = mean;
  args.rstd = rstd;
  launch_norm_forward(args, types_of(*call, *norm), nullptr);
}

int64_t shim_norm_partials(const Call* call) {
  const auto width = static_cast<int>(call->channels);
  return norm_partial_rows(call->numel / width, width) * width;
}

// `sums` are the gradients of bias, layer scale, weight and norm bias; null if not wanted.
// `partials` has shim_norm_partials numbers for each of them. Returns true if the column sums of a
// thread block fit into shared memory.
bool shim_norm_backward(const Call* call, const NormCall* norm, const void* dy, const void* dh,
                        const void* h, const void* mean, const void* rstd, void* dx,
                        void* dresidual, void* const* sums, void* partials) {
  NormBackwardArgs args;
  set_norm(*call, *norm, args);
  args.dy = dy;
  args.dh = dh;
  args.h = h;
  args.mean = mean;
  args.rstd = rstd;
  args.dx = dx;
  args.dresidual = dresidual;
  args.partials = partials;
  ColumnSums totals{partials, layout_for(call->numel, call->channels, 1), 0, 0, {}};
  for (int vector = 0; vector < kNormVectors; ++vector) {
    args.index_of[vector] = sums[vector] ? totals.vectors : -1;
    if (sums[vector]) totals.targets[totals.vectors++] = sums[vector];
  }
  args.vectors = totals.vectors;
  const NormTypes types = types_of(*call, *norm);
  const Storage arithmetic = types.x == Storage::kFloat64 ? types.x : Storage::kFloat32;
  const int64_t bytes = norm_scratch_bytes(args, types);
  args.scratch = bytes > 0 ? std::malloc(bytes) : nullptr;
  launch_norm_backward(args, types, nullptr);
  std::free(args.scratch);
  if (args.vectors > 0) {
    totals.copies = norm_partial_rows(args.rows, args.width);
    launch_column_sums(totals, arithmetic == Storage::kFloat64, arithmetic, nullptr);
  }
  return bytes == 0;
}

bool shim_drop_block_can_tile(const DropBlockCall* call) {
  return can_tile(drop_block_args(*call).geometry);
}

void shim_drop_block_count(const DropBlockCall* call, int64_t* kept) {
  launch_drop_block_count(drop_block_args(*call), kept, nullptr);
}

void shim_drop_block_apply(const DropBlockCall* call, const void* x, const int64_t* kept, void* y) {
  DropBlockArgs args = drop_block_args(*call);
  args.x = x;
  args.kept = kept;
  args.y = y;
  launch_drop_block_apply(args, static_cast<Storage>(call->storage), nullptr);
}

void shim_set_shared(int64_t bytes) { shim::max_shared_bytes = bytes; }

// The grid for a tensor of any size.
struct ColumnGridFields {
  int64_t full_groups, columns, column_blocks, width, rows_per_block, row_blocks;
};
void shim_grid(const Call* call, bool backward, ColumnGridFields* result) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  const ColumnGrid grid = backward ? backward_grid(layout) : forward_grid(layout);
  *result = {grid.full_groups, grid.columns,        grid.column_blocks,
             grid.width(),     grid.rows_per_block, row_blocks(layout, grid)};
}
// The groups that one thread visits. Returns their number and sets the first and the last of them.
int64_t shim_column_loop(const Call* call, bool backward, uint32_t block, int32_t thread,
                         int64_t* first, int64_t* last) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  ColumnLoop loop(backward ? backward_grid(layout) : forward_grid(layout), block, thread);
  const int64_t groups = call->numel / kGroup + (call->numel % kGroup > 0);
  int64_t count = 0;
  for (; loop.offset < loop.end; loop.offset += loop.step) {
    const int64_t group = loop.base + loop.offset;
    if (group >= groups) continue;
    if (count++ == 0) *first = group;
    *last = group;
  }
  return count;
}

int64_t shim_divide(int64_t numerator, int64_t divisor) {
  return Divisor(divisor).divide(numerator);
}
int64_t shim_divide_short(uint32_t numerator, uint32_t divisor) {
  return ShortDivisor(divisor).divide(numerator);
}

// The grid of the norm kernels.
struct RowGridFields {
  int64_t groups_per_thread, row_group_size, row_groups, rows_per_row_group, blocks;
};
void shim_norm_grid(int64_t rows, int32_t width, bool sums, RowGridFields* result) {
  const RowGrid grid = norm_grid(rows, width, sums);
  *result = {grid.groups_per_thread, grid.row_group_size, grid.row_groups, grid.rows_per_row_group,
             grid.blocks};
}

void shim_mask(const Call* call, bool* kept) {
  launch_mask(mask_of(*call), random_of(*call), call->numel, kept, nullptr);
}

// `functor`: its kName.
void shim_noise(const Call* call, const char* functor, const NoiseCall* noise) {
  NoiseArgs args;
  for (int i = 0; i < kMaxNoiseInputs; ++i) args.inputs[i] = noise->inputs[i];
  for (int i = 0; i < kMaxNoiseOutputs; ++i) args.outputs[i] = noise->outputs[i];
  for (int i = 0; i < kMaxNoiseConstants; ++i) args.constants[i] = noise->constants[i];
  args.scalar = noise->scalar;
  args.partials = noise->partials;
  args.layout = flat_layout(call->numel);
  args.random = random_of(*call);
  args.mask = mask_of(*call);
  const auto storage = static_cast<Storage>(call->storage);
  launch_noise(noise_index(NoiseFunctors(), functor), args, storage, nullptr);
  if (!noise->sum) return;
  const Storage arithmetic = storage == Storage::kFloat64 ? storage : Storage::kFloat32;
  launch_column_sums(flat_sums(args.partials, args.layout, noise->sum),
                     storage == Storage::kFloat64, arithmetic, nullptr);
}
}
