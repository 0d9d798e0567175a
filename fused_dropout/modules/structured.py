"""Dropout of whole parts of a tensor: :func:`fused_dropout.functional.dropout` by shared dims."""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode, check_tensor, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import mode_repr

__all__ = ["DropPath", "LockedDropout", "linear_drop_rates"]


class LockedDropout(Leaf, nn.Module):
    """Dropout with one mask for all time steps of a sequence.

    It belongs between the layers of a recurrent network, on a padded sequence: a
    ``PackedSequence`` is dropped before it is packed. The mask is that of one step, so that neither
    a mask of all steps nor an expanded one is ever in memory.

    Args:
        p: probability to drop an element of a step, in steps of 2^-16.
        batch_first: whether the batch comes before the time, as in ``torch.nn.LSTM``.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.

    Shape: (T, B, H), with ``batch_first`` (B, T, H), or (T, H) without a batch; the output has the
    input's.

    Equivalent: ``x * F.dropout(torch.ones_like(x[:1]), p, training)``, with ``batch_first``
    ``x[:, :1]``; ``FF.dropout(x, p, training, shared_dims=(0,))``.
    Source: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NeurIPS 2016; Merity, Keskar and Socher, "Regularizing and optimizing LSTM language
    models", ICLR 2018, section 4.2.
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
    """Stochastic depth: drops the branch of a residual network, for whole examples or the batch.

    Args:
        p: probability to drop, in steps of 2^-16; see :func:`linear_drop_rates`.
        scale_by_keep: whether what is kept is divided by ``1 - p``. Without it the expectation in
            training is ``1 - p`` times the output in evaluation, as in timm.
        per: "row" decides for each example, which lies along dimension 0, "batch" for all at once.
        mode: "classic" leaves what is kept in training and scales by ``1 - p`` in evaluation, as
            the paper does.

    Shape: (N, ...), per batch any; the output has the input's.

    Equivalent::

        x * torch.empty(len(x), 1, 1, 1).bernoulli_(1 - p).div_(1 - p)  # timm, per row
        torchvision.ops.stochastic_depth(x, p, per, training)           # scale_by_keep=True
        FF.dropout(x, p, training, shared_dims=tuple(range(1, x.dim())))

    The sum with the residual is one pass too:
    ``FF.bias_dropout_add(x, None, residual, p, training, shared_dims=(1, 2, 3))``.
    Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.
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
                "False, which never scales; only one of them can be given"
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
    """Probabilities for :class:`DropPath` that grow with depth: from 0 at the first block to ``p``.

    Args:
        p: probability at the last block.
        depth: number of blocks; a single one is the first, and gets 0.

    Returns:
        list of float: one for each block.

    Equivalent: ``torch.linspace(0, p, depth).tolist()``, as in timm. The paper starts at
    ``p / depth`` (Huang et al. 2016, section 3, "linear decay"): the blocks of a network whose
    first block may be dropped as well take ``linear_drop_rates(p, depth + 1)[1:]``.
    """
    p = float(probability(p, "linear_drop_rates"))
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ValueError(
            f"linear_drop_rates: depth is {depth!r}, but expected a number of blocks from 0"
        )
    return [block / max(depth - 1, 1) * p for block in range(depth)]


# The functions below look at the number of dimensions. They stand outside of the classes so that
# torch.fx can record calls of them instead of looking inside.


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
