// Bindings whose errors name the argument that is of a wrong type, and say what was expected.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <array>
#include <string>

#include "ops/common/arguments.h"

namespace fused_dropout {

template <class T>
constexpr const char* kExpected = nullptr;
template <>
inline constexpr const char* kExpected<Tensor> = "a Tensor";
template <>
inline constexpr const char* kExpected<OptionalTensor> = "a Tensor or None";
template <>
inline constexpr const char* kExpected<OptionalGenerator> = "a torch.Generator or None";
template <>
inline constexpr const char* kExpected<bool> = "a bool";
template <>
inline constexpr const char* kExpected<double> = "a number";
template <>
inline constexpr const char* kExpected<std::optional<double>> = "a number or None";
template <>
inline constexpr const char* kExpected<int64_t> = "an integer";
template <>
inline constexpr const char* kExpected<std::vector<int64_t>> = "a sequence of integers";
template <>
inline constexpr const char* kExpected<std::string_view> = "a string";

// What Python gave for an argument of type T.
template <class T>
struct Given {
  T value{};
  const char* wrong = nullptr;  // the type of what was given, where it is no T

  void check(const std::string& function, const char* argument) const {
    static_assert(kExpected<T> != nullptr);
    TORCH_CHECK_TYPE(!wrong, function, ": ", argument, " is of type ", wrong, ", but expected ",
                     kExpected<T>);
  }
};

// The same function, whose first argument is the name that it has in Python, for arguments of any
// type. `names` are those of the others.
template <class Result, class... Arguments>
auto with_names(Result (*call)(const std::string&, Arguments...),
                std::array<const char*, sizeof...(Arguments)> names) {
  return [=](const std::string& function, const Given<std::decay_t<Arguments>>&... given) {
    size_t i = 0;
    (given.check(function, names[i++]), ...);
    return call(function, given.value...);
  };
}

}  // namespace fused_dropout

namespace pybind11::detail {

template <class T>
struct type_caster<fused_dropout::Given<T>> {
  PYBIND11_TYPE_CASTER(fused_dropout::Given<T>, const_name("object"));

  bool load(handle source, bool) {
    make_caster<T> caster;
    if (caster.load(source, /*convert=*/true)) {
      value.value = cast_op<T>(std::move(caster));
    } else {
      value.wrong = Py_TYPE(source.ptr())->tp_name;
    }
    return true;
  }
};

}  // namespace pybind11::detail
