"""Patterns for the feed-forward layers of timm."""

import re

import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.fusion.activations import activation_not_fusable, activation_of
from fused_dropout.fusion.branches import linear_branch
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_arguments, dropout_not_fusable
from fused_dropout.fusion.eligibility import linear_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    bias_act_drop,
    called_layers,
    glu_drop,
    linear_act_drop,
    linear_drop,
    two_linears_glu_drop,
)


class Branch(FusedMixin):
    """A module that ends with a linear layer and dropout.

    Attributes:
        linears: names of the linear layers and convolutions whose bias a kernel adds.
        drops: names of the dropout layers.
    """

    linears = "fc1", "fc2"
    drops = fused_dropouts = "drop1", "drop2"

    @classmethod
    def reason_not_fusable(cls, module):
        for name in cls.drops:
            if reason := dropout_not_fusable(name, getattr(module, name)):
                return reason
        return None

    def in_training(self):
        return self.training or any(getattr(self, name).training for name in self.drops)

    def last_layers(self):
        """The last linear layer and the last dropout layer."""
        return self.fc2, self.drop2

    def before_last(self, *args, **kwargs):
        """The input of the last layers."""
        raise NotImplementedError

    def fused_forward(self, *args, **kwargs):
        x = self.before_last(*args, **kwargs)
        linear, drop = self.last_layers()
        return linear_drop(linear, drop, x)

    def open_forward(self, *args, **kwargs):
        """See ``branches.py``."""
        x = self.before_last(*args, **kwargs)
        return linear_branch(*self.last_layers(), x)


class FusedMlp(Branch):
    between = ("norm",)  # names of the layers between dropout and the last linear layer

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
        activation = activation_of(self.act)
        if activation is None or linear_not_fusable("", self.fc1) is not None:
            a, b = self.fc1(x).chunk(2, self.chunk_dim)
            x = a * self.act(b) if self.gate_last else self.act(a) * b
            x = FF.dropout(x, **dropout_arguments(self.drop1))
        else:
            x = glu_drop(
                F.linear(x, self.fc1.weight),
                self.fc1.bias,
                activation,
                self.drop1,
                not self.gate_last,
            )
        return self.norm(x)


class FusedSwiGLU(Branch):
    linears = "fc1_g", "fc1_x", "fc2"

    def before_last(self, x):
        x = two_linears_glu_drop(self.fc1_g, self.fc1_x, self.act, self.drop1, x)
        return self.norm(x)


class FusedConvMlp(FusedMixin):
    linears = ("fc1",)
    fused_dropouts = ("drop",)

    @staticmethod
    def reason_not_fusable(module):
        return dropout_not_fusable("drop", module.drop)

    def in_training(self):
        return self.training or self.drop.training

    def fused_forward(self, x):
        if type(self.norm) is nn.Identity:
            x = linear_act_drop(self.fc1, self.act, self.drop, x)
        else:
            x = bias_act_drop(self.norm(self.fc1(x)), None, self.act, self.drop)
        return self.fc2(x)


def _describe(text, mixin):
    def describe(module):
        reason = activation_not_fusable("act", module.act)
        note = called_layers(text, *mixin.linears)(module)
        return note if reason is None else f"{note}; not fused: {reason}"

    return describe


for _mixin, _fingerprint, _name, _text in (
    (FusedMlp, "14642963333e935e", "Mlp", "bias, activation and dropout; bias and dropout"),
    (FusedGluMlp, "f84860320586f0d6", "GluMlp", "bias, gate and dropout; bias and dropout"),
    (FusedSwiGLU, "2ac877492ceb9427", "SwiGLU", "bias, gate and dropout; bias and dropout"),
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
        _mixin,
        (_fingerprint,),
        re.compile(f"timm.layers.mlp.{_name}"),
        _describe(_text, _mixin),
    )
