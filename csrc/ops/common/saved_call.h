// Saves the fields of a struct for backward, in one list of integers. Compiled autograd treats the
// elements of a list as constants of its graph; a number that is saved alone becomes an input of
// the graph, and objects are not supported.
#pragma once

#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "ops/common/arguments.h"

namespace fused_dropout {

constexpr auto kSavedCall = "call";

// `archive` is a FieldWriter or a FieldReader. p_tensor is not among the fields: it is saved with
// the other tensors, whose versions autograd checks.
template <class Archive>
void list_fields(Archive& archive, CallParams& call) {
  archive(call.p, call.activation, call.negative_slope, call.alpha, call.bias_dim, call.mode,
          call.training, call.shared_dims, call.mask_strides, call.mask_offset);
}

class FieldWriter {
 public:
  template <class... Fields>
  void operator()(Fields&... fields) {
    (write(fields), ...);
  }

  void save(torch::autograd::AutogradContext* ctx) const {
    ctx->saved_data[kSavedCall] = c10::IValue(c10::SymIntArrayRef(list_));
  }

 private:
  template <class Field>
  void write(Field& field) {
    if constexpr (std::is_enum_v<Field> || std::is_integral_v<Field>) {
      list_.emplace_back(static_cast<int64_t>(field));
    } else {
      list_fields(*this, field);
    }
  }
  void write(c10::SymInt& field) { list_.push_back(field); }
  // In two halves: SymInt does not represent all 64-bit integers.
  void write(double& field) {
    uint64_t bits;
    std::memcpy(&bits, &field, sizeof bits);
    list_.emplace_back(static_cast<int64_t>(bits >> 32));
    list_.emplace_back(static_cast<int64_t>(bits & 0xFFFFFFFF));
  }
  template <class Field>
  void write(std::vector<Field>& field) {
    list_.emplace_back(static_cast<int64_t>(field.size()));
    for (Field& element : field) write(element);
  }
  template <class Field>
  void write(std::optional<Field>& field) {
    list_.emplace_back(int64_t{field.has_value()});
    if (field) write(*field);
  }

  c10::SmallVector<c10::SymInt, 48> list_;
};

class FieldReader {
 public:
  explicit FieldReader(torch::autograd::AutogradContext* ctx)
      : next_(ctx->saved_data[kSavedCall].toListRef().begin()) {}

  template <class... Fields>
  void operator()(Fields&... fields) {
    (read(fields), ...);
  }

 private:
  int64_t next() { return (next_++)->toInt(); }

  template <class Field>
  void read(Field& field) {
    if constexpr (std::is_enum_v<Field> || std::is_integral_v<Field>) {
      field = static_cast<Field>(next());
    } else {
      list_fields(*this, field);
    }
  }
  void read(c10::SymInt& field) { field = (next_++)->toSymInt(); }
  void read(double& field) {
    const uint64_t high = next(), bits = high << 32 | next();
    std::memcpy(&field, &bits, sizeof bits);
  }
  template <class Field>
  void read(std::vector<Field>& field) {
    field.resize(next());
    for (Field& element : field) read(element);
  }
  template <class Field>
  void read(std::optional<Field>& field) {
    if (next()) read(field.emplace());
  }

  const c10::IValue* next_;  // in the list
};

// The saved state for the gradient `dy`, which may be on another device than a state on the CPU. A
// traced backward gets the state on the device of dy, since tracers expect one device.
inline OptionalTensor saved_state(const Tensor& rng_state, const Tensor& dy) {
  if (!rng_state.defined()) return {};
  if (rng_state.device() == dy.device() || has_no_wrapper(dy)) return rng_state;
  return rng_state.to(dy.device());
}

template <class Call>
void save_call(torch::autograd::AutogradContext* ctx, Call& call) {
  FieldWriter writer;
  list_fields(writer, call);
  writer.save(ctx);
}

template <class Call>
Call read_call(torch::autograd::AutogradContext* ctx) {
  Call call{};
  FieldReader reader(ctx);
  list_fields(reader, call);
  return call;
}

}  // namespace fused_dropout
