"""How torch.func.vmap maps the operators: one call for all examples.

Without a rule, vmap maps the composition of an operator, which `FD_REGISTER_COMPOSITE` registers for
it. That is how calls run whose examples have states or biases of their own; all of their masks are
computed in one call, too.
"""

import torch
from torch._C import _functorch
from torch._functorch.autograd_function import custom_function_call_vmap_helper
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

import fused_dropout._extension  # noqa: F401  (registers the operators)

_OPERATORS = torch.ops.fused_dropout
_FORWARD = _OPERATORS.bias_act_dropout.default
_BACKWARD = _OPERATORS.bias_act_dropout_backward.default
_MASK = _OPERATORS.dropout_mask.default
_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd


def _is_batched(argument):
    """Whether a tensor has a value for each example of the current vmap."""
    return (
        isinstance(argument, torch.Tensor)
        and _functorch.is_batchedtensor(argument)
        and _functorch.maybe_get_level(argument) == _functorch.maybe_current_level()
    )


def _rule_of(operator, needed, shared):
    """Registers a rule for the calls that fit it; for the others, the composition.

    Args:
        operator: the operator.
        needed: names of the arguments of which one has to be batched.
        shared: names of the arguments that all examples have in common.
    """
    names = [argument.name for argument in operator._schema.arguments]
    needed, shared = ([names.index(name) for name in group] for group in (needed, shared))

    def register(rule):
        def call(*args):
            batched = [_is_batched(argument) for argument in args]
            if not any(batched[i] for i in needed) or any(batched[i] for i in shared):
                return operator._op_dk(_COMPOSITE, *args)
            interpreter = retrieve_current_functorch_interpreter()
            return custom_function_call_vmap_helper(interpreter, rule, operator, *args)

        torch.library.impl(operator.name(), "FuncTorchBatched")(call)
        return rule

    return register


def _examples(tensor, dim, size):
    """The tensor with the examples along its first dimension."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _with_examples(options):
    """The options of an operator for tensors with a first dimension more, that of the examples.

    All examples have the same mask: they share its decisions.
    """
    *others, bias_dim, mode, training, shared_dims, mask_strides, mask_offset = options
    if bias_dim >= 0:
        bias_dim += 1
    shared_dims = [0, *(dim + 1 if dim >= 0 else dim for dim in shared_dims)]
    if mask_strides is not None:
        mask_strides = [0, *mask_strides]
    return *others, bias_dim, mode, training, shared_dims, mask_strides, mask_offset


@_rule_of(_FORWARD, needed=["x"], shared=["bias", "rng_state", "p_tensor"])
def _forward(info, in_dims, x, bias, residual, rng_state, *options):
    x = _examples(x, in_dims[0], info.batch_size)
    residual = _examples(residual, in_dims[2], info.batch_size)
    return _FORWARD(x, bias, residual, rng_state, *_with_examples(options)), 0


@_rule_of(_BACKWARD, needed=["dy", "input"], shared=["bias", "rng_state", "p_tensor"])
def _backward(info, in_dims, dy, input, bias, rng_state, *options):
    *options, from_output, strides, dtype, bias_dtype, (needs_dx, needs_dbias) = options
    dy = _examples(dy, in_dims[0], info.batch_size)
    input = _examples(input, in_dims[1], info.batch_size)
    options = _with_examples(options)
    bias_dim = options[5]
    strides = [dy[0].numel(), *strides]
    # Each example has its own gradient of the bias: the sum of its gradients before they are rounded.
    exact = dtype
    if needs_dbias:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
    dx, dbias = _BACKWARD(
        *(dy, input, bias, rng_state, *options),
        *(from_output, strides, exact, bias_dtype, [True, False]),
    )
    if needs_dbias:
        others = [dim for dim in range(1, dy.dim()) if dim != bias_dim % dy.dim()]
        dbias = (dx.sum(others) if others else dx).to(bias_dtype)
    return (dx.to(dtype), dbias), (0, 0 if needs_dbias else None)


@torch.library.register_vmap(_MASK.name())
def _masks(info, in_dims, rng_state, *options):
    return _MASK(rng_state.movedim(in_dims[0], 0), *options), 0
