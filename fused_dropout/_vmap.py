"""How torch.func.vmap maps the operators: one call for all examples, or one for each.

What neither serves runs as the composition of the operator, which vmap maps as it maps any code:
traced code, many small examples, and nested transforms.
"""

import torch
from torch._C import _functorch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

import fused_dropout._extension  # noqa: F401  (registers the operators)
from fused_dropout.functional._arguments import PLAIN_TENSORS

_OPERATORS = torch.ops.fused_dropout
_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
_THIS_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)

# Calls for each example take less time than the composition for up to so many examples, and for any
# number of examples with so many elements.
_FEW = 32
_LARGE = 4096


def _register(operator, rule=None, examples=(), shared=()):
    """Registers how vmap maps an operator.

    torch.library.register_vmap takes 0.2 ms a call, and has no way to leave calls to the
    composition.

    Args:
        operator: the operator.
        rule: function of the arguments of the operator that makes one call for all examples. It
            returns the results, and for each whether its first dimension is that of the examples.
        examples: the positions of the tensors that the rule gets with all examples along their
            first dimension.
        shared: the positions of the tensors that all examples have to have in common for the rule.
    """

    def call(*args):
        level = _functorch.maybe_current_level()
        behind = {
            i: _functorch._unwrap_batched(one, level)
            for i, one in enumerate(args)
            if isinstance(one, torch.Tensor)
        }
        batched = {i: (one, dim) for i, (one, dim) in behind.items() if dim is not None}
        if not batched:  # the tensors are batched by another vmap, around this one
            with torch._C._ExcludeDispatchKeyGuard(_THIS_KEY):
                return operator(*args)
        one, dim = next(iter(batched.values()))
        size = one.shape[dim]
        if rule is not None and not any(i in batched for i in shared):
            return at_once(size, level, args, behind)
        if _calls_each(size, behind):
            return each(level, args, batched)
        return operator._op_dk(_COMPOSITE, *args)

    def at_once(size, level, args, behind):
        args = list(args)
        with torch._C._ExcludeDispatchKeyGuard(_THIS_KEY):
            for i in behind.keys() & {*examples}:
                one, dim = behind[i]
                one = one.unsqueeze(0) if dim is None else one.movedim(dim, 0)
                args[i] = one.expand(size, *one.shape[1:])
            results = tuple(
                _functorch._add_batch_dim(one, 0, level) if has_examples else one
                for one, has_examples in rule(*args)
            )
        return results if len(results) > 1 else results[0]

    def each(level, args, batched):
        with torch._C._ExcludeDispatchKeyGuard(_THIS_KEY):
            args = list(args)
            parts = {i: one.unbind(dim) for i, (one, dim) in batched.items()}
            results = []
            for tensors in zip(*parts.values(), strict=True):
                for i, one in zip(parts, tensors, strict=True):
                    args[i] = one
                results.append(operator(*args))
            if isinstance(results[0], torch.Tensor):
                return _functorch._add_batch_dim(torch.stack(results), 0, level)
            return tuple(
                _functorch._add_batch_dim(torch.stack(ones), 0, level)
                for ones in zip(*results, strict=True)
            )

    torch.library.impl(operator.name(), "FuncTorchBatched")(call)


def _calls_each(size, behind):
    """Whether one call for each of `size` examples is better than the composition."""
    if is_in_torch_dispatch_mode() or torch.compiler.is_compiling():
        return False
    if not all(
        type(one) in PLAIN_TENSORS and not _functorch.is_functorch_wrapped_tensor(one)
        for one, _ in behind.values()
    ):
        return False
    one, dim = behind[0]
    elements = one.numel() if dim is None else one.numel() // size
    return size > 0 and (size <= _FEW or elements >= _LARGE)


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


_FORWARD = _OPERATORS.bias_act_dropout.default
_BACKWARD = _OPERATORS.bias_act_dropout_backward.default
_MASK = _OPERATORS.dropout_mask.default


def _forward(x, bias, residual, rng_state, *options):
    return [(_FORWARD(x, bias, residual, rng_state, *_with_examples(options)), True)]


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


def _masks(rng_state, *options):
    return [(_MASK(rng_state, *options), True)]


_register(_FORWARD, _forward, examples=(0, 2), shared=(1, 3, 5))
_register(_BACKWARD, _backward, examples=(0, 1), shared=(2, 3, 5))
_register(_MASK, _masks, examples=(0,))
for _name in (
    "bias_glu_dropout",
    "bias_glu_dropout_backward",
    "concrete_dropout",
    "concrete_dropout_backward",
    "drop_block",
    "drop_block_kept",
    "dropout_add_norm",
    "dropout_add_norm_backward",
    "gaussian_dropout",
    "standout",
    "standout_backward",
):
    _register(getattr(_OPERATORS, _name).default)
