// Bindings of operators for eager calls from Python, whose error messages name an argument of a
// wrong type and the type that is expected.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <string>

#include "ops/common/operator_handle.h"
#include "ops/random.h"

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
inline constexpr const char* kExpected<std::string_view> = "a string";
template <>
inline constexpr const char* kExpected<std::vector<int64_t>> = "a sequence of integers";
template <>
inline constexpr const char* kExpected<std::optional<std::vector<c10::SymInt>>> =
    "a sequence of integers or None";

// The type that holds an argument of type T during a call, and how it is passed on.
template <class T>
struct Held {
  using Type = T;
  static const T& pass(const T& value) { return value; }
};
template <>
struct Held<at::IntArrayRef> {
  using Type = std::vector<int64_t>;
  static at::IntArrayRef pass(const Type& value) { return value; }
};
template <>
struct Held<at::OptionalSymIntArrayRef> {
  using Type = std::optional<std::vector<c10::SymInt>>;
  static at::OptionalSymIntArrayRef pass(const Type& value) {
    return value ? at::OptionalSymIntArrayRef(*value) : std::nullopt;
  }
};

template <>
struct Held<c10::SymInt> {
  using Type = int64_t;  // an eager call has no symbolic numbers
  static c10::SymInt pass(int64_t value) { return value; }
};

// An argument from Python: a value of type T, or the name of another type.
template <class T>
struct Given {
  T value{};
  const char* wrong_type = nullptr;
};

// The names of the schema's arguments; Python knows the mode by a shorter one.
inline std::string argument_name(const char* op, size_t index) {
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(op, "");
  const std::string& name = handle.schema().arguments()[index].name();
  return name == "dropout_mode" ? "mode" : name;
}

// `entry` takes an EagerCall and the arguments of the operator's schema. The binding takes the name
// of the function that Python has called, the fields of EagerCall, and the same arguments.
template <class Result, class... Arguments>
void bind_eager(py::module_& m, const char* name, const char* op,
                Result (*entry)(const EagerCall&, Arguments...)) {
  m.def(
      name,
      [=](const std::string& function, const Given<OptionalGenerator>& generator, bool draws,
          bool check_only,
          const Given<typename Held<std::decay_t<Arguments>>::Type>&... given) -> Result {
        const auto check = [&](const auto& argument, const auto& name_of) {
          using T = std::decay_t<decltype(argument.value)>;
          static_assert(kExpected<T> != nullptr);
          TORCH_CHECK_TYPE(!argument.wrong_type, function, ": ", name_of(), " is of type ",
                           argument.wrong_type, ", but expected ", kExpected<T>);
        };
        size_t index = 0;
        (check(given, [&, at = index++] { return argument_name(op, at); }), ...);
        check(generator, [] { return "generator"; });
        return entry({function.c_str(), generator.value, draws, check_only},
                     Held<std::decay_t<Arguments>>::pass(given.value)...);
      },
      py::call_guard<py::gil_scoped_release>());
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
      value.wrong_type = Py_TYPE(source.ptr())->tp_name;
    }
    return true;
  }
};

}  // namespace pybind11::detail
