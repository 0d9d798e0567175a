// The transcendental functions that the activations use, for every value type (see scalar.h).
//
// The first template argument is the precision: Full for fp32, Reduced for 16-bit storage. Reduced
// functions have a relative error of a few 1e-6, which rarely changes the stored result, and need
// half as many instructions. The versions for `double` ignore the precision and call the standard
// library. All functions are free of branches, return NaN for NaN, and accept any argument unless a
// range is given.
//
// Unless stated otherwise, the coefficients minimise the largest relative error. They were found by
// the Remez exchange algorithm in extended precision and rounded to fp32 one after the other,
// lowest order first; after each rounding the remaining coefficients were fitted again.
//
// The stated errors are the largest ones found on the host in comparison with double, in ULP for
// Full and relative for Reduced, over every 61st bit pattern of the range (7e7 numbers), without a
// hardware fmadd, which is the worse case. On a GPU, ex2.approx and rcp.approx add 2 ULP each.
#pragma once

#include <type_traits>

#include "math/device_intrinsics.h"
#include "math/scalar.h"

namespace fused_dropout {

struct Full {
  static constexpr bool kFull = true;
};
struct Reduced {
  static constexpr bool kFull = false;
};

// ---- fp64 --------------------------------------------------------------------------------------

// These are declared before the templates that call them, because argument-dependent lookup finds
// nothing for double.

template <class Precision>
FD_HD double quotient(double a, double b) {
  return a / b;
}

template <class Precision>
FD_HD double exponential(double x) {
  return std::exp(x);
}

template <class Precision>
FD_HD double exponential_minus_one(double x) {
  return std::expm1(x);
}

template <class Precision>
FD_HD double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

template <class Precision>
FD_HD double hyperbolic_tangent(double x) {
  return std::tanh(x);
}

template <class Precision>
FD_HD double softplus(double x) {
  return maximum(x, 0.0) + std::log1p(std::exp(-absolute(x)));
}

template <class Precision>
FD_HD double normal_cdf(double x) {
  return 0.5 * std::erfc(x * -0.70710678118654752);
}

template <class Precision>
FD_HD void normal_cdf_and_pdf(double x, double& cdf, double& pdf) {
  cdf = normal_cdf<Precision>(x);
  pdf = 0.39894228040143268 * std::exp(-0.5 * x * x);
}

template <class Precision>
FD_HD double multiply_by_normal_cdf(double x) {
  return x * normal_cdf<Precision>(x);
}

// ---- fp32: float, SIMD registers and tensors
// -----------------------------------------------------

// c0 + c1 x + c2 x^2 + ...
template <class T>
FD_HD T polynomial(T, float c0) {
  static_assert(!std::is_same_v<T, double>, "these coefficients are for fp32");
  return T(c0);
}
template <class T, class... Rest>
FD_HD T polynomial(T x, float c0, Rest... rest) {
  return fmadd(polynomial(x, rest...), x, T(c0));
}

// a / b for |b| >= 2^-126. On a GPU the error is 2 ULP.
template <class Precision, class T>
FD_HD T quotient(T a, T b) {
#if defined(FD_DEVICE_FORMULAS)
  return a * approximate_reciprocal(b);
#else
  return a / b;
#endif
}

// x, clamped to [-bound, bound].
template <class T>
FD_HD T limit_magnitude(T x, float bound) {
#if __CUDA_ARCH__ >= 860
  float result;  // its sign is the product of both signs
  asm("min.NaN.xorsign.abs.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(bound));
  return result;
#else
  return minimum(maximum(x, T(-bound)), T(bound));
#endif
}

constexpr float kLog2OfE = 1.44269504f;
// ln 2 as a sum. The first part has 15 bits, so that its product with an exponent is exact.
constexpr float kLn2High = 0.693145752f;
constexpr float kLn2Low = 1.42860677e-6f;

// x - n ln 2
template <class T>
FD_HD T subtract_ln2_multiple(T x, T n) {
  return fmadd(n, T(-kLn2Low), fmadd(n, T(-kLn2High), x));
}

// e^r 2^n for |r| <= 0.385 and an integer n <= 128. With kHalved: e^(-r/2) 2^n for |r| <= 0.77.
template <bool kHalved = false, class T>
FD_HD T scaled_exponential(T r, T n) {
  constexpr float k =
      kHalved ? -0.5f : 1.0f;  // its powers are exact, so coefficients keep their digits
#if defined(FD_DEVICE_FORMULAS)
  return approximate_exp2(r * T(k * kLog2OfE)) * approximate_exp2(n);
#else
  return scale_by_pow2(polynomial(r, 1.0f, k, k * k * 0.499999881f, k * k * k * 0.166664422f,
                                  k * k * k * k * 0.0416691341f, k * k * k * k * k * 0.00837720186f,
                                  k * k * k * k * k * k * 0.00138072413f),
                       n);
#endif
}

// 2^y for -160 <= y <= 128.5 in Reduced precision. Relative error 5e-7.
template <class T>
FD_HD T bounded_exp2(T y) {
#if defined(FD_DEVICE_FORMULAS)
  return approximate_exp2(y);
#else
  const T n = round_even(y);
  return scale_by_pow2(polynomial(y - n, 1.0f, 0.693142831f, 0.240223497f, 0.0555734187f,
                                  0.00966635812f, 0.00111629418f),
                       n);
#endif
}

// 2^n for an integer -126 <= n <= 127. It is important that 2^0 is exact.
template <class Precision, class T>
FD_HD T power_of_two(T n) {
#if defined(FD_DEVICE_FORMULAS)
  if constexpr (!Precision::kFull) return approximate_exp2(n);
#endif
  return scale_by_pow2(T(1.0f), n);
}

// e^x. Results below 2^-126.5 are zero, results above 2^127.5 infinite. Full: 1.2 ULP. Reduced:
// 1.4e-6 for |x| < 17.5, 4.3e-6 at the ends of the range.
template <class Precision, class T>
FD_HD T exponential(T x) {
#if defined(FD_DEVICE_FORMULAS)
  return Precision::kFull ? expf(x) : approximate_exp2(x * T(kLog2OfE));
#else
  // Beyond these bounds the result is zero or infinite.
  const T bounded = minimum(maximum(x, T(-104.0f)), T(89.0f));
  const T exponent = bounded * T(kLog2OfE);
  if constexpr (!Precision::kFull) return bounded_exp2(exponent);
  const T n = round_even(exponent);
  return scaled_exponential(subtract_ln2_multiple(bounded, n), n);
#endif
}

// e^x - 1 for x <= 88. Full: 1.7 ULP. Reduced: 6e-7 for x <= 0.
template <class Precision, class T>
FD_HD T exponential_minus_one(T x) {
  const T bounded = maximum(x, T(-20.0f));  // below, the result is -1
  const T exponent = bounded * T(kLog2OfE);
  const T n = round_even(exponent);
  T p;  // e^x 2^-n - 1, without cancellation
  if constexpr (Precision::kFull) {
    const T r = subtract_ln2_multiple(bounded, n);
    const T curvature =
        polynomial(r, 0.5f, 0.166665316f, 0.0416661724f, 0.00836796965f, 0.00139705255f);
    p = fmadd(r * r, curvature, r);
  } else {
    const T f = exponent - n;
    p = f *
        polynomial(f, 0.693147123f, 0.240223393f, 0.0555058829f, 0.00966712832f, 0.00132915797f);
  }
  const T scale = power_of_two<Precision>(n);
  return fmadd(scale, p, scale - T(1.0f));
}

// 1 / (1 + e^-x), zero for x < -88.3. Full: 2.4 ULP for larger x. Reduced: 1.4e-6 for x > -17.5.
template <class Precision, class T>
FD_HD T sigmoid(T x) {
  return quotient<Precision>(T(1.0f), T(1.0f) + exponential<Precision>(-x));
}

// The sigmoid function s and its derivative s (1 - s), computed without the difference 1 - s, in
// which digits cancel. Full: 3.7 ULP.
template <class Precision, class T>
FD_HD void sigmoid_and_derivative(T x, T& value, T& derivative) {
  const T e = exponential<Precision>(-absolute(x));
  const T s = quotient<Precision>(T(1.0f), T(1.0f) + e);  // for |x|
  value = select(x > T(0.0f), s, e * s);
  derivative = e * s * s;
}

// The hyperbolic tangent. Full: 1.2 ULP. Reduced: 2.1e-6.
template <class Precision, class T>
FD_HD T hyperbolic_tangent(T x) {
  if constexpr (Precision::kFull) {
    const T t = minimum(absolute(x), T(10.0f));  // from 9.02 on, the result rounds to 1
    const T square = t * t;
    const T small = fmadd(t * square,
                          polynomial(square, -0.333332121f, 0.133303598f, -0.0537214987f,
                                     0.0209041815f, -0.00686014257f, 0.00130400609f),
                          t);
    const T e = exponential<Precision>(T(2.0f) * t);
    const T large = T(1.0f) - quotient<Precision>(T(2.0f), e + T(1.0f));
    return copy_sign(select(t < T(0.9f), small, large), x);
  }
  const T bounded = limit_magnitude(x, 7.5f);
  const T square = bounded * bounded;
  const T numerator = polynomial(square, 1.0f, 0.122682711f, 0.00224382021f, 3.75826395e-6f);
  const T denominator = polynomial(square, 1.0f, 0.456007731f, 0.0209250212f, 0.000138565599f);
  return quotient<Precision>(bounded * numerator, denominator);
}

// log(1 + e^x). Full: 2.2 ULP. Reduced: 2.3e-6 for x > -17.5.
template <class Precision, class T>
FD_HD T softplus(T x) {
  const T e = exponential<Precision>(-absolute(x));
  T log1p_e;
  if constexpr (Precision::kFull) {
    const T tail =
        polynomial(e, -0.499999315f, 0.333304644f, -0.24958019f, 0.196921021f, -0.153448805f,
                   0.106611282f, -0.057457231f, 0.0200862419f, -0.00329046859f);
    log1p_e = fmadd(e * e, tail, e);
  } else {
    log1p_e = e * polynomial(e, 0.999998748f, -0.499870121f, 0.331098169f, -0.235051081f,
                             0.149244457f, -0.0664181262f, 0.0141460188f);
  }
  return maximum(x, T(0.0f)) + log1p_e;
}

// For larger t, e^(-t^2/2) is zero in fp32.
constexpr float kNormalBound = 14.5f;

// e^(-t^2/2) and Phi(-t) for 0 <= t <= kNormalBound.
template <class Precision, class T>
FD_HD void normal_density_and_tail(T t, T& density, T& tail) {
  // Phi(-t) = e^(-t^2/2) R(t).
  if constexpr (Precision::kFull) {
    // Rounding t^2 causes a relative error of 2^-24 t^2, so square_error is added afterwards.
    const T square = t * t;
    const T n = round_even(square * T(-0.5f * kLog2OfE));
    const T exact = fmadd(n, T(2.0f * kLn2High), square);
    const T reduced = fmadd(n, T(2.0f * kLn2Low), exact) + square_error(t, square);
    density = scaled_exponential<true>(reduced, n);
    // Fitted to 6e-8 up to t = 5.5, where GELU is 1e-7. For larger t the error grows: 2e-6 at 7,
    // 5e-5 at 13.
    const T numerator = polynomial(t, 0.5f, 0.331331134f, 0.102776811f, 0.0132651171f);
    const T denominator =
        polynomial(t, 1.0f, 1.46054399f, 0.870926857f, 0.257011801f, 0.033274401f);
    tail = quotient<Precision>(density * numerator, denominator);
  } else {
    // Fitted to 2.5e-6 up to t = 3, and to 100 times that at the end of the range. Only the
    // derivative of GELU uses this, and there the density is much larger than the tail.
    density = bounded_exp2(t * T(-0.5f * kLog2OfE) * t);
    // R is nearly a polynomial in u. The factor of t is the one with the smallest error.
    const T u = quotient<Precision>(T(1.0f), fmadd(T(0.344f), t, T(1.0f)));
    tail = density * polynomial(u, 0.000637694262f, 0.127753526f, 0.191774368f, -0.0359129347f,
                                0.322692335f, -0.106945753f);
  }
}

// Phi(-t) for 0 <= t <= kNormalBound.
template <class Precision, class T>
FD_HD T normal_tail(T t) {
  if constexpr (Precision::kFull) {
    T density, tail;
    normal_density_and_tail<Precision>(t, density, tail);
    return tail;
  }
  // The logarithm of the tail is nearly a polynomial, so no division is needed. Fitted to 5e-6 up
  // to t = 6.5, where GELU is 3e-10. For larger t the error grows slowly, and the value falls to
  // zero.
  return bounded_exp2(polynomial(t, -1.0f, -1.1511941f, -0.458597898f, -0.0538355298f,
                                 0.0084510725f, -0.000917044177f, 6.00019885e-05f,
                                 -1.76032393e-06f));
}

// Phi(x), the distribution function of the standard normal distribution. Full: 5 ULP for x > -5.5,
// a relative error of 5e-5 for smaller x. Reduced: 8e-6 for x > -6.5; 1 % at -8.4, 13 % at -10.
template <class Precision, class T>
FD_HD T normal_cdf(T x) {
  const T tail = normal_tail<Precision>(minimum(absolute(x), T(kNormalBound)));
  return select(x > T(0.0f), T(1.0f) - tail, tail);
}

// Phi(x) and its derivative, the density. Full: the errors of normal_cdf, and 2.1 ULP for the
// density. Reduced: 3.2e-6 for x > -3.
template <class Precision, class T>
FD_HD void normal_cdf_and_pdf(T x, T& cdf, T& pdf) {
  T density, tail;
  normal_density_and_tail<Precision>(minimum(absolute(x), T(kNormalBound)), density, tail);
  cdf = select(x > T(0.0f), T(1.0f) - tail, tail);
  pdf = T(0.398942280f) * density;
}

// x Phi(x), computed as max(x, 0) - |x| Phi(-|x|), which needs fewer instructions. Zero for -inf.
// Full: 5.5 ULP for x > -5.5. Reduced: 8e-6 for x > -4.
template <class Precision, class T>
FD_HD T multiply_by_normal_cdf(T x) {
  const T t = minimum(absolute(x), T(kNormalBound));
  return fmadd(-t, normal_tail<Precision>(t), maximum(x, T(0.0f)));
}

}  // namespace fused_dropout
