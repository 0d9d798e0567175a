"""Patterns for timm's residual blocks."""

import re

from torch import nn

from fused_dropout.fusion.branches import branch_of
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.drop_path import drop_path_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import add, add_then_norm
from fused_dropout.fusion.norms import norm_not_fusable
from fused_dropout.fusion.patterns.timm.layers import end_of_branch, layer_scale_not_fusable


class _Block(FusedMixin):
    """A block with residual branches. Children that cannot be bypassed are called.

    Attributes:
        ends: for each branch, the names of its layer scale (or None) and stochastic depth.
        norms: names of the norms that are fused with the residual addition before them.
    """

    ends = ("ls1", "drop_path1"), ("ls2", "drop_path2")
    norms = ("norm2",)

    @classmethod
    def dropouts_in_kernels(cls, module):
        return [getattr(module, drop_path) for _, drop_path in cls.ends]

    @staticmethod
    def reason_not_fusable(module):
        return None

    def _end(self, index, branch):
        return end_of_branch(*branch, *(name and getattr(self, name) for name in self.ends[index]))

    def _pre_norm(self, x, first, mlp):
        """``first``: result of the first branch, see :func:`branch_of`; ``mlp`` follows norm2."""
        y, x = add_then_norm(**self._end(0, first), residual=x, norm=self.norm2)
        return add(**self._end(1, branch_of(mlp, y)), residual=x)


class FusedBlock(_Block):
    """In timm 1.0.26 to 1.0.31."""

    def fused_forward(self, x, attn_mask=None, is_causal=False):
        first = branch_of(self.attn, self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        return self._pre_norm(x, first, self.mlp)


class FusedBlockWithMask(_Block):
    """In timm 1.0.20."""

    def fused_forward(self, x, attn_mask=None):
        return self._pre_norm(x, branch_of(self.attn, self.norm1(x), attn_mask=attn_mask), self.mlp)


class FusedBlockWithoutMask(_Block):
    """In timm 1.0.15."""

    def fused_forward(self, x):
        return self._pre_norm(x, branch_of(self.attn, self.norm1(x)), self.mlp)


class FusedResPostBlock(_Block):
    """In timm 1.0.26 to 1.0.31."""

    ends = (None, "drop_path1"), (None, "drop_path2")
    norms = ()

    def fused_forward(self, x, attn_mask=None, is_causal=False):
        return self._post_norm(x, self.attn(x, attn_mask=attn_mask, is_causal=is_causal))

    def _post_norm(self, x, first):
        x = add(**self._end(0, (self.norm1(first), None, None)), residual=x)
        return add(**self._end(1, (self.norm2(self.mlp(x)), None, None)), residual=x)


class FusedResPostBlockWithMask(FusedResPostBlock):
    """In timm 1.0.20."""

    def fused_forward(self, x, attn_mask=None):
        return self._post_norm(x, self.attn(x, attn_mask=attn_mask))


class FusedResPostBlockWithoutMask(FusedResPostBlock):
    """In timm 1.0.15."""

    def fused_forward(self, x):
        return self._post_norm(x, self.attn(x))


class FusedBeitBlock(_Block):
    ends = ("gamma_1", "drop_path1"), ("gamma_2", "drop_path2")

    def fused_forward(self, x, shared_rel_pos_bias=None):
        first = self.attn(self.norm1(x), shared_rel_pos_bias=shared_rel_pos_bias)
        return self._pre_norm(x, (first, None, None), self.mlp)


class FusedEvaBlock(FusedBeitBlock):
    """In timm 1.0.26 to 1.0.31."""

    def fused_forward(self, x, rope=None, attn_mask=None, is_causal=False):
        first = self.attn(self.norm1(x), rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        return self._pre_norm(x, (first, None, None), self.mlp)


class FusedEvaBlockWithMask(FusedBeitBlock):
    """In timm 1.0.15 and 1.0.20."""

    def fused_forward(self, x, rope=None, attn_mask=None):
        first = self.attn(self.norm1(x), rope=rope, attn_mask=attn_mask)
        return self._pre_norm(x, (first, None, None), self.mlp)


class FusedMixerBlock(_Block):
    ends = (None, "drop_path"), (None, "drop_path")

    def fused_forward(self, x):
        tokens = self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self._pre_norm(x, (tokens, None, None), self.mlp_channels)


class FusedSpatialGatingBlock(_Block):
    ends = ((None, "drop_path"),)
    norms = ()

    def fused_forward(self, x):
        return add(**self._end(0, branch_of(self.mlp_channels, self.norm(x))), residual=x)


class FusedConvNeXtBlock(_Block):
    ends = ((None, "drop_path"),)
    norms = ()

    def fused_forward(self, x):
        y = self.conv_dw(x)
        if self.use_conv_mlp:
            y = self.mlp(self.norm(y))
        else:
            y = self.mlp(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        scale = None if self.gamma is None else self.gamma.reshape(1, -1, 1, 1)
        end = end_of_branch(y, None, None, scale, self.drop_path)
        return add(**end, residual=self.shortcut(x))


def _describe(text, mixin):
    def describe(module):
        notes = []
        for scale, drop_path in mixin.ends:
            if isinstance(getattr(module, scale or "", None), nn.Module):
                notes.append(layer_scale_not_fusable(scale, getattr(module, scale)))
            notes.append(drop_path_not_fusable(drop_path, getattr(module, drop_path)))
        notes += (norm_not_fusable(name, getattr(module, name)) for name in mixin.norms)
        notes = dict.fromkeys(note for note in notes if note is not None)
        return f"{text}; not fused: {', '.join(notes)}" if notes else text

    return describe


_ENDS_AND_NORM = "ends of the branches, residuals and the second norm"
_ENDS = "ends of the branches and residuals"

for _mixin, _fingerprints, _name, _text in (
    (FusedBlock, ("3d3fd99c5a72f144",), "vision_transformer.Block", _ENDS_AND_NORM),
    (FusedBlockWithMask, ("0f4fb310e6ba5a4e",), None, _ENDS_AND_NORM),
    (FusedBlockWithoutMask, ("1001184e664cb65d",), None, _ENDS_AND_NORM),
    (FusedResPostBlock, ("abbf29731108ced0",), "vision_transformer.ResPostBlock", _ENDS),
    (FusedResPostBlockWithMask, ("031c2aed979eb3ee",), None, _ENDS),
    (FusedResPostBlockWithoutMask, ("8db96bb7ab4e45f9",), None, _ENDS),
    (FusedBeitBlock, ("1246660265e704a5",), "beit.Block", _ENDS_AND_NORM),
    # 1.0.31, 1.0.26
    (FusedEvaBlock, ("899a9ff675f94d49", "fc438a765e626709"), "eva.EvaBlock", _ENDS_AND_NORM),
    (FusedEvaBlockWithMask, ("9e52225535b8af25",), None, _ENDS_AND_NORM),
    (FusedMixerBlock, ("d2d2bc74b5b7c3dc",), "mlp_mixer.MixerBlock", _ENDS_AND_NORM),
    (FusedSpatialGatingBlock, ("54fa8e9bc0efb91b",), "mlp_mixer.SpatialGatingBlock", _ENDS),
    (FusedConvNeXtBlock, ("da02ebb359b60c8d",), "convnext.ConvNeXtBlock", _ENDS),
):
    _name = _name and re.compile(f"timm.models.{_name}")
    add_fingerprint_pattern("timm", _mixin, _fingerprints, _name, _describe(_text, _mixin))
