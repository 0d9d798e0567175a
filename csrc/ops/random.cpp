#include "ops/random.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "ops/common/operator_handle.h"

namespace fused_dropout {
namespace {

constexpr auto kMask = "dropout_mask";

// Traced calls have their states on the device: only plain calls ask for one on the host.
Tensor draw_meta(const Tensor& token, const OptionalTensor&, const OptionalGenerator&, bool) {
  return at::empty({2}, token.options().dtype(at::kLong));
}

// Several states. Their offsets are not checked, as it would take longer than a small mask.
void check_states(const Tensor& states) {
  TORCH_CHECK_TYPE(states.scalar_type() == at::kLong, kMask, ": rng_state has dtype ",
                   states.scalar_type(), ", but expected int64");
  TORCH_SYM_CHECK(states.sym_size(-1).sym_eq(2), kMask, ": rng_state has shape ",
                  states.sym_sizes(), ", but expected a last dimension of size 2");
}

Tensor mask_meta(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, FD_MASK_PARAMETERS) {
  check_mask(rng_state, size, strides, p, FD_MASK_OPTIONS);
  return empty_masks(rng_state, size, strides);
}

}  // namespace

// TorchScript evaluates a call with constant arguments at compile time, which would freeze the
// mask, unless the alias analysis of the operator is conservative.
void define_draw(torch::Library& m, const std::string& schema) {
  m.def(torch::schema(schema.c_str(), c10::AliasAnalysisKind::CONSERVATIVE),
        {at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag});
}

Tensor call_draw(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator, bool on_host) {
  using Entry = Tensor(const Tensor&, const OptionalTensor&, const OptionalGenerator&, bool);
  static const auto op = find_operator<Entry>("fused_dropout::draw_rng_state");
  return op.call(token, p_tensor, generator, on_host);
}

void check_generator(const char* function, const OptionalGenerator& generator, at::Device device) {
  TORCH_CHECK(!generator || device.is_meta() || generator->device() == device, function,
              ": generator is on ", generator->device(), ", but x is on ", device);
}

Tensor EagerCall::state_for(const Tensor& x, const OptionalTensor& given) const {
  if (given) {
    return given->device() == x.device() || is_plain_call(x) ? *given : given->to(x.device());
  }
  // In other calls the operator checks the generator, or is a fake one that ignores it.
  if (generator && is_plain_call(x)) check_generator(function, generator, x.device());
  return call_draw(x, {}, generator, /*on_host=*/x.is_cuda() && is_plain_call(x));
}

Tensor call_mask(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                 double p, FD_MASK_PARAMETERS) {
  using Entry = Tensor(const Tensor&, at::SymIntArrayRef, at::SymIntArrayRef, double,
                       at::IntArrayRef, at::OptionalSymIntArrayRef, c10::SymInt);
  static const auto op = find_operator<Entry>("fused_dropout::dropout_mask");
  return op.call(rng_state, size, strides, p, FD_MASK_OPTIONS);
}

PhiloxState read_rng_state(const Tensor& rng_state) {
  const auto values = rng_state.accessor<int64_t, 1>();
  return {static_cast<uint64_t>(values[0]), static_cast<uint64_t>(values[1])};
}

CallParams check_mask(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                      double p, FD_MASK_PARAMETERS) {
  if (rng_state.dim() < 2) {
    check_rng_state(kMask, rng_state, rng_state.device());
  } else {
    check_states(rng_state);
  }
  check_dense(kMask, size, strides);
  check_mask_indices(kMask, size, mask_strides, mask_offset);
  CallParams call;
  call.p = check_probability(kMask, p);
  call.shared_dims = resolve_shared_dims(kMask, shared_dims, static_cast<int64_t>(size.size()));
  if (mask_strides) call.mask_strides = mask_strides->vec();
  call.mask_offset = std::move(mask_offset);
  return call;
}

Tensor empty_masks(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides) {
  const auto batch = rng_state.sym_sizes().slice(0, rng_state.dim() - 1);
  std::vector<c10::SymInt> sizes = batch.vec(), steps(batch.size(), 1);
  c10::SymInt step = 1;
  for (const c10::SymInt& extent : size) step *= extent;
  for (size_t dim = batch.size(); dim-- > 0;) {
    steps[dim] = step;
    step *= batch[dim];
  }
  sizes.insert(sizes.end(), size.begin(), size.end());
  steps.insert(steps.end(), strides.begin(), strides.end());
  return at::empty_strided_symint(sizes, steps, rng_state.options().dtype(at::kBool));
}

MaskParams::MaskParams(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                       double p, FD_MASK_PARAMETERS)
    : keep_count(keep_count_of(p)),
      layout(check_mask(rng_state, size, strides, p, FD_MASK_OPTIONS),
             C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(strides)) {
  states = rng_state.reshape({-1, 2});
  kept = empty_masks(rng_state, size, strides);
  numel = c10::multiply_integers(C10_AS_INTARRAYREF_SLOW(size));
}

TORCH_LIBRARY(fused_dropout, m) {
  // The mask of a state; rng_state of shape [..., 2] has the masks of all its states.
  m.def(c10::str("dropout_mask(Tensor rng_state, SymInt[] size, SymInt[] strides, float p, ",
                 kMaskOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  // The only operator that draws from a generator. `token` gives the device, and, under
  // torch.compile, a fresh one for each call keeps two calls from being merged into one.
  define_draw(m,
              "draw_rng_state(Tensor token, Tensor? p_tensor=None, *, Generator? generator=None, "
              "bool on_host=False) -> Tensor");
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("draw_rng_state", draw_meta);
  m.impl("dropout_mask", mask_meta);
}

// Their results are integers and booleans, which have no gradient.
TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("draw_rng_state", torch::CppFunction::makeFallthrough());
  m.impl("dropout_mask", torch::CppFunction::makeFallthrough());
}

}  // namespace fused_dropout
