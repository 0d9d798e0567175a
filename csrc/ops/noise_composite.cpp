#include "ops/noise_composite.h"

#include "ops/common/composite.h"

namespace fused_dropout {
namespace {

// The upper 24 bits of a word.
Tensor number_of(const Tensor& word, at::ScalarType arithmetic) {
  return at::bitwise_right_shift(word, 8).to(arithmetic);
}

// `slot` is the word of its counter that an element draws.
Tensor uniform_numbers(const WordsOfGroup& words, const Tensor& slot, at::ScalarType arithmetic) {
  return number_of(at::where(slot < 2, at::where(slot < 1, words[0], words[1]),
                             at::where(slot < 3, words[2], words[3])),
                   arithmetic);
}

Tensor normal_numbers(const WordsOfGroup& words, const Tensor& slot, at::ScalarType arithmetic) {
  const Tensor is_first_pair = slot < 2;
  Value even, odd;
  normal_pair<Full>(Value(number_of(at::where(is_first_pair, words[0], words[2]), arithmetic)),
                    Value(number_of(at::where(is_first_pair, words[1], words[3]), arithmetic)),
                    even, odd);
  return at::where(slot.bitwise_and(1) == 0, even.tensor, odd.tensor);
}

}  // namespace

Value noise_draws(NoiseDraw draw, const CallParams& call, const Tensor& rng_state, const Tensor& x,
                  at::SymIntArrayRef strides) {
  if (draw == NoiseDraw::kNone) return {};
  const Tensor index = mask_index(call, x.sym_sizes(), strides, x.device());
  if (draw == NoiseDraw::kBits) return draws_at(rng_state, index).to(at::kFloat);
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  const Tensor slot = index.bitwise_and(3);
  const WordsOfGroup words = words_of_group(rng_state, at::bitwise_right_shift(index, 2));
  return draw == NoiseDraw::kUniform ? uniform_numbers(words, slot, arithmetic)
                                     : normal_numbers(words, slot, arithmetic);
}

}  // namespace fused_dropout
