"""Patterns for torchvision: stochastic depth, and the blocks that end with it or with dropout.

Its ``MLP`` and the classifiers of VGG and AlexNet are ``nn.Sequential``, which has its own pattern.
"""

import re

import torch
from torchvision.ops import StochasticDepth

from fused_dropout.fusion.branches import branch_of
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.drop_path import (
    DropPathConfig,
    FusedDropPath,
    add_drop_path,
    drop_path_not_fusable,
)
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern, fingerprint_of
from fused_dropout.fusion.fused_calls import add, add_then_norm
from fused_dropout.fusion.norms import norm_not_fusable
from fused_dropout.fusion.patterns.torch_nn.attention import (
    attend,
    attention_called,
    attention_not_fusable,
)

_STOCHASTIC_DEPTH = ("db5a8c455dcba2ac",)


def _drop_path_config(module):
    if module.mode not in ("batch", "row"):
        raise ValueError(f"StochasticDepth: mode is {module.mode!r}, but expected 'batch' or 'row'")
    return DropPathConfig(module.p, per=module.mode)


if fingerprint_of(StochasticDepth.forward) in _STOCHASTIC_DEPTH:
    add_drop_path(StochasticDepth, _drop_path_config)


class FusedStochasticDepth(FusedDropPath):
    def fused_forward(self, input):
        return super().fused_forward(input)


class FusedEncoderBlock(FusedMixin):
    fused_dropouts = ("dropout",)

    @staticmethod
    def reason_not_fusable(module):
        return attention_not_fusable(
            "self_attention", module.self_attention
        ) or dropout_not_fusable("dropout", module.dropout)

    def in_training(self):
        return self.training or self.dropout.training or self.self_attention.training

    def fused_forward(self, input):
        torch._assert(
            input.dim() == 3, f"Expected (batch_size, seq_length, hidden_dim) got {input.shape}"
        )
        x = self.ln_1(input)
        if attention_called("", self.self_attention) is None:
            branch = attend(self.self_attention, x, x, None, None, False)
        else:
            branch = self.self_attention(x, x, x, need_weights=False)[0], None
        y, x = add_then_norm(*branch, self.dropout, input, self.ln_2)
        return add(*branch_of(self.mlp, y), x)


class _Block(FusedMixin):
    fused_dropouts = ("stochastic_depth",)

    @staticmethod
    def reason_not_fusable(module):
        return drop_path_not_fusable("stochastic_depth", module.stochastic_depth)

    def _add(self, branch, residual, layer_scale=None):
        """``branch``: see :func:`branch_of`."""
        return add(*branch, residual, layer_scale, self.stochastic_depth)


class FusedCNBlock(_Block):
    def fused_forward(self, input):
        return self._add((self.block(input), None, None), input, self.layer_scale)


class FusedMBConv(_Block):
    def fused_forward(self, input):
        result = self.block(input)
        return self._add((result, None, None), input) if self.use_res_connect else result


class FusedSwinBlock(_Block):
    def fused_forward(self, x):
        branch = self.attn(self.norm1(x))
        y, x = add_then_norm(branch, None, None, x, self.norm2, None, self.stochastic_depth)
        return self._add(branch_of(self.mlp, y), x)


class FusedSwinBlockV2(_Block):
    def fused_forward(self, x):
        x = self._add((self.norm1(self.attn(x)), None, None), x)
        return self._add((self.norm2(self.mlp(x)), None, None), x)


def _describe(text, norm=None, attention=None):
    def describe(module):
        notes = [] if norm is None else [norm_not_fusable(norm, getattr(module, norm))]
        if attention is not None:
            notes.append(attention_called(attention, getattr(module, attention)))
        notes = [note for note in notes if note is not None]
        return f"{text}; not fused: {'; '.join(notes)}" if notes else text

    return describe


for _mixin, _fingerprints, _names, _text in (
    (
        FusedStochasticDepth,
        _STOCHASTIC_DEPTH,
        "StochasticDepth",
        _describe("one random number per example or batch"),
    ),
    (
        FusedEncoderBlock,
        ("7b6906120f32a7a0",),
        "EncoderBlock",
        _describe("ends of the branches, residuals and the second norm", "ln_2", "self_attention"),
    ),
    (
        FusedCNBlock,
        ("e9736d8cee75a7df",),
        "CNBlock",
        _describe("layer scale, stochastic depth and residual"),
    ),
    (
        FusedMBConv,
        ("0bdfbbeb9dd6e57b",),
        "MBConv|FusedMBConv",
        _describe("stochastic depth and residual"),
    ),
    (
        FusedSwinBlockV2,
        ("630a8a15cd4589ec",),
        "SwinTransformerBlockV2",
        _describe("stochastic depth and residuals"),
    ),
    (
        FusedSwinBlock,
        ("94e07c348b440618",),
        "SwinTransformerBlock",
        _describe("ends of the branches, residuals and the second norm", "norm2"),
    ),
):
    add_fingerprint_pattern("torchvision", _mixin, _fingerprints, re.compile(_names), _text)
