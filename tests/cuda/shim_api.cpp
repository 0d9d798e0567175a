// What Python calls in the library of the kernels under the shim.
#include "launch.cuh"

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

static MaskRule mask_of(const Call& call) {
  MaskRule mask;
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

extern "C" {

void shim_forward(const Call* call, const void* x, const void* bias, const void* residual, void* y,
                  int64_t* written_state) {
  ForwardArgs args{x,          residual,       y, {}, {}, {}, {}, call->scale, call->shift,
                   call->fill, call->parameter};
  args.bias = {bias, call->bias_wide != 0};
  args.layout = layout_for(call->numel, call->channels, call->inner);
  args.random = random_of(*call);
  args.random.written_to = written_state;
  args.mask = mask_of(*call);
  launch_forward(args, static_cast<Storage>(call->storage), call->wide, call->activation, nullptr);
}

int64_t shim_partials(const Call* call) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  return partial_rows(layout) * layout.period;
}

// `state` is read where the seed and the offset lie, as in a captured graph.
void shim_backward(const Call* call, const void* dy, const void* x, const void* bias, void* dx,
                   void* partials, void* dbias, int32_t dbias_storage, const int64_t* state) {
  BackwardArgs args{dy, x, dx, partials, {}, {}, {}, {}, call->scale, call->parameter};
  args.bias = {bias, call->bias_wide != 0};
  args.layout = layout_for(call->numel, call->channels, call->inner);
  args.random = RandomState::at(state);
  args.mask = mask_of(*call);
  const auto storage = static_cast<Storage>(call->storage);
  launch_backward(args, storage, call->wide, call->activation, nullptr);
  if (dbias) {
    launch_bias_sum(partials, args.layout, storage == Storage::kFloat64, dbias,
                    static_cast<Storage>(dbias_storage), nullptr);
  }
}

// The grid of a tensor of any size, and the groups that one thread of it visits: how many,
// the first and the last.
struct GridOf {
  int64_t groups, columns, column_blocks, width, rows_per_block, row_blocks;
};
void shim_grid(const Call* call, bool backward, GridOf* result) {
  const Layout layout = layout_for(call->numel, call->channels, call->inner);
  const Grid grid = backward ? backward_grid(layout) : forward_grid(layout);
  *result = {grid.groups, grid.columns,        grid.column_blocks,
             grid.width,  grid.rows_per_block, row_blocks(layout, grid)};
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

void shim_mask(const Call* call, bool* kept) {
  launch_mask(mask_of(*call), random_of(*call), call->numel, kept, nullptr);
}
}
