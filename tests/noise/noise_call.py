"""A call of a noise function: ours, the reference's and PyTorch's way to compute the same."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import state, ulp

STATE = state()
# Arguments of the operators that the functions do not have, and the state.
OPERATOR_ARGUMENTS = {
    "rng_state": STATE,
    "p_tensor": None,
    "shared_dims": [],
    "mask_strides": None,
    "mask_offset": 0,
}


@dataclass(frozen=True, eq=False)
class NoiseCall:
    """A noise function with its arguments. Tensors are dicts by argument."""

    function: str  # also the name of the operator, and of the function of the reference
    arguments: dict  # the numbers that it takes
    unfused: Callable  # plain torch operators, each of which rounds, with the same draws
    module: type
    functor: str  # the kernel, in csrc/math/noise.h
    constants: Callable = lambda **arguments: list(arguments.values())  # those of the functor
    elementwise: tuple = ("x",)  # tensors of the shape of x
    scalars: dict = field(default_factory=dict)  # tensors of one element, and their values
    differentiable: tuple = ("x",)
    saved: tuple = ()  # tensors that backward reads
    backward: str | None = None  # the operator of the gradient, if it is not the function on dy
    backward_functor: str | None = None  # its kernel, if it is not the functor on dy
    draws: bool = True
    evaluation: str | None = None  # the name of this call in evaluation, if it is not the identity
    module_options: dict = field(default_factory=dict)  # that the module takes besides `arguments`
    module_tensors: Callable = lambda module, x: {"x": x}  # of the function that the module calls

    def tensors_of(self, shape, dtype=torch.float32, seed=0, scalar_dtype=None):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: torch.randn(shape, generator=generator).to(dtype) for key in self.elementwise
        }
        for key, value in self.scalars.items():
            tensors[key] = torch.tensor(value, dtype=scalar_dtype or dtype)
        return {key: tensor.requires_grad_() for key, tensor in tensors.items()}

    def map_elementwise(self, function, tensors):
        """The tensors, with those that have the shape of x as this function returns them."""
        return {k: function(t) if k in self.elementwise else t for k, t in tensors.items()}

    def make_module(self, **factory):
        """The module. `factory` (device, dtype) is for modules that have parameters."""
        return self.module(
            **self.arguments, **self.module_options, **(factory if self.scalars else {})
        )

    def __call__(self, tensors, **options):
        """The function as a user calls it: it draws a state, unless one is given."""
        given = {"training": self.draws, **self.arguments, **tensors, **options}
        return getattr(FF, self.function)(**given)

    def of_x(self, x, **options):
        """The function of one tensor, from which the others are made."""
        scalars = {k: torch.tensor(value, device=x.device) for k, value in self.scalars.items()}
        return self({**dict.fromkeys(self.elementwise, x), **scalars}, **options)

    def ours(self, tensors, rng_state=STATE, **options):
        return self(tensors, rng_state=rng_state, **options)

    def theirs(self, tensors, rng_state=STATE, **options):
        """The reference, in any dtype."""
        if not self.draws:
            options["training"] = False
        given = {**self.arguments, **tensors, **options}
        return getattr(reference, self.function)(**given, rng_state=rng_state)

    def operator_call(self, tensors, name=None, **given):
        """An operator, by default that of the function, and its arguments."""
        operator = getattr(torch.ops.fused_dropout, name or self.function).default
        values = {
            **OPERATOR_ARGUMENTS,
            "training": self.draws,
            **self.arguments,
            **tensors,
            **given,
        }
        names = [argument.name for argument in operator._schema.arguments]
        return operator, tuple(values[one] for one in names if one in values)

    def operator(self, tensors, **given):
        """The operator, with options that the function does not have: mask strides and offset."""
        operator, arguments = self.operator_call(tensors, **given)
        return operator(*arguments)

    def backward_call(self, tensors, dy, strides, **given):
        """The operator of the gradient, and its arguments."""
        if self.backward is None:
            return self.operator_call(tensors | {"x": dy}, strides=strides, **given)
        dtypes = {f"{key}_dtype": tensor.dtype for key, tensor in tensors.items()}
        values = {"dy": dy, "strides": strides, "output_mask": [True, True], **dtypes, **given}
        return self.operator_call(tensors, self.backward, **values)

    def gradients_of(self, result, tensors, upstream):
        found = torch.autograd.grad(
            result,
            [tensors[key] for key in self.differentiable],
            upstream.to(result.dtype),
            retain_graph=True,
        )
        return dict(zip(self.differentiable, found, strict=True))

    def check_values(self, tensors, result, gradients, rng_state=STATE, **options):
        """A result and its gradients (by name), against the reference in fp64.

        Tolerance: the largest error is at most twice that of the unfused operators in the same
        dtype and with the same noise, plus four ULP of the largest number, or of 1. The gradient by
        a scalar is a sum: its unit is an ULP of the sum of its terms' magnitudes. In fp64 256 ULP
        are free.
        """
        upstream = upstream_of(result)
        wide = in_dtype(tensors, torch.float64)
        exact = self.theirs(wide, rng_state, **options)
        expected = self.gradients_of(exact, wide, upstream)
        usual, usual_gradients = exact, expected
        if not options:
            usual = self.unfused(**tensors, rng_state=rng_state, **self.arguments)
            usual_gradients = self.gradients_of(usual, tensors, upstream)
        rows = [("result", result, exact, usual)]
        rows += [(key, gradients[key], expected[key], usual_gradients[key]) for key in gradients]
        for what, one, truth, other in rows:
            unit = ulp(truth.detach().abs().max().clamp(min=1), one.dtype)
            if what in self.scalars:
                unit = unit * max(tensors["x"].numel(), 1) ** 0.5
            error = (one.double() - truth).abs().max()
            if one.dtype == torch.float64:
                assert error <= 256 * unit, (what, error)
            else:
                bound = 2 * (other.double() - truth).abs().max() + 4 * unit
                assert error <= bound, (what, error, bound)


def in_dtype(tensors, dtype):
    """The same numbers in another dtype, as leaves."""
    return {
        key: value.detach().to(dtype).requires_grad_(value.requires_grad)
        for key, value in tensors.items()
    }


def upstream_of(result, seed=1):
    """A gradient that is nowhere constant and has a mean."""
    generator = torch.Generator().manual_seed(seed)
    return (0.3 + torch.randn(result.shape, generator=generator)).to(result.dtype)
