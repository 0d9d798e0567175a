"""The activations."""

import torch
import torch.nn.functional as F

__all__ = ["ACTIVATIONS", "activation"]

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "squared_relu": lambda x: F.relu(x).square(),
}


def activation(name, x, negative_slope=None, alpha=None):
    """Applies the activation `name` to `x`, elementwise, in the dtype of `x`.

    `negative_slope` (default 0.01) is for leaky_relu and `alpha` (default 1) for elu. The other
    activations ignore them.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation: name is {name!r}, but expected one of {', '.join(ACTIVATIONS)}"
        )
    if name == "leaky_relu" and negative_slope is not None:
        return F.leaky_relu(x, negative_slope)
    if name == "elu" and alpha is not None:
        return F.elu(x, alpha)
    return ACTIVATIONS[name](x)
