"""Calls of the operators that work row by row, with the reference and unfused PyTorch operators.

A call is a name in CALLS. Its tensors are a dict by argument; `ours`, `theirs` (the reference, in
any dtype) and `unfused` (plain torch operators, each of which rounds) take them. All three return a
tuple of results.
"""

import functools

import pytest
import torch
import torch.nn.functional as F

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import state, ulp

P = 0.3
STATE = state()


def _norm(norm, prenorm, full):
    return {"norm": norm, "prenorm": prenorm, "full": full}


CALLS = {
    "layer_norm": _norm("layer_norm", False, False),
    "layer_norm_prenorm": _norm("layer_norm", True, False),
    "layer_norm_full": _norm("layer_norm", False, True),
    "layer_norm_prenorm_full": _norm("layer_norm", True, True),
    "rms_norm": _norm("rms_norm", False, False),
    "rms_norm_prenorm": _norm("rms_norm", True, False),
    "rms_norm_full": _norm("rms_norm", False, True),
    "swiglu": {"activation": "silu", "gate_first": True},
    "geglu": {"activation": "gelu", "gate_first": True},
    "glu": {"activation": "sigmoid", "gate_first": False},
}
every_call = pytest.mark.parametrize("name", CALLS)
NORM_CALLS = tuple(name for name in CALLS if "norm" in name)
GATED_CALLS = tuple(name for name in CALLS if name not in NORM_CALLS)
every_norm = pytest.mark.parametrize("name", NORM_CALLS)


def is_norm(name):
    return "norm" in CALLS[name]


def tensors_of(name, shape, dtype=torch.float32, residual_dtype=None, grad=True, seed=0):
    """The arguments for a result of this shape; the residual is in `residual_dtype`, or `dtype`."""
    generator = torch.Generator().manual_seed(seed)

    def new(*sizes, of=dtype):
        return torch.randn(sizes, generator=generator).to(of).requires_grad_(grad)

    *rows, width = shape
    if not is_norm(name):
        return {"x": new(*rows, 2 * width), "bias": new(2 * width)}
    tensors = {
        "x": new(*shape),
        "residual": new(*shape, of=residual_dtype or dtype),
        "weight": new(width),
    }
    if CALLS[name]["norm"] == "layer_norm":
        tensors["norm_bias"] = new(width)
    if CALLS[name]["full"]:
        tensors |= {"bias": new(width), "layer_scale": new(width)}
        tensors["row_scale"] = torch.rand(rows, generator=generator).to(dtype)
    return tensors


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


def activation_of(name):
    return CALLS[name].get("activation", "gelu" if CALLS[name].get("full") else "identity")


def ours(name, tensors, p=P, rng_state=STATE, **options):
    call = CALLS[name]
    options = {"activation": activation_of(name), "rng_state": rng_state, **options}
    if not is_norm(name):
        x, bias = tensors["x"], tensors.get("bias")
        return _tuple(FF.bias_glu_dropout(x, bias, p, gate_first=call["gate_first"], **options))
    function = getattr(FF, f"dropout_add_{call['norm']}")
    return _tuple(function(**tensors, p=p, prenorm=call["prenorm"], **options))


def theirs(name, tensors, p=P, rng_state=STATE, **options):
    call = CALLS[name]
    options = {"activation": activation_of(name), **options}
    if not is_norm(name):
        x, bias = tensors["x"], tensors.get("bias")
        options["gate_first"] = call["gate_first"]
        return _tuple(
            reference.bias_glu_dropout(x, bias, p, options.pop("activation"), rng_state, **options)
        )
    others = {key: value for key, value in tensors.items() if key not in ("x", "residual")}
    vectors = (others.pop("weight", None), others.pop("norm_bias", None))
    return _tuple(
        reference.dropout_add_norm(
            tensors["x"],
            tensors["residual"],
            *vectors,
            p,
            rng_state,
            norm=call["norm"],
            prenorm=call["prenorm"],
            **others,
            **options,
        )
    )


def unfused(name, tensors, p=P, rng_state=STATE):
    """The PyTorch code that the operator replaces, with our mask."""
    t = tensors
    act = functools.partial(reference.activation, activation_of(name))

    def drop(v):
        return torch.where(FF.dropout_mask(v.shape, p, rng_state), v * reference.scale(p), 0)

    if not is_norm(name):
        gate, value = (t["x"] + t["bias"]).chunk(2, -1)
        if not CALLS[name]["gate_first"]:
            gate, value = value, gate
        return (drop(act(gate) * value),)
    branch = t["x"] + t["bias"] if "bias" in t else t["x"]
    branch = drop(act(branch))
    if "layer_scale" in t:
        branch = t["row_scale"][..., None] * (t["layer_scale"] * branch)
    h = t["residual"] + branch
    weight, width = t["weight"].to(h.dtype), (h.shape[-1],)
    if CALLS[name]["norm"] == "layer_norm":
        y = F.layer_norm(h, width, weight, t["norm_bias"].to(h.dtype))
    else:
        y = F.rms_norm(h, width, weight, 1e-5)
    return (y.to(t["x"].dtype), h) if CALLS[name]["prenorm"] else (y,)


def in_dtype(tensors, dtype):
    """The same numbers in another dtype, as leaves."""
    return {
        key: value.detach().to(dtype).requires_grad_(value.requires_grad)
        for key, value in tensors.items()
    }


def upstream_of(results, seed=1):
    """A gradient for each result that is nowhere constant and has a mean."""
    generator = torch.Generator().manual_seed(seed)
    return [(0.3 + torch.randn(one.shape, generator=generator)).to(one.dtype) for one in results]


def gradients_of(results, tensors, upstream):
    """By name, of the tensors that require grad."""
    wanted = {key: value for key, value in tensors.items() if value.requires_grad}
    upstream = [dy.to(one.dtype) for one, dy in zip(results, upstream, strict=True)]
    found = torch.autograd.grad(results, list(wanted.values()), upstream, retain_graph=True)
    return dict(zip(wanted, found, strict=True))


def unit_of(exact, dtype):
    return ulp(exact.abs().max().clamp(min=1), dtype)


def check_values(name, tensors, results, gradients, **options):
    """Results and gradients (by name) of one call, against the reference in fp64.

    Tolerance: the largest error is at most twice that of the unfused operators in the same dtype
    and with the same mask. Free on top of that are two ULP of the largest number, or of 1, as
    gradients cancel in short rows. In fp64, the reference's own dtype, 256 ULP are free.
    """
    upstream = upstream_of(results)
    wide = in_dtype(tensors, torch.float64)
    exact = theirs(name, wide, **options)
    by_torch = unfused(name, tensors, **{k: v for k, v in options.items() if k == "rng_state"})
    expected = gradients_of(exact, wide, upstream)
    usual = gradients_of(by_torch, tensors, upstream)
    rows = [
        (f"result {i}", *three)
        for i, three in enumerate(zip(results, exact, by_torch, strict=True))
    ]
    rows += [(key, gradients[key], expected[key], usual[key]) for key in gradients]
    for what, one, truth, other in rows:
        assert one.dtype == other.dtype, what
        error = (one.double() - truth).abs().max()
        if one.dtype == torch.float64:
            assert error <= 256 * unit_of(truth, one.dtype), (what, error)
        else:
            bound = 2 * (other.double() - truth).abs().max() + 2 * unit_of(truth, one.dtype)
            assert error <= bound, (what, error, bound)
