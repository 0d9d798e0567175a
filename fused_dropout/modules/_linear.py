"""What modules have in common that compute more than a linear layer, with the weights of one."""

import torch
from torch import nn

from fused_dropout.modules._leaf import Leaf


class LinearWeights(Leaf, nn.Module):
    """The parameters, initialisation and state-dict keys of a ``torch.nn.Linear``.

    No subclass of it: adapters, quantisers and whatever else looks for linear layers would put a
    product in the place of all that these modules compute.
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
