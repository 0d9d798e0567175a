"""timm's feed-forward layers."""

import re

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.fusion.activations import activation_not_fusable, activation_of
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.eligibility import linear_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    LINEAR_AND_CONV,
    bias_act_drop,
    glu_drop,
    linear_act_drop,
    linear_drop,
)
from fused_dropout.fusion.patterns.torch_nn.dropout import drop_arguments, dropout_not_fusable


class Branch(FusedMixin):
    """A layer that ends with a product and dropout, which a block can go on with."""

    products = "fc1", "fc2"
    drops = "drop1", "drop2"

    @classmethod
    def reason_not_fusable(cls, module):
        for name in cls.products:
            if reason := linear_not_fusable(name, getattr(module, name), LINEAR_AND_CONV):
                return reason
        for name in cls.drops:
            if reason := dropout_not_fusable(name, getattr(module, name)):
                return reason
        return None

    def in_training(self):
        return self.training or any(getattr(self, name).training for name in self.drops)

    def last_layers(self):
        """The product and the dropout at the end."""
        return self.fc2, self.drop2

    def before_last(self, *args, **kwargs):
        """What goes into the last layers."""
        raise NotImplementedError

    def fused_forward(self, *args, **kwargs):
        x = self.before_last(*args, **kwargs)
        linear, drop = self.last_layers()
        return linear_drop(linear, drop, x)


class FusedMlp(Branch):
    between = ("norm",)

    def before_last(self, x):
        x = linear_act_drop(self.fc1, self.act, self.drop1, x)
        for name in self.between:
            x = getattr(self, name)(x)
        return x


class FusedGatedMlp(FusedMlp):
    between = "gate", "norm"


class FusedGlobalResponseNormMlp(FusedMlp):
    between = ("grn",)


class FusedGluMlp(Branch):
    def before_last(self, x):
        known = activation_of(self.act)
        if known is None or type(self.fc1) is not nn.Linear:
            a, b = self.fc1(x).chunk(2, self.chunk_dim)
            x = a * self.act(b) if self.gate_last else self.act(a) * b
            x = FF.dropout(x, **drop_arguments(self.drop1))
        else:
            x = glu_drop(
                F.linear(x, self.fc1.weight), self.fc1.bias, known, self.drop1, not self.gate_last
            )
        return self.norm(x)


class FusedSwiGLU(Branch):
    """The two products become one, of the weights side by side, so that its result can be gated."""

    products = "fc1_g", "fc1_x", "fc2"

    def before_last(self, x):
        gate, value = self.fc1_g, self.fc1_x
        known = activation_of(self.act)
        if known is None or (gate.bias is None) != (value.bias is None):
            x = FF.dropout(self.act(gate(x)) * value(x), **drop_arguments(self.drop1))
        else:
            bias = None if gate.bias is None else torch.cat((gate.bias, value.bias))
            x = F.linear(x, torch.cat((gate.weight, value.weight)))
            x = glu_drop(x, bias, known, self.drop1)
        return self.norm(x)


class FusedConvMlp(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return linear_not_fusable("fc1", module.fc1, LINEAR_AND_CONV) or dropout_not_fusable(
            "drop", module.drop
        )

    def in_training(self):
        return self.training or self.drop.training

    def fused_forward(self, x):
        if type(self.norm) is nn.Identity:
            x = linear_act_drop(self.fc1, self.act, self.drop, x)
        else:
            x = bias_act_drop(self.norm(self.fc1(x)), None, self.act, self.drop)
        return self.fc2(x)


def _what(text):
    def what(module):
        reason = activation_not_fusable("act", module.act)
        return text if reason is None else f"{text}; but {reason} and applied as it is"

    return what


for _mixin, _fingerprint, _name, _text in (
    (FusedMlp, "14642963333e935e", "Mlp", "bias, activation and dropout; bias and dropout"),
    (FusedGluMlp, "8b9672f7c2242589", "GluMlp", "bias, gate and dropout; bias and dropout"),
    (FusedSwiGLU, "e32a4a1dd9f3cb0d", "SwiGLU", "bias, gate and dropout; bias and dropout"),
    (FusedGatedMlp, "26987198f6959ded", "GatedMlp", "bias, activation, dropout; bias and dropout"),
    (
        FusedGlobalResponseNormMlp,
        "7e979ff79c96b664",
        "GlobalResponseNormMlp",
        "bias, activation and dropout; bias and dropout",
    ),
    (FusedConvMlp, "b91e9498a3f5c849", "ConvMlp", "bias, activation and dropout"),
):
    add_fingerprint_pattern(
        "timm",
        "timm",
        _mixin,
        (_fingerprint,),
        re.compile(f"timm.layers.mlp.{_name}"),
        _what(_text),
    )
