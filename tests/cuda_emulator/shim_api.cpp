// What Python calls in the library of the kernels under the shim.
#include <cstdlib>

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

// What the normalised kernels take beside a Call, whose `channels` is the width. Vectors are fp32
// where `vectors_wide`, else of x's type; gradients by them are fp32, or fp64 for fp64.
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

// What the DropBlock kernels take; the axes are the slowest first.
struct BlockCall {
  int64_t volumes, copies, volume_stride, copy_stride;
  int64_t sizes[3], blocks[3];
  int64_t inner, run;
  uint64_t seed, offset;
  double p;
  int32_t ndim, storage;
};

static DropBlockArgs block_of(const BlockCall& call) {
  DropBlockArgs args;
  args.indexing.volumes = call.volumes;
  args.indexing.copies = call.copies;
  args.indexing.volume_stride = call.volume_stride;
  args.indexing.copy_stride = call.copy_stride;
  args.indexing.ndim = call.ndim;
  for (int i = 0; i < call.ndim; ++i) args.indexing.axes[i] = {call.sizes[i], call.blocks[i]};
  args.indexing.inner = call.inner;
  args.indexing.run = call.run;
  args.indexing.keep_count =
      keep_count_of(drop_block::seed_probability(call.p, args.indexing.axes, call.ndim));
  args.random.seed = call.seed;
  args.random.offset = call.offset;
  return args;
}

template <class Args>
static void set_noise(const Call& call, const void* x, Args& args) {
  args.x = x;
  args.layout = flat_layout(call.numel);
  args.random = random_of(call);
  args.mask = mask_of(call);
}

extern "C" {

void shim_forward(const Call* call, const void* x, const void* bias, const void* residual, void* y,
                  int64_t* written_state) {
  PointwiseForwardArgs args{x,          residual,       y, {}, {}, {}, {}, call->scale, call->shift,
                            call->fill, call->parameter};
  args.bias = {bias, call->bias_wide != 0};
  args.layout = layout_for(call->numel, call->channels, call->inner);
  args.random = random_of(*call);
  args.random.written_to = written_state;
  args.mask = mask_of(*call);
  launch_pointwise_forward(args, static_cast<Storage>(call->storage), call->wide, call->activation,
                           nullptr);
}

int64_t shim_partials(const Call* call) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  return partial_rows(layout) * layout.period;
}

// `state` is read where the seed and the offset lie, as in a captured graph.
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
    const ColumnSums sums{partials, args.layout, copies_in(args.layout), 1, {dbias}};
    launch_column_sums(sums, storage == Storage::kFloat64, static_cast<Storage>(dbias_storage),
                       nullptr);
  }
}

// `x` has rows of twice `channels`; where gradients by the bias are wanted, `partials` has twice
// shim_partials and `dbias` is fp32, or fp64 for fp64.
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
                        copies_in(args.layout),
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

// `sums`: of bias, layer scale, weight and norm bias, null where they are not wanted. Returns
// whether a block had memory enough of its own. `partials`: shim_norm_partials for each.
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
    args.place_of[vector] = sums[vector] ? totals.vectors : -1;
    if (sums[vector]) totals.targets[totals.vectors++] = sums[vector];
  }
  args.vectors = totals.vectors;
  const NormTypes types = types_of(*call, *norm);
  const Storage arithmetic = types.x == Storage::kFloat64 ? types.x : Storage::kFloat32;
  const int64_t bytes = norm_scratch(args, types);
  args.scratch = bytes > 0 ? std::malloc(bytes) : nullptr;
  launch_norm_backward(args, types, nullptr);
  std::free(args.scratch);
  if (args.vectors > 0) {
    totals.copies = norm_partial_rows(args.rows, args.width);
    launch_column_sums(totals, arithmetic == Storage::kFloat64, arithmetic, nullptr);
  }
  return bytes == 0;
}

bool shim_block_has_tiles(const BlockCall* call) { return has_tiles(block_of(*call).indexing); }

void shim_block_count(const BlockCall* call, int64_t* kept) {
  launch_drop_block_count(block_of(*call), kept, nullptr);
}

void shim_block_apply(const BlockCall* call, const void* x, const int64_t* kept, void* y) {
  DropBlockArgs args = block_of(*call);
  args.x = x;
  args.kept = kept;
  args.y = y;
  launch_drop_block_apply(args, static_cast<Storage>(call->storage), nullptr);
}

void shim_set_shared(int64_t bytes) { shim::most_shared = bytes; }

// The grid of a tensor of any size, and the groups that one thread of it visits: how many,
// the first and the last.
struct GridOf {
  int64_t groups, columns, column_blocks, width, rows_per_block, row_blocks;
};
void shim_grid(const Call* call, bool backward, GridOf* result) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  const Grid grid = backward ? backward_grid(layout) : forward_grid(layout);
  *result = {grid.groups,  grid.columns,        grid.column_blocks,
             grid.width(), grid.rows_per_block, row_blocks(layout, grid)};
}
int64_t shim_walk(const Call* call, bool backward, uint32_t block, int32_t thread, int64_t* first,
                  int64_t* last) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  Walk walk(backward ? backward_grid(layout) : forward_grid(layout), block, thread);
  const int64_t groups = call->numel / kGroup + (call->numel % kGroup > 0);
  int64_t count = 0;
  for (; walk.place < walk.end; walk.place += walk.step) {
    const int64_t group = walk.base + walk.place;
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

// Of the normalised kernels, for rows of one width.
struct RowGridOf {
  int64_t groups, team, teams, rows_per_team, blocks;
};
void shim_norm_grid(int64_t rows, int32_t width, bool sums, RowGridOf* result) {
  const RowGrid grid = norm_grid(rows, width, sums);
  *result = {grid.groups, grid.team, grid.teams, grid.rows_per_team, grid.blocks};
}

void shim_mask(const Call* call, bool* kept) {
  launch_mask(mask_of(*call), random_of(*call), call->numel, kept, nullptr);
}

void shim_gaussian(const Call* call, double sigma, const void* x, void* y, int64_t* written_state) {
  GaussianArgs args;
  set_noise(*call, x, args);
  args.random.written_to = written_state;
  args.y = y;
  args.sigma = sigma;
  launch_gaussian(args, static_cast<Storage>(call->storage), nullptr);
}

// `logit` is of arithmetic type, and so is `dlogit`; `partials` has shim_partials.
void shim_concrete_forward(const Call* call, double temperature, const void* x, const void* logit,
                           void* y) {
  ConcreteForwardArgs args;
  set_noise(*call, x, args);
  args.logit = logit;
  args.y = y;
  args.inverse_temperature = 1 / temperature;
  launch_concrete_forward(args, static_cast<Storage>(call->storage), nullptr);
}

void shim_concrete_backward(const Call* call, double temperature, const void* dy, const void* x,
                            const void* logit, void* dx, void* partials, void* dlogit) {
  ConcreteBackwardArgs args;
  set_noise(*call, x, args);
  args.dy = dy;
  args.logit = logit;
  args.dx = dx;
  args.partials = partials;
  args.inverse_temperature = 1 / temperature;
  const auto storage = static_cast<Storage>(call->storage);
  launch_concrete_backward(args, storage, nullptr);
  if (!dlogit) return;
  const Storage arithmetic = storage == Storage::kFloat64 ? storage : Storage::kFloat32;
  launch_column_sums(flat_sums(partials, args.layout, dlogit), storage == Storage::kFloat64,
                     arithmetic, nullptr);
}

void shim_standout(const Call* call, double alpha, double beta, bool training, const void* x,
                   const void* z, void* y) {
  StandoutArgs args;
  set_noise(*call, x, args);
  args.z = z;
  args.y = y;
  args.alpha = alpha;
  args.beta = beta;
  launch_standout(args, static_cast<Storage>(call->storage), training, nullptr);
}

void shim_standout_backward(const Call* call, double alpha, double beta, const void* dy,
                            const void* x, const void* z, void* dx, void* dz) {
  const StandoutBackwardArgs args{dy, x, z, dx, dz, flat_layout(call->numel), alpha, beta};
  launch_standout_backward(args, static_cast<Storage>(call->storage), nullptr);
}
}
