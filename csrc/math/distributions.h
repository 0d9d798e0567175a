// Random numbers of a distribution, computed from uniform draws, for every value type of scalar.h.
//
// A uniform draw is given as k, the upper 24 bits of a random word (philox.h), and stands for
// u = (k + 1/2) 2^-24. In fp32 that number would be rounded where it counts most, close to 1, so
// the functions below take k, which fp32 holds exactly, and lose nothing at either end.
//
// Errors are stated as in transcendental.h; tests/noise/test_noise_accuracy.py measures them.
#pragma once

#include "math/transcendental.h"

namespace fused_dropout {

// ---- logarithm, sine and cosine ---------------------------------------------------------------

template <class Precision>
FD_HD double logarithm(double x) {
  return std::log(x);
}

template <class Precision>
FD_HD double log_uniform(double k) {
  return std::log((k + 0.5) * 0x1p-24);
}

// log(1 + f) + n ln 2 for sqrt(1/2) - 1 <= f <= sqrt(2) - 1 and integral |n| < 512.
template <class Precision, class T>
FD_HD T log_of_parts(T f, T n) {
  T curvature;  // (log(1 + f) - f) / f^2
  if constexpr (Precision::kFull) {
    curvature = polynomial(f, -0.4999999f, 0.33333954f, -0.25001827f, 0.19961958f, -0.16568428f,
                           0.14917006f, -0.14324254f, 0.087590106f);
  } else {
    curvature = polynomial(f, -0.50000846f, 0.33319187f, -0.24919209f, 0.20450181f, -0.18586001f,
                           0.11941902f);
  }
  return fmadd(n, T(kLn2High), f) + fmadd(f * f, curvature, n * T(kLn2Low));
}

// log(x) for 2^-126 <= x < 2^126. Full: 1.6 ULP. Reduced: 1.5e-6; on a device 2^-22, absolute
// between 1/2 and 2.
template <class Precision, class T>
FD_HD T logarithm(T x) {
#if defined(FD_DEVICE_FORMULAS)
  if constexpr (!Precision::kFull) return approximate_log2(x) * T(1.0f / kLog2OfE);
#endif
  const T n = binary_exponent(x);
  return log_of_parts<Precision>(scale_by_pow2(x, -n) - T(1.0f), n);
}

// log(u), without the rounding of u: k + 1/2 has 25 bits, but its distance from the power of two
// beside it has no more than 24. Full: 1.4 ULP. Reduced: 1.5e-6.
template <class Precision, class T>
FD_HD T log_uniform(T k) {
  const T n = binary_exponent(k + T(0.5f));
  const T scale = scale_by_pow2(T(1.0f), -n);
  const T f = (k * scale - T(1.0f)) + T(0.5f) * scale;
  return log_of_parts<Precision>(f, n - T(24.0f));
}

// log(u / (1 - u)). The quotient of the two integers (2 k + 1) / (2^25 - 2 k - 1) has one rounding
// where it is very small or large. Full: an absolute 1.2e-7 and 1.6 ULP. Reduced: 6.1e-7 of the
// result or of 1.
template <class Precision, class T>
FD_HD T logit_uniform(T k) {
  return logarithm<Precision>(quotient<Precision>(k + T(0.5f), (T(16777216.0f) - k) - T(0.5f)));
}

// The sine and the cosine of 2 pi f for |f| <= 1/8. Full: 1.6 ULP. Reduced: 1.7e-6.
template <class Precision, class T>
FD_HD void sine_and_cosine(T f, T& sine, T& cosine) {
  const T square = f * f;
  if constexpr (Precision::kFull) {
    sine = f * polynomial(square, 6.2831855f, -41.341866f, 81.625626f, -76.774956f);
    cosine = polynomial(square, 1.0f, -19.739208f, 64.93915f, -85.42452f, 58.62106f);
  } else {
    sine = f * polynomial(square, 6.283176f, -41.3311f, 79.811714f);
    cosine = polynomial(square, 0.99999994f, -19.73911f, 64.91362f, -83.246346f);
  }
}

// ---- the normal distribution ------------------------------------------------------------------

template <class Precision>
FD_HD void normal_pair(double first, double second, double& even, double& odd) {
  const double radius = std::sqrt(-2.0 * log_uniform<Precision>(first));
  const double turns = (second + 0.5) * 0x1p-24;
  double sine, cosine;
#if defined(__CUDA_ARCH__)
  sincospi(2.0 * turns, &sine, &cosine);  // that of any angle needs local memory
#else
  constexpr double kTwoPi = 6.283185307179586476925;
  sine = std::sin(kTwoPi * turns);
  cosine = std::cos(kTwoPi * turns);
#endif
  even = radius * cosine;
  odd = radius * sine;
}

// Two independent standard normal numbers from two uniform draws (Box and Muller, "A note on the
// generation of random normal deviates", 1958): radius sqrt(-2 log u1), angle 2 pi u2. The angle is
// reduced to an eighth of a turn without a rounding. Full: 4 ULP. Reduced: 4e-6; on a device an
// absolute 1e-5, or less than 6e-4 where the radius is below 0.03, which it is once in 2,000 times.
template <class Precision, class T>
FD_HD void normal_pair(T first, T second, T& even, T& odd) {
#if defined(FD_DEVICE_FORMULAS)
  if constexpr (!Precision::kFull) {
    constexpr float kHalfTurn = 3.14159265f, kUnit = 2.0f * kHalfTurn / 16777216.0f;
    const T bits = approximate_log2(fmadd(first, T(1.0f / 16777216.0f), T(0.5f / 16777216.0f)));
    const T radius = approximate_square_root(maximum(bits * T(-2.0f / kLog2OfE), T(0.0f)));
    // Half a turn less turns both signs.
    T sine, cosine;
    approximate_sine_and_cosine(fmadd(second, T(kUnit), T(0.5f * kUnit - kHalfTurn)), sine, cosine);
    even = -radius * cosine;
    odd = -radius * sine;
    return;
  }
#endif
  const T radius = square_root(T(-2.0f) * log_uniform<Precision>(first));
  const T quarter = round_even((second + T(0.5f)) * T(1.0f / 4194304.0f));  // 0 to 4
  const T rest = (second - quarter * T(4194304.0f)) + T(0.5f);
  T s, c;
  sine_and_cosine<Precision>(rest * T(1.0f / 16777216.0f), s, c);
  const auto is_odd = absolute(absolute(quarter - T(2.0f)) - T(1.0f)) < T(0.5f);
  const T cosine = select(is_odd, s, c), sine = select(is_odd, c, s);
  even = radius * select(absolute(quarter - T(1.5f)) < T(1.0f), -cosine, cosine);
  odd = radius * select(absolute(quarter - T(2.5f)) < T(1.0f), -sine, sine);
}

}  // namespace fused_dropout
