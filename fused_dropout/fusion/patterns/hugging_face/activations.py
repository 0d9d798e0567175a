"""The activation modules of transformers that compute an activation with a kernel."""

import torch.nn.functional as F
from transformers import activations as hf

from fused_dropout.fusion.activations import Activation, add_activations


def _by_function(name, function, method=None):
    """For modules that store the function they call in ``act``.

    Args:
        name: the activation that ``function`` computes.
        function: the function that ``act`` has to be, or a ``functools.partial`` of it.
        method: a method of the module that computes the same and that ``act`` may be instead.
    """

    def kind(module):
        act = module.act
        if method is not None and getattr(act, "__func__", None) is method:
            return Activation(name)
        options = getattr(act, "keywords", {})  # of a functools.partial
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
        # Its constant equals that of "gelu_tanh" to ten digits.
        hf.FastGELUActivation: "gelu_tanh",
        hf.AccurateGELUActivation: "gelu_tanh",
        hf.QuickGELUActivation: "quick_gelu",
        hf.SiLUActivation: "silu",
        hf.ReLUSquaredActivation: "squared_relu",
        hf.LinearActivation: "identity",
    }
)
