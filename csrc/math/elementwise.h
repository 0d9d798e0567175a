// The formulas of the operators and their gradients for one element, for every value type (see
// scalar.h). Used by the kernels of all devices and by the composition of torch operators.
#pragma once

#include "math/activations.h"
#include "math/mutations.h"
#include "math/philox.h"

namespace fused_dropout {

enum class Mode : int { kInverted, kClassic, kAlpha };

// drop(v) = kept ? scale * v + shift : fill, where an element is kept with the probability
// keep_count / 65536.
struct DropConstants {
  uint32_t keep_count;
  double scale;
  double shift;
  double fill;
};

// The constants of a mode. They are computed from q = keep_count / 65536, the keep probability that
// the kernels apply, so that the expectation is exact. In evaluation everything is kept, and
// classic mode multiplies by q.
inline DropConstants drop_constants(double p, Mode mode, bool training) {
  constexpr uint32_t kAll = 65536;
  // Adding -0 changes no value; adding +0 would change the sign of -0.
  constexpr double kNoShift = -0.0;
  const uint32_t keep_count = keep_count_of(p);
  const double q = keep_count / 65536.0;
  if (!training && mode != Mode::kClassic) return {kAll, 1.0, kNoShift, 0.0};
  if (keep_count == 0) return {0, 0.0, kNoShift, 0.0};
  if (!training) return {kAll, q, kNoShift, 0.0};
  if (keep_count == kAll || mode == Mode::kClassic) return {keep_count, 1.0, kNoShift, 0.0};
  if (mode == Mode::kInverted) {
    const double scale = mutated(Mutation::kNominalScale) ? 1.0 / (1.0 - p) : 1.0 / q;
    return {keep_count, scale, kNoShift, 0.0};
  }
  // Klambauer et al., "Self-normalizing neural networks", 2017: dropped units take the negative
  // saturation value of SELU, then an affine map restores mean and variance.
  constexpr double kSaturation = -1.7580993408473766;
  const double scale = 1.0 / std::sqrt(q * (1.0 + (1.0 - q) * kSaturation * kSaturation));
  const double shift = -scale * kSaturation * (1.0 - q);
  return {keep_count, scale, shift, scale * kSaturation + shift};
}

template <class Activation, class V, class Keep>
FD_HD V forward_element(V z, Keep keep, V scale, V shift, V fill, V parameter) {
  const V kept = fmadd(scale, Activation::value(z, parameter), shift);
  return select(keep, kept, mutated(Mutation::kLeakingZero) ? kept * V(0.0) : fill);
}

// dy times a derivative of the activation. If the derivative is zero the result is zero, even for
// an infinite dy (see kHasZeroDerivative).
template <class Activation, class V>
FD_HD V times_derivative(V dy, V derivative) {
  const V product = dy * derivative;
  if constexpr (!Activation::kHasZeroDerivative) return product;
  return select(absolute(derivative) <= V(0.0), V(0.0), product);
}

// The gradient with respect to z of act(z).
template <class Activation, class V>
FD_HD V activation_grad(V dy, V z, V parameter) {
  return times_derivative<Activation>(dy, Activation::derivative(z, parameter));
}

// The gradient with respect to z = x + bias. Dropped elements are set to zero by selection, not by
// multiplication, so that a NaN or an infinity does not reach the result.
template <class Activation, class V, class Keep>
FD_HD V backward_element(V dy, V z, Keep keep, V scale, V parameter) {
  return select(keep, activation_grad<Activation>(dy * scale, z, parameter), V(0.0));
}

// drop(act(gate) * value)
template <class Activation, class V, class Keep>
FD_HD V gated_element(V gate, V value, Keep keep, V scale, V shift, V fill, V parameter) {
  const V kept = fmadd(scale, Activation::value(gate, parameter) * value, shift);
  return select(keep, kept, mutated(Mutation::kLeakingZero) ? kept * V(0.0) : fill);
}

// The gradients with respect to gate and value.
template <class Activation, class V, class Keep>
FD_HD void gated_backward_element(V dy, V gate, V value, Keep keep, V scale, V parameter, V& dgate,
                                  V& dvalue) {
  const V upstream = dy * scale;
  V activated, derivative;
  value_and_derivative<Activation>(gate, parameter, activated, derivative);
  dgate = select(keep, times_derivative<Activation>(upstream * value, derivative), V(0.0));
  dvalue = select(keep, upstream * activated, V(0.0));
}

// h = residual + branch * layer_scale * row_scale, the input of the norm. If there is no residual,
// it is -0, which changes nothing.
template <class V>
FD_HD V residual_element(V residual, V branch, V layer_scale, V row_scale) {
  return residual + branch * layer_scale * row_scale;
}

// The sums of products for the variance and for the gradients of weights.
template <class V>
FD_HD V add_product(V sum, V a, V b) {
  return fmadd(a, b, sum);
}

// Corrects the rounding error of a mean and of the variance about it. `correction` is the mean of
// the differences from the rounded mean. In a row of equal values these differences are all that
// the norm would see. Chan, Golub and LeVeque, "Algorithms for computing the sample variance",
// 1983.
template <class C, class D>
FD_HD void correct_moments(D correction, C& mean, D& variance) {
  mean = static_cast<C>(mean + correction);
  const D corrected = variance - correction * correction;
  variance = corrected > D(0) ? corrected : D(0);
}

template <class V>
FD_HD V normalised(V h, V mean, V rstd) {
  return (h - mean) * rstd;
}

template <class V>
FD_HD V norm_element(V h, V mean, V rstd, V weight, V norm_bias) {
  return fmadd(normalised(h, mean, rstd), weight, norm_bias);
}

// The gradient with respect to h. `gradient` is the one with respect to the normalised value.
// `mean_gradient` is its mean over the row (0 for RMSNorm), `mean_product` the mean of its product
// with the normalised value: they are the gradients through the mean and the variance.
template <class V>
FD_HD V norm_backward_element(V gradient, V normal, V mean_gradient, V mean_product, V rstd) {
  return rstd * fmadd(-normal, mean_product, gradient - mean_gradient);
}

}  // namespace fused_dropout
