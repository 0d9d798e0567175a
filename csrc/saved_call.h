// What autograd saves of a call besides tensors: the fields of a struct, in a list of integers.
// Compiled autograd takes the elements of lists for constants of its graph, but makes inputs of
// numbers that are saved by themselves, and refuses objects.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "ops.h"

namespace fused_dropout {

constexpr auto kSavedCall = "call";

// `archive` takes the fields to save, or to fill. Of a call that is what options() gives, without
// p_tensor: it is saved with the other tensors, whose versions autograd checks.
template <class Archive>
void list_fields(Archive& archive, Resolved& call) {
  archive(call.p, call.activation, call.negative_slope, call.alpha, call.bias_dim, call.mode,
          call.training, call.shared_dims, call.mask_strides, call.mask_offset);
}

class FieldWriter {
 public:
  FieldWriter() { numbers_.reserve(32); }

  template <class... Fields>
  void operator()(Fields&... fields) {
    (write(fields), ...);
  }

  void save(torch::autograd::AutogradContext* ctx) && {
    ctx->saved_data[kSavedCall] = c10::IValue(c10::SymIntArrayRef(numbers_));
  }

 private:
  template <class Field>
  void write(Field& field) {
    if constexpr (std::is_enum_v<Field> || std::is_integral_v<Field>) {
      numbers_.emplace_back(static_cast<int64_t>(field));
    } else {
      list_fields(*this, field);
    }
  }
  void write(c10::SymInt& field) { numbers_.push_back(field); }
  // In halves, as an integer of 64 bits may be more than a SymInt holds by itself.
  void write(double& field) {
    uint32_t halves[2];
    std::memcpy(halves, &field, sizeof(halves));
    for (const uint32_t half : halves) numbers_.emplace_back(int64_t{half});
  }
  template <class Field>
  void write(std::vector<Field>& field) {
    numbers_.emplace_back(static_cast<int64_t>(field.size()));
    for (Field& element : field) write(element);
  }
  template <class Field>
  void write(std::optional<Field>& field) {
    numbers_.emplace_back(int64_t{field.has_value()});
    if (field) write(*field);
  }

  std::vector<c10::SymInt> numbers_;
};

class FieldReader {
 public:
  explicit FieldReader(torch::autograd::AutogradContext* ctx)
      : numbers_(ctx->saved_data[kSavedCall].toSymIntVector()) {}

  template <class... Fields>
  void operator()(Fields&... fields) {
    (read(fields), ...);
  }

 private:
  int64_t next_number() { return numbers_[next_++].expect_int(); }

  template <class Field>
  void read(Field& field) {
    if constexpr (std::is_enum_v<Field> || std::is_integral_v<Field>) {
      field = static_cast<Field>(next_number());
    } else {
      list_fields(*this, field);
    }
  }
  void read(c10::SymInt& field) { field = std::move(numbers_[next_++]); }
  void read(double& field) {
    uint32_t halves[2];
    for (uint32_t& half : halves) half = static_cast<uint32_t>(next_number());
    std::memcpy(&field, halves, sizeof(field));
  }
  template <class Field>
  void read(std::vector<Field>& field) {
    field.resize(next_number());
    for (Field& element : field) read(element);
  }
  template <class Field>
  void read(std::optional<Field>& field) {
    if (next_number()) read(field.emplace());
  }

  std::vector<c10::SymInt> numbers_;
  size_t next_ = 0;
};

template <class Call>
void save_call(torch::autograd::AutogradContext* ctx, Call& call) {
  FieldWriter writer;
  list_fields(writer, call);
  std::move(writer).save(ctx);
}

template <class Call>
Call read_call(torch::autograd::AutogradContext* ctx) {
  Call call{};
  FieldReader reader(ctx);
  list_fields(reader, call);
  return call;
}

}  // namespace fused_dropout
