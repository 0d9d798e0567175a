"""transformers' activation modules that compute what a kernel of this package computes."""

import torch.nn.functional as F
from transformers import activations as hf

from fused_dropout.fusion.activations import Activation, add_activations


def _by_function(name, function, own=None):
    """For modules that keep what they call in ``act``: a function, or a method of theirs."""

    def kind(module):
        act = module.act
        if own is not None and getattr(act, "__func__", None) is own:
            return Activation(name)
        # A partial function has its options beside it.
        options = getattr(act, "keywords", {})
        known = getattr(act, "func", act) is function and options in ({}, {"approximate": "tanh"})
        if not known:
            return None
        return Activation("gelu_tanh" if options else name)

    return kind


add_activations(
    {
        hf.GELUActivation: _by_function("gelu", F.gelu, hf.GELUActivation._gelu_python),
        hf.GELUTanh: _by_function("gelu", F.gelu, None),
        hf.MishActivation: _by_function("mish", F.mish),
        hf.NewGELUActivation: "gelu_tanh",
        # Its constant is that of "gelu_tanh", to ten digits.
        hf.FastGELUActivation: "gelu_tanh",
        hf.AccurateGELUActivation: "gelu_tanh",
        hf.QuickGELUActivation: "quick_gelu",
        hf.SiLUActivation: "silu",
        hf.ReLUSquaredActivation: "squared_relu",
        hf.LinearActivation: "identity",
    }
)
