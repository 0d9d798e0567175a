// What the torch side knows of the noise kernels: Gaussian and Concrete dropout, and Standout.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// All walk over memory without columns.
inline Layout flat_layout(int64_t numel) { return layout_for(numel, 1, 1); }

// y = x (1 + sigma z). Its own gradient.
struct GaussianArgs {
  const void* x;
  void* y;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number sigma;
};

struct ConcreteForwardArgs {
  const void* x;
  const void* logit;  // one number of arithmetic type
  void* y;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number inverse_temperature;
};

struct ConcreteBackwardArgs {
  const void* dy;
  const void* x;
  const void* logit;
  void* dx;        // null where not wanted
  void* partials;  // null where no gradient by the logit is wanted; see partial_rows
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number inverse_temperature;
};

// In training x where a unit is kept, which takes dy to dx as well; in evaluation the mean of that.
struct StandoutArgs {
  const void* x;
  const void* z;
  void* y;
  Layout layout;
  RandomState random;
  MaskIndexing mask;
  Number alpha, beta;
};

// Of evaluation.
struct StandoutBackwardArgs {
  const void* dy;
  const void* x;
  const void* z;
  void* dx;  // null where not wanted, as the next
  void* dz;
  Layout layout;
  Number alpha, beta;
};

// The sums behind the partial ones of a flat layout.
ColumnSums flat_sums(const void* partials, const Layout& layout, void* target);

void launch_gaussian(const GaussianArgs& args, Storage storage, Stream stream);
void launch_concrete_forward(const ConcreteForwardArgs& args, Storage storage, Stream stream);
void launch_concrete_backward(const ConcreteBackwardArgs& args, Storage storage, Stream stream);
void launch_standout(const StandoutArgs& args, Storage storage, bool training, Stream stream);
void launch_standout_backward(const StandoutBackwardArgs& args, Storage storage, Stream stream);

// The same for one type.
template <class T>
void gaussian_of(const GaussianArgs& args, Stream stream);
template <class T>
void concrete_forward_of(const ConcreteForwardArgs& args, Stream stream);
template <class T>
void concrete_backward_of(const ConcreteBackwardArgs& args, Stream stream);
template <class T>
void standout_of(const StandoutArgs& args, bool training, Stream stream);
template <class T>
void standout_backward_of(const StandoutBackwardArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
