"""The ways to compute a case: fused, eager, compiled, and a copy as the baseline.

On a GPU, Triton kernels compute plain dropout too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from .cases import CASES, Case, P

_TRITON = ("triton", "triton4")
PROVIDERS = ("fused", "eager", "compile", "copy", *_TRITON)


def providers_of(case: str, device: str) -> tuple[str, ...]:
    """Returns the providers that can compute a case on a device."""
    has_triton = case == "dropout" and device == "cuda"
    left_out = set() if has_triton else set(_TRITON)
    if not CASES[case].compiled:
        left_out.add("compile")
    return tuple(name for name in PROVIDERS if name not in left_out)


@dataclass
class Provider:
    """A call without arguments, and the tensors that get gradients (none: forward only)."""

    name: str
    forward: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]
    tensors: dict[str, torch.Tensor]
    wrt: list[torch.Tensor] = field(default_factory=list)

    def backward(self, y, dy):
        """Returns the gradients without accumulating them, and frees the graph."""
        return torch.autograd.grad(y, self.wrt, dy)


def outputs_of(y) -> tuple[torch.Tensor, ...]:
    """Returns the result of a case as a tuple."""
    return y if isinstance(y, tuple) else (y,)


def make_inputs(case: Case, shape, dtype, device: str) -> tuple[dict, tuple[torch.Tensor, ...]]:
    """Returns the inputs by name, and upstream gradients. Those in `case.grads` require grad."""
    generator = torch.Generator(device).manual_seed(0)

    def new(*size):
        return torch.randn(size, dtype=dtype, device=device, generator=generator)

    def shape_only(*size):
        return torch.empty(size, dtype=dtype, device="meta")

    tensors = case.inputs(new, *shape)
    results = outputs_of(case.eager(P, **case.inputs(shape_only, *shape)))
    dy = tuple(new(*result.shape) for result in results)
    for name in case.grads:
        tensors[name].requires_grad_()
    return tensors, dy


def make_provider(name: str, case: Case, tensors: dict[str, torch.Tensor]) -> Provider:
    """Returns the provider `name` of a case. Raises an error if it is not available."""
    if name == "copy":
        x = tensors["x"].detach()
        return Provider(name, partial(torch.empty_like(x).copy_, x), tensors)
    if name == "fused":
        import fused_dropout.functional as FF

        call = partial(case.fused, FF, P, **tensors)
    elif name in _TRITON:
        from .triton_dropout import FUNCTIONS

        call = partial(FUNCTIONS[name], P, **tensors)
    else:
        function = torch.compile(case.eager) if name == "compile" else case.eager
        call = partial(function, P, **tensors)
    return Provider(name, call, tensors, [tensors[g] for g in case.grads])
