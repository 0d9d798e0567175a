// The activations: the values and derivatives of each one, and the list of all.
//
// To add an activation, write a functor and add a line to FD_FOR_EACH_ACTIVATION. The kernels of
// all devices, the operators and fused_dropout.functional.ACTIVATIONS are generated from that list.
//
// Formulas use only the functions of scalar.h and transcendental.h. They must work for float,
// double, SIMD registers, and tensors that torch differentiates again. Therefore:
// - Constants are written in double precision, T(1.702); they are rounded once if T is fp32.
// - A kink is written as a select, because torch's minimum and maximum divide the gradient between
//   equal arguments.
// - The branch of a select that is not taken must be finite.
//
// Values and derivatives are those of torch, also at kinks. There are two exceptions: for an
// infinite argument for which torch gives NaN, the result may be the limit; and the sign of a zero
// may differ.
//
// Largest errors (tests/activation_oracle.py has them one by one):
// - Full, values: 5.6 ULP. But gelu below -5.5, where it is smaller than 1e-7, has a relative
//   error of up to 5e-5; quick_gelu and gelu_tanh have 9 and 31 ULP at -5 and more below, because
//   of the rounding of the argument of the exponential (torch's gelu_tanh has no correct digit
//   there).
// - Full, derivatives: 6 ULP of max(|derivative|, 1/8).
// - Reduced, values and derivatives: for some of the 65,536 arguments the stored result is not the
//   correctly rounded one. In fp16 these are 0.18 % (gelu), 0.1 % (softplus) or 0.03 % (others), in
//   bf16 0.15 % (gelu) or 0.05 % (others).
// - An exponential below 2^-126 may become zero.
#pragma once

#include <string_view>

#include "math/transcendental.h"

namespace fused_dropout {

// The scalar parameter of an activation. Activations without one ignore it.
enum class Parameter : int { kNone, kNegativeSlope, kAlpha };

// The base of all functors. A functor overrides the traits that differ, and has static functions
// `value(x, parameter)` and `derivative(x, parameter)`.
struct ActivationTraits {
  // The formula has so few instructions that memory sets the speed, not arithmetic.
  static constexpr bool kMemoryBound = false;
  // The derivative is exactly zero on an interval. There the gradient is set to zero, as in torch:
  // the product of an infinite upstream gradient and zero would be NaN.
  static constexpr bool kHasZeroDerivative = false;
  static constexpr Parameter kParameter = Parameter::kNone;
  // The value is the argument, so backward does not need the input.
  static constexpr bool kIdentity = false;
  // derivative(value(x)) == derivative(x), so backward can use the output instead of the input.
  static constexpr bool kFromOutput = false;
  // There is a function `value_and_derivative`: see WithValueAndDerivative.
  static constexpr bool kHasValueAndDerivative = false;
};

// The base of functors whose value and derivative have an expensive part in common. Such a functor
// has `value_and_derivative(x, parameter, value, derivative)` instead of `derivative`.
template <class Functor>
struct WithValueAndDerivative : ActivationTraits {
  static constexpr bool kHasValueAndDerivative = true;

  template <class T>
  static FD_HD T derivative(T x, T parameter) {
    T value, derivative;
    Functor::value_and_derivative(x, parameter, value, derivative);
    return derivative;
  }
};

template <class Precision>
struct Identity : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr bool kIdentity = true;

  template <class T>
  static FD_HD T value(T x, T) {
    return x;
  }
  template <class T>
  static FD_HD T derivative(T, T) {
    return T(1.0);
  }
};

template <class Precision>
struct Relu : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr bool kHasZeroDerivative = true;
  static constexpr bool kFromOutput = true;

  template <class T>
  static FD_HD T value(T x, T) {
    return select(x <= T(0.0), T(0.0), x);
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    return select(x <= T(0.0), T(0.0), T(1.0));
  }
};

template <class Precision>
struct Relu6 : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr bool kHasZeroDerivative = true;

  template <class T>
  static FD_HD T value(T x, T) {
    return select(x <= T(0.0), T(0.0), select(x >= T(6.0), T(6.0), x));
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    return select(x > T(0.0), select(x >= T(6.0), T(0.0), T(1.0)), T(0.0));
  }
};

template <class Precision>
struct LeakyRelu : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr Parameter kParameter = Parameter::kNegativeSlope;

  template <class T>
  static FD_HD T value(T x, T negative_slope) {
    return select(x > T(0.0), x, negative_slope * x);
  }
  template <class T>
  static FD_HD T derivative(T x, T negative_slope) {
    return select(x > T(0.0), T(1.0), negative_slope);
  }
};

// Hendrycks and Gimpel, "Gaussian error linear units", 2016: x Phi(x).
template <class Precision>
struct Gelu : WithValueAndDerivative<Gelu<Precision>> {
  template <class T>
  static FD_HD T value(T x, T) {
    return multiply_by_normal_cdf<Precision>(x);
  }
  template <class T>
  static FD_HD void value_and_derivative(T x, T, T& value, T& derivative) {
    T cdf, pdf;
    normal_cdf_and_pdf<Precision>(x, cdf, pdf);
    // The bound avoids infinity times zero.
    value = maximum(x, T(-3e38)) * cdf;
    derivative = fmadd(x, pdf, cdf);
  }
};

// The approximation in the same paper: x/2 (1 + tanh(z)), which equals x sigmoid(2z).
template <class Precision>
struct GeluTanh : WithValueAndDerivative<GeluTanh<Precision>> {
  static constexpr double kLinear = 1.5957691216057308;  // 2 sqrt(2 / pi)
  static constexpr double kCubic = 0.044715 * kLinear;

  template <class T>
  static FD_HD T value(T x, T) {
    return x * sigmoid<Precision>(x * fmadd(T(kCubic), x * x, T(kLinear)));
  }
  template <class T>
  static FD_HD void value_and_derivative(T x, T, T& value, T& derivative) {
    // Beyond these bounds the derivative is 0 or 1; within them the square is finite.
    const T bounded = minimum(maximum(x, T(-11.0)), T(11.0));
    const T square = bounded * bounded;
    const T inner = bounded * fmadd(T(kCubic), square, T(kLinear));
    T s, ds;
    sigmoid_and_derivative<Precision>(inner, s, ds);
    value = x * s;
    derivative = fmadd(bounded * fmadd(T(3.0 * kCubic), square, T(kLinear)), ds, s);
  }
};

template <class Precision>
struct QuickGelu : WithValueAndDerivative<QuickGelu<Precision>> {
  template <class T>
  static FD_HD T value(T x, T) {
    return x * sigmoid<Precision>(T(1.702) * x);
  }
  template <class T>
  static FD_HD void value_and_derivative(T x, T, T& value, T& derivative) {
    T s, ds;
    sigmoid_and_derivative<Precision>(T(1.702) * x, s, ds);
    value = x * s;
    derivative = fmadd(x, T(1.702) * ds, s);
  }
};

template <class Precision>
struct Silu : WithValueAndDerivative<Silu<Precision>> {
  template <class T>
  static FD_HD T value(T x, T) {
    return x * sigmoid<Precision>(x);
  }
  template <class T>
  static FD_HD void value_and_derivative(T x, T, T& value, T& derivative) {
    T s, ds;
    sigmoid_and_derivative<Precision>(x, s, ds);
    value = x * s;
    derivative = fmadd(x, ds, s);
  }
};

template <class Precision>
struct Sigmoid : WithValueAndDerivative<Sigmoid<Precision>> {
  template <class T>
  static FD_HD T value(T x, T) {
    return sigmoid<Precision>(x);
  }
  template <class T>
  static FD_HD void value_and_derivative(T x, T, T& value, T& derivative) {
    sigmoid_and_derivative<Precision>(x, value, derivative);
  }
};

template <class Precision>
struct Tanh : ActivationTraits {
  template <class T>
  static FD_HD T value(T x, T) {
    return hyperbolic_tangent<Precision>(x);
  }
  // 1 - tanh^2, computed as 4 e / (1 + e)^2 with e = e^-2|x|, because digits cancel in the
  // difference.
  template <class T>
  static FD_HD T derivative(T x, T) {
    const T e = exponential<Precision>(T(-2.0) * absolute(x));
    return quotient<Precision>(T(4.0) * e, fmadd(e, e + T(2.0), T(1.0)));
  }
};

template <class Precision>
struct Elu : ActivationTraits {
  static constexpr Parameter kParameter = Parameter::kAlpha;

  template <class T>
  static FD_HD T value(T x, T alpha) {
    const T negative = alpha * exponential_minus_one<Precision>(minimum(x, T(0.0)));
    return select(x > T(0.0), x, negative);
  }
  template <class T>
  static FD_HD T derivative(T x, T alpha) {
    const T negative = alpha * exponential<Precision>(minimum(x, T(0.0)));
    return select(x > T(0.0), T(1.0), negative);
  }
};

// Klambauer et al., "Self-normalizing neural networks", 2017.
template <class Precision>
struct Selu : ActivationTraits {
  static constexpr double kScale = 1.0507009873554804934;
  static constexpr double kScaledAlpha = 1.6732632423543772848 * kScale;

  template <class T>
  static FD_HD T value(T x, T) {
    const T em = exponential_minus_one<Precision>(minimum(x, T(0.0)));
    return select(x > T(0.0), T(kScale) * x, T(kScaledAlpha) * em);
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    const T e = exponential<Precision>(minimum(x, T(0.0)));
    return select(x > T(0.0), T(kScale), T(kScaledAlpha) * e);
  }
};

template <class Precision>
struct Softplus : ActivationTraits {
  template <class T>
  static FD_HD T value(T x, T) {
    return softplus<Precision>(x);
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    return sigmoid<Precision>(x);
  }
};

// Misra, "Mish: a self regularized non-monotonic activation function", 2019: x tanh(softplus(x)).
// With e = e^x and n = e (e + 2), the hyperbolic tangent is n / (n + 2). From x = 20 on it is 1,
// also in fp64.
template <class Precision>
struct Mish : ActivationTraits {
  template <class T>
  static FD_HD T value(T x, T) {
    const T e = exponential<Precision>(minimum(x, T(20.0)));
    const T n = e * (e + T(2.0));
    return x * quotient<Precision>(n, n + T(2.0));
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    const T bounded = minimum(x, T(20.0));
    const T e = exponential<Precision>(bounded);
    const T n = e * (e + T(2.0));
    const T d = quotient<Precision>(T(1.0), n + T(2.0));
    return d * fmadd(bounded * d, T(4.0) * fmadd(e, e, e), n);
  }
};

template <class Precision>
struct Hardswish : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr bool kHasZeroDerivative = true;

  template <class T>
  static FD_HD T value(T x, T) {
    const T shifted = x + T(3.0);
    const T gate = select(shifted <= T(0.0), T(0.0), select(shifted >= T(6.0), T(6.0), shifted));
    return x * (gate * T(1.0 / 6.0));
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    const T inner = fmadd(x, T(1.0 / 3.0), T(0.5));
    return select(x <= T(-3.0), T(0.0), select(x >= T(3.0), T(1.0), inner));
  }
};

// So et al., "Primer", 2021.
template <class Precision>
struct SquaredRelu : ActivationTraits {
  static constexpr bool kMemoryBound = true;
  static constexpr bool kHasZeroDerivative = true;

  template <class T>
  static FD_HD T value(T x, T) {
    const T positive = maximum(x, T(0.0));
    return positive * positive;
  }
  template <class T>
  static FD_HD T derivative(T x, T) {
    return T(2.0) * maximum(x, T(0.0));
  }
};

// X(functor, name) for each activation. The position in the list is the index of the activation.
#define FD_FOR_EACH_ACTIVATION(X) \
  X(Identity, "identity")         \
  X(Relu, "relu")                 \
  X(Relu6, "relu6")               \
  X(LeakyRelu, "leaky_relu")      \
  X(Gelu, "gelu")                 \
  X(GeluTanh, "gelu_tanh")        \
  X(QuickGelu, "quick_gelu")      \
  X(Silu, "silu")                 \
  X(Sigmoid, "sigmoid")           \
  X(Tanh, "tanh")                 \
  X(Elu, "elu")                   \
  X(Selu, "selu")                 \
  X(Softplus, "softplus")         \
  X(Mish, "mish")                 \
  X(Hardswish, "hardswish")       \
  X(SquaredRelu, "squared_relu")

template <class Function, class T>
FD_HD void value_and_derivative(T x, T parameter, T& value, T& derivative) {
  if constexpr (Function::kHasValueAndDerivative) {
    Function::value_and_derivative(x, parameter, value, derivative);
  } else {
    value = Function::value(x, parameter);
    derivative = Function::derivative(x, parameter);
  }
}

enum class Activation : int {
#define FD_ENUMERATOR(Functor, name) k##Functor,
  FD_FOR_EACH_ACTIVATION(FD_ENUMERATOR)
#undef FD_ENUMERATOR
};

struct ActivationInfo {
  const char* name;
  Parameter parameter;
  bool identity;
  bool from_output;
};

// Indexed by Activation.
inline constexpr ActivationInfo kActivations[] = {
#define FD_INFO(Functor, name) \
  {name, Functor<Full>::kParameter, Functor<Full>::kIdentity, Functor<Full>::kFromOutput},
    FD_FOR_EACH_ACTIVATION(FD_INFO)
#undef FD_INFO
};
inline constexpr int kActivationCount = sizeof(kActivations) / sizeof(kActivations[0]);

// The index of the activation with this name, or -1.
inline int activation_from_name(std::string_view name) {
  for (int i = 0; i < kActivationCount; ++i) {
    if (name == kActivations[i].name) return i;
  }
  return -1;
}

// The name and the default value of a parameter: null and 0 if there is none.
inline constexpr const char* parameter_name(Parameter parameter) {
  return parameter == Parameter::kNegativeSlope ? "negative_slope"
         : parameter == Parameter::kAlpha       ? "alpha"
                                                : nullptr;
}
inline constexpr double parameter_default(Parameter parameter) {
  return parameter == Parameter::kNegativeSlope ? 0.01 : parameter == Parameter::kAlpha ? 1.0 : 0.0;
}

}  // namespace fused_dropout
