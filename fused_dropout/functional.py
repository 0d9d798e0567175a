"""Functional interface. Shapes and dtypes are those of torch; see the README for the mask."""

import torch
from torch.overrides import has_torch_function_variadic

from fused_dropout._extension import _C

__all__ = ["bias_act_dropout", "bias_dropout_add", "dropout", "dropout_mask"]

ACTIVATIONS = tuple(_C.ACTIVATIONS)
MODES = ("inverted", "classic", "alpha")


def dropout(
    x,
    p=0.5,
    training=True,
    inplace=False,
    *,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    """Dropout, without storing a mask.

    Equivalent PyTorch code, with ``kept`` the mask of :func:`dropout_mask` and ``q`` the
    probability to keep, ``round((1 - p) * 65536) / 65536``::

        torch.where(kept, x / q, 0)         # mode="inverted": torch.nn.functional.dropout
        torch.where(kept, x, 0)             # mode="classic"; x * q when not training
        torch.where(kept, a * x + b, c)     # mode="alpha": torch.nn.functional.alpha_dropout

    Unlike in torch, a NaN or an infinity at a dropped place is dropped too.

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16.
        p: probability to drop an element, in steps of 2^-16; a 0-d float64 CPU tensor can take new
            values under ``torch.compile`` without a new graph.
        training: without it, inverted and alpha mode return ``x`` itself.
        inplace: write the result into ``x``.
        shared_dims: dimensions along which elements share one decision.
        noise_shape: the same in Keras's spelling: the shape of the mask, with 1 where shared and
            None (or the size) where not.
        mode: "inverted", "classic" or "alpha".
        generator: a ``torch.Generator`` to draw from; not under ``torch.compile``.
        rng_state: replays the call that used this state (:func:`fused_dropout.new_rng_state`).

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was.
            Nothing is computed then, and no random number is drawn.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 2014; alpha: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """
    p = _probability(p)
    if mode not in MODES:
        raise ValueError(f"dropout: mode is {mode!r}, but expected one of {', '.join(MODES)}")
    if not training and mode != "classic":
        return x
    if _is_zero(p) or x.numel() == 0:
        return x
    if inplace:
        return _dropout_(x, p, training, shared_dims, noise_shape, mode, generator, rng_state)
    return _apply(
        "dropout",
        x,
        None,
        None,
        p,
        "identity",
        training,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
    )


def bias_act_dropout(
    x,
    bias=None,
    p=0.5,
    activation="gelu",
    training=True,
    *,
    residual=None,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    """``residual + dropout(activation(x + bias))`` in one pass over memory.

    Equivalent PyTorch code, for ``bias_dim=-1``::

        residual + F.dropout(F.gelu(x + bias), p, training)

    Backward is one pass as well, the bias gradient included: it accumulates in fp32 in a fixed
    order and has the same bits on every run. No mask is stored.

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16.
        bias: 1-D, as long as ``x`` along ``bias_dim``; in ``x``'s dtype or float32. Or None.
        p: probability to drop an element, in steps of 2^-16 (see :func:`dropout`).
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        training: without it nothing is dropped (and classic mode multiplies by the probability to
            keep).
        residual: of ``x``'s shape, in ``x``'s dtype or float32. Or None.
        bias_dim: the dimension of ``x`` that ``bias`` belongs to: -1 after linear layers, 1 after
            convolutions.
        negative_slope: of leaky_relu; 0.01 if None.
        alpha: of elu; 1 if None.
        shared_dims, noise_shape, mode, generator, rng_state: see :func:`dropout`.

    Returns:
        Tensor: of ``x``'s shape; its dtype is ``x``'s, or ``torch.promote_types(x.dtype,
        residual.dtype)``. Arithmetic is fp32 (fp64 for float64) with one rounding at the end.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: as for :func:`dropout`.
    """
    return _apply(
        "bias_act_dropout",
        x,
        bias,
        residual,
        _probability(p),
        activation,
        training,
        bias_dim=bias_dim,
        negative_slope=negative_slope,
        alpha=alpha,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
    )


def bias_dropout_add(
    x,
    bias,
    residual,
    p=0.5,
    training=True,
    *,
    bias_dim=-1,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    """``residual + dropout(x + bias)`` in one pass: the end of a transformer's sub-layer.

    Equivalent PyTorch code, for ``bias_dim=-1``::

        residual + F.dropout(x + bias, p, training)

    Arguments, result and errors are those of :func:`bias_act_dropout` with the identity as the
    activation; ``bias`` may be None.
    """
    return _apply(
        "bias_dropout_add",
        x,
        bias,
        residual,
        _probability(p),
        "identity",
        training,
        bias_dim=bias_dim,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
    )


def dropout_mask(shape, p, rng_state, *, like=None, shared_dims=(), device=None):
    """The mask that a call with this state applies.

    Args:
        shape: of the tensor that the mask is for.
        p: probability to drop.
        rng_state: the call's state.
        like: a tensor of that shape whose strides the mask follows; contiguous if None. Which
            random number decides about an element depends on the order of the dimensions in memory.
        shared_dims: as in the call.
        device: of the result; that of ``rng_state`` if None.

    Returns:
        Tensor: bool, of the given shape, True where an element is kept.
    """
    p = float(_probability(p))
    memory = (
        torch.empty(shape, device="meta") if like is None else torch.empty_like(like, device="meta")
    )
    if tuple(memory.shape) != tuple(shape):
        raise ValueError(
            f"dropout_mask: like has shape {tuple(memory.shape)}, but expected {tuple(shape)}"
        )
    return torch.ops.fused_dropout.dropout_mask(
        rng_state if device is None else rng_state.to(device),
        memory.shape,
        memory.stride(),
        p,
        _normalized_dims("dropout_mask", shared_dims, memory.dim()),
        None,
        0,
    )


def _normalized_dims(function, dims, ndim):
    for dim in dims:
        if not -ndim <= dim < ndim:
            raise IndexError(f"{function}: shared_dims has {dim}, but x has {ndim} dimensions")
    dims = [dim % ndim for dim in dims]
    if len(set(dims)) != len(dims):
        raise ValueError(f"{function}: shared_dims names a dimension twice: {dims}")
    return dims


def _probability(p):
    """A number, or, under torch.compile, a tensor whose value is read when the graph runs."""
    if isinstance(p, torch.Tensor):
        if p.requires_grad:
            raise TypeError(
                "dropout probability p is a constant, but got a tensor that requires grad"
            )
        if p.dim() != 0:
            raise TypeError(
                f"dropout probability p is a scalar, but got a tensor of shape {tuple(p.shape)}"
            )
        if torch.compiler.is_compiling():
            return p.to(torch.float64)
        p = p.item()
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return p


def _is_zero(p):
    return not isinstance(p, torch.Tensor) and p == 0


def _shared_dims(function, x, shared_dims, noise_shape):
    if noise_shape is None:
        return shared_dims
    if shared_dims:
        raise ValueError(
            f"{function}: shared_dims is {tuple(shared_dims)} and noise_shape is "
            f"{tuple(noise_shape)}, but only one of them can be given"
        )
    if len(noise_shape) != x.dim():
        raise ValueError(
            f"{function}: noise_shape has {len(noise_shape)} entries, but x has {x.dim()} "
            "dimensions"
        )
    shared = []
    for dim, (size, wanted) in enumerate(zip(x.shape, noise_shape, strict=True)):
        if wanted is None or wanted == size:
            continue
        if wanted != 1:
            raise ValueError(
                f"{function}: noise_shape has {wanted} in dimension {dim}, but expected 1, None or "
                f"x's size {size}"
            )
        shared.append(dim)
    return shared


def _state(function, x, p, training, generator, rng_state):
    """The state of a call that goes through `torch.ops`; None where nothing is drawn."""
    if not training:
        return None
    tensor_p = p if isinstance(p, torch.Tensor) else None
    if tensor_p is None and (p == 0 or p == 1):
        return None
    if rng_state is not None:
        return rng_state
    if generator is not None and torch.compiler.is_compiling():
        raise TypeError(
            f"{function}: a generator cannot be an input of a compiled graph; draw a state outside "
            "with fused_dropout.new_rng_state(device, generator) and pass it as rng_state="
        )
    if not torch.compiler.is_compiling():
        return torch.ops.fused_dropout.draw_rng_state(x, tensor_p, generator=generator)
    # A fresh token for each call: see new_rng_state.
    token = torch.empty(2, dtype=torch.int64, device=x.device)
    return torch.ops.fused_dropout.draw_rng_state(token, tensor_p)


def _apply(
    function,
    x,
    bias,
    residual,
    p,
    activation,
    training,
    *,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    if noise_shape is not None:
        shared_dims = _shared_dims(function, x, shared_dims, noise_shape)
    if not torch.compiler.is_compiling() and not has_torch_function_variadic(x, bias, residual):
        return _C.bias_act_dropout(
            function,
            x,
            bias,
            residual,
            p,
            activation,
            training,
            bias_dim,
            negative_slope,
            alpha,
            shared_dims,
            mode,
            generator,
            rng_state,
        )
    tensor_p = p if isinstance(p, torch.Tensor) else None
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check(
            function,
            x,
            bias,
            residual,
            p,
            activation,
            bias_dim,
            negative_slope,
            alpha,
            shared_dims,
            mode,
            rng_state,
        )
    return torch.ops.fused_dropout.bias_act_dropout(
        x,
        bias,
        residual,
        _state(function, x, p, training, generator, rng_state),
        0.5 if tensor_p is not None else float(p),
        tensor_p,
        activation,
        negative_slope,
        alpha,
        bias_dim,
        mode,
        training,
        list(shared_dims),
        None,
        0,
    )


def _dropout_(x, p, training, shared_dims, noise_shape, mode, generator, rng_state):
    shared_dims = _shared_dims("dropout", x, shared_dims, noise_shape)
    if not torch.compiler.is_compiling() and not has_torch_function_variadic(x):
        return _C.dropout_("dropout", x, p, training, shared_dims, mode, generator, rng_state)
    tensor_p = p if isinstance(p, torch.Tensor) else None
    if not torch.compiler.is_compiling():
        _C.check_("dropout", x, p, training, shared_dims, mode, rng_state)
    torch.ops.fused_dropout.dropout_(
        x,
        _state("dropout", x, p, training, generator, rng_state),
        0.5 if tensor_p is not None else float(p),
        tensor_p,
        mode,
        training,
        list(shared_dims),
        None,
        0,
    )
    return x


# Tools that trace symbolically record calls of these instead of looking inside.
for _name in ("dropout", "bias_act_dropout", "bias_dropout_add"):
    torch.fx.wrap(_name)
