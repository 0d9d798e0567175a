"""Modules around :func:`fused_dropout.functional.drop_block`."""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode, check_tensor
from fused_dropout.functional.drop_block import check_block_size
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf

__all__ = ["DropBlock1d", "DropBlock2d", "DropBlock3d"]

_SHAPES = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


def _drop_block_of(name, dims, x, p, block_size, training, **options):
    """The call of a module, which knows how many spatial dimensions there are."""
    check_tensor(name, "x", x)
    if x.dim() != dims + 2:
        raise RuntimeError(
            f"{name}: x has {x.dim()} dimensions, but expected {dims + 2}: {_SHAPES[dims]}"
        )
    return FF.drop_block(x, p, block_size, training, **options)


# Symbolic tracing records calls of it, as it cannot follow a comparison of shapes.
torch.fx.wrap("_drop_block_of")


class _DropBlock(Leaf, nn.Module):
    is_dropout = True
    dims: int

    def __init__(self, p=0.1, block_size=7, *, shared_channels=False, mode="inverted"):
        super().__init__()
        name = type(self).__name__
        self.p = check_p(self, p)
        self.block_size = check_block_size(name, block_size)
        self.shared_channels = shared_channels
        self.mode = check_mode(name, mode)

    def forward(self, x):
        return _drop_block_of(
            type(self).__name__,
            self.dims,
            x,
            self.p,
            self.block_size,
            self.training,
            shared_channels=self.shared_channels,
            mode=self.mode,
        )

    def extra_repr(self):
        text = f"p={self.p}, block_size={self.block_size}"
        if self.shared_channels:
            text += ", shared_channels=True"
        if self.mode != "inverted":
            text += f", mode={self.mode!r}"
        return text


class DropBlock2d(_DropBlock):
    """Dropout of square regions of feature maps, for input (N, C, H, W).

    Args:
        p: probability to drop; what is really dropped is somewhat less, see
            ``fused_dropout.functional.drop_block_rate(x.shape[2:], p, block_size)``.
        block_size: height and width of a region, odd; clamped to the map.
        shared_channels: whether one mask is for all channels of an example.
        mode: "inverted" scales by what was kept in training; "classic" scales by the expected
            share in evaluation instead.

    There is nothing in its state dict. ``p`` can be set at any time, and is checked at the call;
    the paper lets it grow from 0 in the course of training, which :class:`fused_dropout.LinearRamp`
    does.

    Use it behind convolutions, where single elements can be guessed from their neighbours and
    dropping them does little: in the paper's ResNet-50 behind every convolution, skip connection
    included, of the last two groups, with p = 0.1 and blocks of 7.

    Shape: (N, C, H, W); the output has the input's.

    Equivalent: see :func:`fused_dropout.functional.drop_block`.
    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018.
    """

    dims = 2


class DropBlock1d(_DropBlock):
    """Dropout of contiguous runs, for input (N, C, L).

    Arguments are those of :class:`DropBlock2d`; ``block_size`` is the length of a run.
    """

    dims = 1


class DropBlock3d(_DropBlock):
    """Dropout of cubes, for input (N, C, D, H, W).

    Arguments are those of :class:`DropBlock2d`. A cube of 7 has 343 elements, so that its seeds
    are rare: with the steps of 2^-16 of their probability, ``p`` acts in steps of about 0.005.
    """

    dims = 3
