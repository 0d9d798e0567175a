"""The one way from the arguments of a function to an operator."""

import functools

import torch
from torch.compiler import is_compiling
from torch.overrides import has_torch_function

from fused_dropout._extension import _C
from fused_dropout.functional._arguments import check_generator, check_tensor, shared_dims_of
from fused_dropout.functional._devices import has_kernels, warn_without_kernels
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._shard_layout import shard_layout
from fused_dropout.functional._transforms import is_inside_gradient


class Operator:
    """An operator, and which of its tensors may be nested beside a nested ``x``.

    Args:
        name: of the operator in ``torch.ops.fused_dropout``, and of its eager call in the extension
            module.
        unfused: the same by torch's functions, see `_unfused`.
        traced: called with ``x``, the other tensors, a state and options; the operator if None.
        in_gradient: the same, inside the gradients of ``torch.func``, see `_transforms`.
        same: tensors of the shape of ``x``, as a dict from the argument's name to its position.
        rows: tensors of that shape without the last dimension, in the same way.
        last: how many of the last dimensions have to be regular.
        full_rows: whether a part of a sharded tensor needs full rows.
        has_mask: whether the operator takes the three options of a mask.
        sizes_of: function from ``x`` to the sizes of the mask; those of ``x`` if None.
        bias_dim: position of the option of this name, if there is one.
    """

    def __init__(
        self,
        name,
        unfused,
        traced=None,
        *,
        in_gradient=None,
        same=None,
        rows=None,
        last=0,
        full_rows=False,
        has_mask=True,
        sizes_of=None,
        bias_dim=None,
    ):
        self.eager = getattr(_C, name)
        self.unfused = unfused
        self.traced = traced or getattr(torch.ops.fused_dropout, name)
        self.in_gradient = in_gradient
        self.same = same or {}
        self.rows = rows or {}
        self.last = last
        self.full_rows = full_rows
        self.has_mask = has_mask
        self.sizes_of = sizes_of
        self.bias_dim = bias_dim


def call(
    operator,
    function,
    tensors,
    options,
    draws,
    p_tensor,
    shared_dims,
    noise_shape,
    generator,
    rng_state,
    shard,
    results=None,
):
    """Calls an operator with a state that is given or drawn.

    Args:
        function: the name that error messages carry.
        tensors: of the operator, ``x`` first.
        options: of the operator between its state and its mask, in the order of the schema.
        draws: whether the call needs a state if ``x`` has elements.
        p_tensor: the probability if it is a tensor, that is under ``torch.compile``.
        shared_dims, noise_shape, generator, rng_state, shard: as the functions take them.
        results: index or slice of the results of the operator to return; all if None.
    """
    if getattr(tensors[0], "is_nested", False):
        call_dense = functools.partial(
            call, operator, function, draws=draws, p_tensor=p_tensor, generator=generator,
            rng_state=rng_state, shard=None, results=results,
        )  # fmt: skip
        return _on_nested(
            operator, function, call_dense, tensors, options, shared_dims, noise_shape, shard
        )
    if noise_shape is not None:
        shared_dims = shared_dims_of(
            function, tensors[0], shared_dims, noise_shape, operator.sizes_of, shard
        )
    if not getattr(tensors[0], "is_cpu", True) and not has_kernels(tensors[0]):
        warn_without_kernels(tensors[0].device)
        # Only this package's own masks follow from a state or a generator, or fit to a shard.
        if not draws or (rng_state is None and generator is None and shard is None):
            mask = (shared_dims, None, 0) if operator.has_mask else ()
            check(operator, function, tensors, (*options, *mask), rng_state, generator)
            found = operator.unfused(tensors, options, shared_dims)
            return found if results is None else found[results]
    mask_strides, mask_offset = None, 0
    if shard is not None:
        check(operator, function, tensors, (*options, shared_dims, None, 0), rng_state, generator)
        mask_strides, mask_offset = shard_layout(
            function, tensors[0], shard, shared_dims, operator.sizes_of, operator.full_rows
        )
        draws = draws and 0 not in shard.shape
    mask = (shared_dims, mask_strides, mask_offset) if operator.has_mask else ()
    plain = is_plain(tensors)
    traced = operator.traced
    if plain and operator.in_gradient is not None and is_inside_gradient(tensors[0]):
        plain, traced = False, operator.in_gradient
    if plain:
        found = operator.eager(
            function, generator, draws, False, *tensors, rng_state, *options, *mask
        )
        return found if results is None else found[results]
    if shard is None:
        check(operator, function, tensors, (*options, *mask), rng_state, generator)
    if operator.has_mask:
        mask = (list(shared_dims), mask_strides, mask_offset)
    state = state_for(function, tensors[0], draws, p_tensor, generator, rng_state)
    found = traced(*tensors, state, *options, *mask)
    return found if results is None else found[results]


def check(operator, function, tensors, options, rng_state, generator):
    """Checks the arguments of a call before a state is drawn; traced code does so by itself.

    Args:
        options: those of the mask too.
    """
    if not is_compiling():
        operator.eager(function, generator, False, True, *tensors, rng_state, *options)


def is_plain(tensors):
    """Whether a call can go through the extension module rather than through ``torch.ops``."""
    return not is_compiling() and not has_torch_function(tensors)


def state_for(function, x, draws, p_tensor, generator, rng_state):
    """The state of a call through ``torch.ops``: given or drawn, or None if it needs none."""
    if not draws:
        return None
    if rng_state is not None:
        check_tensor(function, "rng_state", rng_state)
        if rng_state.is_cpu and x.is_cuda:  # tracers expect one device
            return rng_state.to(x.device)
        return rng_state
    check_generator(function, generator)
    if not is_compiling():
        return torch.ops.fused_dropout.draw_rng_state(x, p_tensor, generator=generator)
    if generator is not None:
        raise TypeError(
            f"{function}: a generator cannot be an input of a compiled graph; draw a state outside "
            "with fused_dropout.new_rng_state(device, generator) and pass it as rng_state="
        )
    # A fresh token for each call: see new_rng_state.
    token = torch.empty(2, dtype=torch.int64, device=x.device)
    return torch.ops.fused_dropout.draw_rng_state(token, p_tensor)


def _on_nested(operator, function, call_dense, tensors, options, shared_dims, noise_shape, shard):
    """The same for a nested ``x``.

    Args:
        call_dense: calls the operator with the tensor of the values of ``x``.
    """
    x, *others = tensors
    translated = {**operator.same, **operator.rows}
    bias_dim = None
    if operator.bias_dim is not None and others[0] is not None:
        bias_dim = options[operator.bias_dim]

    def on_dense(values, shared_dims=(), noise_shape=None, bias_dim=bias_dim, **given):
        moved = [values, *others]
        for name, tensor in given.items():
            moved[translated[name]] = tensor
        moved_options = list(options)
        if bias_dim is not None:
            moved_options[operator.bias_dim] = bias_dim
        return call_dense(
            tensors=moved, options=moved_options, shared_dims=shared_dims, noise_shape=noise_shape
        )

    return on_values(
        function,
        on_dense,
        x,
        same={name: tensors[position] for name, position in operator.same.items()},
        rows={name: tensors[position] for name, position in operator.rows.items()},
        last=operator.last,
        bias_dim=bias_dim,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        shard=shard,
    )
