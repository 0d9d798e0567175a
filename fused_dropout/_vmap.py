"""How torch.func.vmap maps the operators: one call for all examples.

Without a rule, vmap maps the composition of an operator, which `FD_REGISTER_COMPOSITE` registers
for it. That is how calls run whose examples have states or biases of their own; all of their masks
are computed in one call, too.
"""

import torch
from torch._C import _functorch

import fused_dropout._extension  # noqa: F401  (registers the operators)

_OPERATORS = torch.ops.fused_dropout
_FORWARD = _OPERATORS.bias_act_dropout.default
_BACKWARD = _OPERATORS.bias_act_dropout_backward.default
_MASK = _OPERATORS.dropout_mask.default
_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
_THIS_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


def _unwrapped(tensor):
    """The tensor behind one that is batched by the current vmap, and its batch dimension.

    The dimension is None for a tensor that is not batched.
    """
    if tensor is None:
        return None, None
    return _functorch._unwrap_batched(tensor, _functorch.maybe_current_level())


def _rule_of(operator, examples, shared=()):
    """Registers a rule of an operator for vmap.

    torch.library.register_vmap takes 0.2 ms a call, and has no way to leave calls to the
    composition.

    Args:
        operator: the operator.
        examples: the positions of the tensors that the rule gets with all examples along their
            first dimension.
        shared: the positions of the tensors that all examples have in common. If one of them is
            batched, the composition runs.

    The rule returns the results, and for each whether its first dimension is that of the examples.
    """

    def register(rule):
        def call(*args):
            args = list(args)
            if any(_unwrapped(args[i])[1] is not None for i in shared):
                return operator._op_dk(_COMPOSITE, *args)
            behind = {i: _unwrapped(args[i]) for i in examples if args[i] is not None}
            sizes = [one.shape[dim] for one, dim in behind.values() if dim is not None]
            level = _functorch.maybe_current_level()
            with torch._C._ExcludeDispatchKeyGuard(_THIS_KEY):
                if not sizes:  # the tensors are batched by another vmap, around this one
                    return operator(*args)
                for i, (one, dim) in behind.items():
                    one = one.unsqueeze(0) if dim is None else one.movedim(dim, 0)
                    args[i] = one.expand(sizes[0], *one.shape[1:])
                results = rule(*args)
            results = tuple(
                _functorch._add_batch_dim(one, 0, level) if has_examples else one
                for one, has_examples in results
            )
            return results if len(results) > 1 else results[0]

        torch.library.impl(operator.name(), "FuncTorchBatched")(call)
        return rule

    return register


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


@_rule_of(_FORWARD, examples=(0, 2), shared=(1, 3, 5))
def _forward(x, bias, residual, rng_state, *options):
    return [(_FORWARD(x, bias, residual, rng_state, *_with_examples(options)), True)]


@_rule_of(_BACKWARD, examples=(0, 1), shared=(2, 3, 5))
def _backward(dy, input, bias, rng_state, *options):
    *options, from_output, strides, dtype, bias_dtype, (needs_dx, needs_dbias) = options
    options = _with_examples(options)
    # Each example has its own gradient of the bias: a sum of dx before it is rounded.
    exact = dtype
    if needs_dbias:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
    dx, dbias = _BACKWARD(
        *(dy, input, bias, rng_state, *options),
        *(from_output, [dy[0].numel(), *strides], exact, bias_dtype, [True, False]),
    )
    if needs_dbias:
        others = {*range(1, dy.dim())} - {options[5] % dy.dim()}
        dbias = (dx.sum(tuple(others)) if others else dx).to(bias_dtype)
    return [(dx.to(dtype) if needs_dx else dx, True), (dbias, needs_dbias)]


@_rule_of(_MASK, examples=(0,))
def _masks(rng_state, *options):
    return [(_MASK(rng_state, *options), True)]
