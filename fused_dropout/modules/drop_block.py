"""DropBlock: modules that call `fused_dropout.functional.drop_block`."""

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
    """Calls the function after a check that `x` has `dims` spatial dimensions."""
    check_tensor(name, "x", x)
    if x.dim() != dims + 2:
        raise RuntimeError(
            f"{name}: x has {x.dim()} dimensions, but expected {dims + 2}: {_SHAPES[dims]}"
        )
    return FF.drop_block(x, p, block_size, training, **options)


# torch.fx records calls of this function, as it cannot trace a comparison of shapes.
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
    """Drops square regions of feature maps of shape (N, C, H, W).

    Use it after convolutions. There, dropping single elements has little effect, because the
    network can infer them from their neighbours. The paper's ResNet-50 has it after every
    convolution and skip connection of the last two groups, with p = 0.1 and regions of 7 x 7.

    `p` can be set at any time and is checked in the next call. The paper increases it from 0 during
    training, as `fused_dropout.LinearRamp` does. The state dict is empty.

    Shape: input (N, C, H, W); the output has the same shape.

    Equivalent PyTorch code: see `fused_dropout.functional.drop_block`.

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018.

    Args:
        p: probability to drop an element. The true rate is somewhat lower:
            `fused_dropout.functional.drop_block_rate(x.shape[2:], p, block_size)`.
        block_size: height and width of a region, odd. Limited to the size of the feature map.
        shared_channels: whether all channels of an example share one mask.
        mode: "inverted" divides by the share of elements that were kept, in training. "classic"
            multiplies by the expected share in evaluation instead.
    """

    dims = 2


class DropBlock1d(_DropBlock):
    """Drops contiguous segments of sequences of shape (N, C, L).

    The arguments are those of `fused_dropout.DropBlock2d`. `block_size` is the length of a segment.
    """

    dims = 1


class DropBlock3d(_DropBlock):
    """Drops cubes of volumes of shape (N, C, D, H, W).

    The arguments are those of `fused_dropout.DropBlock2d`. A cube is dropped at each seed, and the
    probability of a seed acts in steps of 2^-16. With `block_size=7` a cube has 343 elements, so
    `p` acts in steps of about 0.005.
    """

    dims = 3
