// The formulas of the noise operators: Gaussian dropout, Concrete dropout and Standout. Each
// functor computes one element, for every value type of scalar.h, and stands for one kernel on
// every device: the kernels and their tables are generated from the list at the end of this file. A
// new functor needs no change in cpu/kernels and cuda/kernels.
#pragma once

#include <type_traits>

#include "math/distributions.h"
#include "math/noise_functor.h"

namespace fused_dropout {

namespace noise {

// ---- Gaussian dropout -------------------------------------------------------------------------

// Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014,
// section 10: sigma^2 = p / (1 - p). Linear in x: the gradient by x is the same kernel on dy.
struct Gaussian : NoiseFunctor<1, 1, NoiseDraw::kNormal> {
  static constexpr auto kName = "Gaussian";

  template <class T>
  struct Constants {
    T sigma;
  };

  template <class Precision, class T>
  static FD_HD void element(const T (&x)[1], T normal, const Constants<T>& constants, T (&y)[1]) {
    y[0] = x[0] * fmadd(constants.sigma, normal, T(1.0f));
  }
};

// ---- Concrete dropout -------------------------------------------------------------------------

// sigmoid(s) and sigmoid(-s), neither of them a difference.
template <class Precision, class T>
FD_HD void sigmoid_pair(T s, T& value, T& complement) {
  const T e = exponential<Precision>(-absolute(s));
  const T larger = quotient<Precision>(T(1.0f), T(1.0f) + e);
  value = select(s > T(0.0f), larger, e * larger);
  complement = select(s > T(0.0f), e * larger, larger);
}

// Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017, equation 5.
template <class T>
struct ConcreteConstants {
  T logit, inverse_temperature;
  T scale;  // 1 / (1 - p) = 1 + e^logit
  T p;
};

// The largest logit that `scale` is computed from. With a larger one the scale would be infinite in
// arithmetic precision, and the kept share that it multiplies is about zero already.
FD_HD double max_scale_logit(bool is_double) { return is_double ? 709.0 : 88.0; }

template <class C>
FD_HD ConcreteConstants<C> concrete_constants(C logit, C inverse_temperature) {
  const C most = C(max_scale_logit(std::is_same_v<C, double>));
  const C scale = C(1.0) + exponential<Full>(minimum(logit, most));
  C p, complement;
  sigmoid_pair<Full>(logit, p, complement);
  return {logit, inverse_temperature, scale, p};
}

// The share d of an element that is dropped, and the factor (1 - d) / (1 - p) of its value.
template <class Precision, class T>
FD_HD void concrete_gates(T k, const ConcreteConstants<T>& constants, T& dropped, T& factor) {
  T kept;
  sigmoid_pair<Precision>(
      (constants.logit + logit_uniform<Precision>(k)) * constants.inverse_temperature, dropped,
      kept);
  factor = kept * constants.scale;
}

// CUDA: the logit is a parameter of the model, so that it is in device memory.
template <int kInputCount, bool kHasSum>
struct ConcreteFunctor : NoiseFunctor<kInputCount, 1, NoiseDraw::kUniform, kHasSum> {
  template <class T>
  using Constants = ConcreteConstants<T>;

  template <class C>
  static FD_HD ConcreteConstants<C> with_scalar(const ConcreteConstants<C>& constants,
                                                const C* logit) {
    return concrete_constants(*logit, constants.inverse_temperature);
  }
};

struct ConcreteForward : ConcreteFunctor<1, /*sum=*/false> {
  static constexpr auto kName = "ConcreteForward";

  template <class Precision, class T>
  static FD_HD void element(const T (&x)[1], T k, const ConcreteConstants<T>& constants,
                            T (&y)[1]) {
    T dropped, factor;
    concrete_gates<Precision>(k, constants, dropped, factor);
    y[0] = x[0] * factor;
  }
};

// From dy and x to dx and the element's term of the gradient by the logit.
struct ConcreteBackward : ConcreteFunctor<2, /*sum=*/true> {
  static constexpr auto kName = "ConcreteBackward";

  template <class Precision, class T>
  static FD_HD void element(const T (&inputs)[2], T k, const ConcreteConstants<T>& constants,
                            T (&gradients)[2]) {
    T dropped, factor;
    concrete_gates<Precision>(k, constants, dropped, factor);
    gradients[0] = inputs[0] * factor;
    gradients[1] =
        gradients[0] * inputs[1] * (constants.p - dropped * constants.inverse_temperature);
  }
};

// ---- Standout ---------------------------------------------------------------------------------

// rint(65536 sigmoid(alpha z + beta)). The absolute error of 65536 sigmoid is below 0.01. Computed
// in fp32 for every dtype, with every operation rounded by itself, so that the decisions are the
// same on every device, for every instruction set and in the composition of tensors. NaN gives NaN.
template <class T>
FD_HD T keep_threshold(T z, T alpha, T beta) {
  const T a = rounded_product(alpha, z) + beta;
  const T t = minimum(absolute(a), T(13.0f));  // the threshold is 0 or 65536 from 11.8 on
  const T n = round_even(rounded_product(t, T(-kLog2OfE)));
  // Products of n with 15 bits are exact.
  const T r = ((-t) - n * T(kLn2High)) - rounded_product(n, T(kLn2Low));
  T e = T(0.008312504f);
  e = rounded_product(e, r) + T(0.04189033f);
  e = rounded_product(e, r) + T(0.16667116f);
  e = rounded_product(e, r) + T(0.4999923f);
  e = rounded_product(e, r) + T(1.0f);
  e = rounded_product(e, r) + T(1.0f);
  e = scale_by_pow2(e, n);  // e^-t
  const T larger = rounded_reciprocal(e + T(1.0f));
  const T q = select(a < T(0.0f), rounded_product(e, larger), larger);
  return round_even(q * T(65536.0f));
}

FD_HD float to_fp32(double value) { return static_cast<float>(value); }
template <class T>
FD_HD T to_fp32(T value) {
  return value;
}

template <class T>
struct StandoutConstants {
  T alpha, beta;
};

// Ba and Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013. In training:
// from x and z to y, or from dy and z to dx, because the sampled mask is a constant. A unit whose
// threshold is NaN is kept, so that the NaN reaches the result.
struct Standout : NoiseFunctor<2, 1, NoiseDraw::kBits> {
  static constexpr auto kName = "Standout";

  template <class T>
  using Constants = StandoutConstants<T>;

  template <class Precision, class T, class Fp32>
  static FD_HD void element(const T (&inputs)[2], Fp32 draw, const Constants<T>& constants,
                            T (&y)[1]) {
    const Fp32 threshold =
        keep_threshold(to_fp32(inputs[1]), to_fp32(constants.alpha), to_fp32(constants.beta));
    y[0] = select(draw >= threshold, T(0.0f), inputs[0]);
  }
};

// In evaluation: from x and z to x times the keep probability.
struct StandoutMean : NoiseFunctor<2, 1, NoiseDraw::kNone> {
  static constexpr auto kName = "StandoutMean";

  template <class T>
  using Constants = StandoutConstants<T>;

  template <class Precision, class T>
  static FD_HD void element(const T (&inputs)[2], T, const Constants<T>& constants, T (&y)[1]) {
    y[0] = inputs[0] * sigmoid<Precision>(fmadd(constants.alpha, inputs[1], constants.beta));
  }
};

// From dy, x and z to dx and dz.
struct StandoutMeanBackward : NoiseFunctor<3, 2, NoiseDraw::kNone> {
  static constexpr auto kName = "StandoutMeanBackward";

  template <class T>
  using Constants = StandoutConstants<T>;

  template <class Precision, class T>
  static FD_HD void element(const T (&inputs)[3], T, const Constants<T>& constants,
                            T (&gradients)[2]) {
    const T dy = inputs[0], x = inputs[1], z = inputs[2];
    T keep, complement;
    sigmoid_pair<Precision>(fmadd(constants.alpha, z, constants.beta), keep, complement);
    gradients[0] = dy * keep;
    gradients[1] = dy * x * (constants.alpha * (keep * complement));
  }
};

}  // namespace noise

// ---- the list ---------------------------------------------------------------------------------

using NoiseFunctors = NoiseList<noise::Gaussian, noise::ConcreteForward, noise::ConcreteBackward,
                                noise::Standout, noise::StandoutMean, noise::StandoutMeanBackward>;

// The index of a functor in the list, and in the tables of kernels.
template <class Functor>
constexpr int kNoiseIndex = position_in<Functor>(NoiseFunctors());

}  // namespace fused_dropout
