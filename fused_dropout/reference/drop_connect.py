"""Dropout of the weights of a linear layer."""

from fused_dropout.reference.contract import constants, keep_count

__all__ = ["drop_connect_moments"]


def drop_connect_moments(x, weight, bias, p, mode="inverted"):
    """Returns mean and variance of `dropout(weight) @ x + bias` over all masks, for each example.

    The terms of the sum are independent. A term is `a * weight * x` with probability `q` and 0
    otherwise, so its mean is `q * a * weight * x` and its variance
    `q * (1 - q) * (a * weight * x) ** 2`.
    """
    q = keep_count(p) / 65536
    a, _, _ = constants(p, mode)
    terms = a * weight * x[..., None, :]
    mean = q * terms.sum(-1)
    return mean if bias is None else mean + bias, q * (1 - q) * terms.square().sum(-1)
