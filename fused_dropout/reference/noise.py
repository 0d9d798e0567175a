"""Gaussian and Concrete dropout, and Standout."""

import math

import torch

from fused_dropout.reference.contract import draws, mask_index, normal, uniform

__all__ = ["concrete_dropout", "gaussian_dropout", "standout", "standout_threshold"]


def gaussian_dropout(x, p, rng_state, *, shared_dims=(), mask_offset=0):
    """Computes `x * (1 + sigma * z)` with `sigma = sqrt(p / (1 - p))` and `z` from `normal`."""
    j = mask_index(x, shared_dims, mask_offset)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    return (v * (1 + math.sqrt(p / (1 - p)) * normal(j, rng_state).to(v.dtype))).to(x.dtype)


def concrete_dropout(x, logit, temperature, rng_state, *, shared_dims=(), mask_offset=0):
    """Computes `x * (1 - d) / (1 - p)`, `d = sigmoid((logit + log(u / (1 - u))) / temperature)`.

    `u` is from `uniform`, and `p = sigmoid(logit)`. Differentiable in `x` and `logit`.
    """
    j = mask_index(x, shared_dims, mask_offset)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    logit = logit.to(v.dtype).reshape(())
    u = uniform(j, rng_state)
    d = torch.sigmoid((logit + (u.log() - (-u).log1p()).to(v.dtype)) / temperature)
    return (v * (1 - d) / (1 - torch.sigmoid(logit))).to(x.dtype)


def standout_threshold(z, alpha=1.0, beta=0.0):
    """Returns how many of the 65536 values of a draw keep a unit, before rounding."""
    return 65536 * torch.sigmoid(alpha * z.detach().double() + beta)


def standout(x, z, alpha, beta, rng_state=None, *, training=True, shared_dims=(), mask_offset=0):
    """Keeps `x` where `draw < rint(65536 * q)`, with `q = sigmoid(alpha * z + beta)`.

    In evaluation the result is `x * q`. In training only `x` has a gradient, because the mask is a
    constant. Kernels compute the threshold in fp32. It differs from this one by at most 1, and only
    if the number before rounding is within 0.01 of half an integer.
    """
    if not training:
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) * torch.sigmoid(alpha * z.to(wide) + beta)).to(x.dtype)
    draw = draws(mask_index(x, shared_dims, mask_offset), rng_state)
    return torch.where(draw < standout_threshold(z, alpha, beta).round(), x, 0.0)
