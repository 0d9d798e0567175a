"""Pointwise calls inside the gradients of torch.func.

Its transforms take autograd functions in Python, and none in C++. Without these, autograd would
record the composition of the operators.
"""

from dataclasses import dataclass

import torch
from torch._C import _are_functorch_transforms_active, _functorch

_OPERATORS = torch.ops.fused_dropout
_FORWARD = _OPERATORS.bias_act_dropout.default
_BACKWARD = _OPERATORS.bias_act_dropout_backward.default
_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
_GRAD, _VMAP = _functorch.TransformType.Grad, _functorch.TransformType.Vmap

# Elements of a call, or of an example of vmap, for which these functions take about the time of the
# composition. Smaller ones take at most 2 ms more.
_SMALL = 2**16


def is_inside_gradient(x):
    """Whether these functions serve a call, and are worth it.

    The call is inside ``torch.func.grad`` or its kin, and inside vmap at most besides: forward mode
    needs the composition.
    """
    if not _are_functorch_transforms_active() or x.numel() < _SMALL:
        return False
    keys = {one.key() for one in _functorch.get_interpreter_stack()}
    return _GRAD in keys and keys <= {_GRAD, _VMAP}


def bias_act_dropout(x, bias, residual, rng_state, *options):
    """The operator of this name."""
    return _BiasActDropout.apply(x, bias, residual, rng_state, _Options(options))


@dataclass
class _Options:
    """The other arguments of an operator. To the transforms it is one object."""

    values: tuple


class _BiasActDropout(torch.autograd.Function):
    @staticmethod
    def forward(*args):
        return _call(_FORWARD, *args)

    @staticmethod
    def vmap(info, in_dims, *args):
        return _mapped(_FORWARD, in_dims, args), 0

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, bias, residual, rng_state, options = inputs
        ctx.options = options
        ctx.gradient = output.stride(), x.dtype, None if bias is None else bias.dtype
        ctx.residual_dtype = None if residual is None else residual.dtype
        activation = options.values[2]
        saved = (None, None) if activation == "identity" else (x, bias)
        ctx.save_for_backward(*saved, rng_state)

    @staticmethod
    def backward(ctx, dy):
        needs_x, needs_bias, needs_residual, *_ = ctx.needs_input_grad
        dx = dbias = None
        if needs_x or needs_bias:
            options = (*ctx.options.values, False, *ctx.gradient, [needs_x, needs_bias])
            dx, dbias = _BiasActDropoutBackward.apply(dy, *ctx.saved_tensors, _Options(options))
        return (
            dx if needs_x else None,
            dbias if needs_bias else None,
            dy.to(ctx.residual_dtype) if needs_residual else None,
            None,
            None,
        )


class _BiasActDropoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(*args):
        return _call(_BACKWARD, *args)

    @staticmethod
    def vmap(info, in_dims, *args):
        return _mapped(_BACKWARD, in_dims, args), (0, 0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, rng_state = ctx.saved_tensors
        given = [i for i, one in enumerate(tensors) if one is not None]

        def composition(*some):
            for i, one in zip(given, some, strict=True):
                tensors[i] = one
            return _BACKWARD._op_dk(_COMPOSITE, *tensors, rng_state, *ctx.options.values)

        _, gradients_of = torch.func.vjp(composition, *(tensors[i] for i in given))
        found = dict(zip(given, gradients_of(grads), strict=True))
        return *(found.get(i) for i in range(len(tensors))), None, None


def _call(operator, *args):
    *tensors, options = args
    return operator(*tensors, *options.values)


def _mapped(operator, in_dims, args):
    """The results of an operator for all examples."""
    batched = [i for i, dim in enumerate(in_dims) if dim is not None]

    def call(*examples):
        given = list(args)
        for i, one in zip(batched, examples, strict=True):
            given[i] = one
        return _call(operator, *given)

    return torch.vmap(call, tuple(in_dims[i] for i in batched))(*(args[i] for i in batched))
