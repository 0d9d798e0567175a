#include "ops/noise_composite.h"

#include "ops/common/composite_draws.h"

namespace fused_dropout {
namespace {

// The upper 24 bits of a word.
Tensor number_of(const Tensor& word, at::ScalarType arithmetic) {
  return at::bitwise_right_shift(word, 8).bitwise_and(0xFFFFFF).to(arithmetic);
}

std::vector<Tensor> uniform_numbers(const WordsOfGroup& words, at::ScalarType arithmetic) {
  std::vector<Tensor> numbers;
  for (const Tensor& word : words) numbers.push_back(number_of(word, arithmetic));
  return numbers;
}

std::vector<Tensor> normal_numbers(const WordsOfGroup& words, at::ScalarType arithmetic) {
  std::vector<Tensor> numbers;
  for (size_t first = 0; first < words.size(); first += 2) {
    Value even, odd;
    normal_pair<Full>(Value(number_of(words[first], arithmetic)),
                      Value(number_of(words[first + 1], arithmetic)), even, odd);
    numbers.insert(numbers.end(), {even.tensor, odd.tensor});
  }
  return numbers;
}

}  // namespace

Value noise_draws(NoiseDraw draw, const CallParams& call, const Tensor& rng_state, const Tensor& x,
                  at::SymIntArrayRef strides) {
  if (draw == NoiseDraw::kNone) return {};
  const MaskIndices indices = mask_indices(call, x.sym_sizes(), strides);
  if (draw == NoiseDraw::kBits) return draws_at(rng_state, indices, x.device(), at::kFloat);
  constexpr int64_t kSlots = std::tuple_size_v<WordsOfGroup>;
  return values_at(rng_state, indices, x.device(), kSlots, [&](const WordsOfGroup& words) {
    const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
    return draw == NoiseDraw::kUniform ? uniform_numbers(words, arithmetic)
                                       : normal_numbers(words, arithmetic);
  });
}

}  // namespace fused_dropout
