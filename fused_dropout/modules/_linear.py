"""Base class of modules with the parameters of a linear layer."""

import torch
from torch import nn

from fused_dropout.modules._leaf import Leaf


class LinearWeights(Leaf, nn.Module):
    """The parameters, initialisation and state-dict keys of `torch.nn.Linear`.

    It is not a subclass of `torch.nn.Linear`. Adapters and quantisers search for linear layers and
    replace them. They would replace the activation and dropout of these modules too.
    """

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(
            torch.empty((out_features, in_features), device=device, dtype=dtype)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    reset_parameters = nn.Linear.reset_parameters
    extra_repr = nn.Linear.extra_repr
