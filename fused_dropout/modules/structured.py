"""Structured dropout: whole slices of a tensor are dropped.

The modules call `fused_dropout.functional.dropout` with `shared_dims`.
"""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode, check_tensor, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import mode_repr

__all__ = ["DropPath", "LockedDropout", "linear_drop_rates"]


class LockedDropout(Leaf, nn.Module):
    """Variational dropout: one mask for all time steps of a sequence.

    Use it between the layers of a recurrent network, on padded sequences. Apply it before a
    sequence is packed into a `PackedSequence`. Neither a mask of all steps nor an
    expanded mask is in memory.

    Shape: input (T, B, H), or (B, T, H) with `batch_first`, or (T, H) without a batch; the output
    has the shape of the input.

    Equivalent PyTorch code, for a time dimension of 0:

        x * F.dropout(torch.ones_like(x[:1]), p, training)
        FF.dropout(x, p, training, shared_dims=(0,))

    Source: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NeurIPS 2016; Merity, Keskar and Socher, "Regularizing and optimizing LSTM language
    models", ICLR 2018, section 4.2.

    Args:
        p: probability to drop a feature of an example in all time steps, in steps of 2^-16.
        batch_first: whether dimension 0 is the batch, as in `torch.nn.LSTM`.
        mode: "inverted" scales by `1 / (1 - p)` in training. "classic" scales by `1 - p` in
            evaluation instead.
    """

    is_dropout = True

    def __init__(self, p=0.5, *, batch_first=False, mode="inverted"):
        super().__init__()
        self.p = check_p(self, p)
        self.batch_first = batch_first
        self.mode = check_mode(type(self).__name__, mode)

    @property
    def independent_rows(self):
        return self.batch_first

    def forward(self, input):
        return _locked_dropout(input, self.p, self.training, self.batch_first, self.mode)

    def extra_repr(self):
        return f"p={self.p}, batch_first={self.batch_first}{mode_repr(self.mode)}"


class DropPath(Leaf, nn.Module):
    """Stochastic depth: drops the residual branch of single examples, or of the whole batch.

    `fused_dropout.functional.bias_dropout_add` also adds the residual in the same kernel:
    `FF.bias_dropout_add(x, None, residual, p, training, shared_dims=(1, 2, 3))`.

    Shape: input (N, ...), or any shape with `per="batch"`; the output has the shape of the input.

    Equivalent PyTorch code:

        x * torch.empty(len(x), 1, 1, 1).bernoulli_(1 - p).div_(1 - p)  # timm, per row
        torchvision.ops.stochastic_depth(x, p, per, training)           # scale_by_keep=True
        FF.dropout(x, p, training, shared_dims=tuple(range(1, x.dim())))

    Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.

    Args:
        p: probability to drop, in steps of 2^-16. See `fused_dropout.linear_drop_rates`.
        scale_by_keep: whether branches that are kept are divided by `1 - p`. If False, the expected
            output in training is `1 - p` times the output in evaluation, as in timm.
        per: "row" draws for each example (dimension 0), "batch" draws once for the whole batch.
        mode: "inverted" follows `scale_by_keep`. "classic" does not scale in training and scales by
            `1 - p` in evaluation, as in the paper.
    """

    is_dropout = True

    def __init__(self, p=0.0, scale_by_keep=True, *, per="row", mode="inverted"):
        super().__init__()
        if per not in ("row", "batch"):
            raise ValueError(f"DropPath: per is {per!r}, but expected 'row' or 'batch'")
        self.p = check_p(self, p)
        self.scale_by_keep = scale_by_keep
        self.per = per
        self.mode = check_mode(type(self).__name__, mode)
        if mode == "classic" and not scale_by_keep:
            raise ValueError(
                "DropPath: mode is 'classic', which scales in evaluation, and scale_by_keep is "
                "False, which never scales, but only one of them can be given"
            )

    @property
    def independent_rows(self):
        return self.per == "row"

    def forward(self, input):
        return _drop_path(input, self.p, self.training, self.scale_by_keep, self.per, self.mode)

    def extra_repr(self):
        text = f"p={self.p}, scale_by_keep={self.scale_by_keep}, per={self.per!r}"
        return text + mode_repr(self.mode)


def linear_drop_rates(p, depth):
    """Returns probabilities for `fused_dropout.DropPath` that grow linearly with depth.

    They grow from 0 at the first block to `p` at the last one, as in timm. In the paper they start
    at `p / depth` (Huang et al. 2016, section 3, "linear decay"). The probabilities of the paper
    are `linear_drop_rates(p, depth + 1)[1:]`.

    Equivalent PyTorch code: `torch.linspace(0, p, depth).tolist()`.

    Args:
        p: probability at the last block.
        depth: number of blocks. A single block gets 0.

    Returns:
        list: a float for each block.

    Raises:
        ValueError: if `p` is not between 0 and 1, or `depth` is not a non-negative integer.
    """
    p = float(probability(p, "linear_drop_rates"))
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ValueError(
            f"linear_drop_rates: depth is {depth!r}, but expected a non-negative integer"
        )
    return [block / max(depth - 1, 1) * p for block in range(depth)]


# The functions below depend on the number of dimensions. They are not methods, so that torch.fx can
# record calls of them instead of tracing into them.


def _locked_dropout(x, p, training, batch_first, mode):
    probability(p, "LockedDropout")
    check_tensor("LockedDropout", "input", x)
    if x.dim() not in (2, 3):
        expected = "(B, T, H)" if batch_first else "(T, B, H)"
        raise RuntimeError(
            f"LockedDropout: input has {x.dim()} dimensions, but expected {expected} or (T, H)"
        )
    time = 1 if batch_first and x.dim() == 3 else 0
    return FF.dropout(x, p, training, shared_dims=(time,), mode=mode)


def _drop_path(x, p, training, scale_by_keep, per, mode):
    probability(p, "DropPath")
    check_tensor("DropPath", "input", x)
    first = 1 if per == "row" else 0
    if x.dim() < first:
        raise RuntimeError("DropPath: input has 0 dimensions, but expected rows along dimension 0")
    if not scale_by_keep:
        if not training:
            return x
        mode = "classic"
    return FF.dropout(x, p, training, shared_dims=tuple(range(first, x.dim())), mode=mode)


for _name in ("_locked_dropout", "_drop_path"):
    torch.fx.wrap(_name)
