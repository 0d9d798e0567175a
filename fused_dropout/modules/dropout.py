"""Drop-in replacements of torch.nn's dropout layers, with their signatures and errors."""

import warnings

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode, check_tensor, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import DropOptions, mode_repr

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _ModeMixin(Leaf):
    """The keyword-only ``mode`` of the layers that can drop without rescaling."""

    is_dropout = independent_rows = True
    mode = "inverted"  # of pickles of torch.nn's own layers, which have none

    def __init__(self, p=0.5, inplace=False, *, mode="inverted"):
        check_mode(type(self).__name__, mode)
        super().__init__(check_p(self, p), inplace)
        self.mode = mode

    def extra_repr(self):
        return super().extra_repr() + mode_repr(self.mode)

    def _arguments(self):
        return self.p, self.training, self.inplace, self.mode


class Dropout(DropOptions, nn.Dropout):
    """Dropout of single elements, without a mask in memory.

    Args:
        p: probability to drop an element, in steps of 2^-16.
        inplace: write the result into the input.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.
        shared_dims: dimensions of the input along which elements share one decision, such as
            ``(-1,)`` to drop whole tokens of shape (batch, length, width).
        noise_shape: the same in Keras's spelling, such as ``(None, None, 1)``.

    Shape: any; the output has the input's.

    Equivalent: ``torch.nn.Dropout(p, inplace)``.
    Source: Srivastava et al., JMLR 2014.
    """

    def __init__(self, p=0.5, inplace=False, *, mode="inverted", shared_dims=(), noise_shape=None):
        super().__init__(check_p(self, p), inplace)
        self._init_options(mode, shared_dims, noise_shape)

    def forward(self, input):
        return FF.dropout(input, self.p, self.training, self.inplace, **self._drop_options())

    def extra_repr(self):
        return super().extra_repr() + self._options_repr()


class Dropout1d(_ModeMixin, nn.Dropout1d):
    """Dropout of whole channels of shape (L,), for input (N, C, L) or (C, L).

    Arguments are those of :class:`Dropout`. Equivalent: ``torch.nn.Dropout1d(p, inplace)``.
    Source: Tompson et al., "Efficient object localization using convolutional networks", 2015.
    """

    def forward(self, input):
        return _dropout1d(input, *self._arguments())


class Dropout2d(_ModeMixin, nn.Dropout2d):
    """Dropout of whole channels of shape (H, W), for input (N, C, H, W).

    As in torch, a 3-D input is taken as (N, C, L), with a warning. Arguments are those of
    :class:`Dropout`. Equivalent: ``torch.nn.Dropout2d(p, inplace)``.
    Source: Tompson et al., 2015.
    """

    def forward(self, input):
        return _dropout2d(input, *self._arguments())


class Dropout3d(_ModeMixin, nn.Dropout3d):
    """Dropout of whole channels of shape (D, H, W), for input (N, C, D, H, W) or (C, D, H, W).

    Arguments are those of :class:`Dropout`. Equivalent: ``torch.nn.Dropout3d(p, inplace)``.
    Source: Tompson et al., 2015.
    """

    def forward(self, input):
        return _dropout3d(input, *self._arguments())


class AlphaDropout(nn.AlphaDropout, Leaf):
    """Dropout that keeps mean and variance, for networks of SELU units.

    As in torch, ``inplace`` is accepted and has no effect.

    Shape: any. Equivalent: ``torch.nn.AlphaDropout(p)``.
    Source: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """

    is_dropout = independent_rows = True

    def __init__(self, p=0.5, inplace=False):
        super().__init__(check_p(self, p), inplace)

    def forward(self, input):
        return FF.dropout(input, self.p, self.training, mode="alpha")


class FeatureAlphaDropout(nn.FeatureAlphaDropout, Leaf):
    """:class:`AlphaDropout` of whole channels, for input (N, C, ...).

    As in torch, ``inplace`` is accepted and has no effect.
    Equivalent: ``torch.nn.FeatureAlphaDropout(p)``.
    """

    is_dropout = independent_rows = True

    def __init__(self, p=0.5, inplace=False):
        super().__init__(check_p(self, p), inplace)

    def forward(self, input):
        return _feature_alpha_dropout(input, self.p, self.training)


# The functions below look at the number of dimensions. They stand outside of the classes so that
# torch.fx can record calls of them instead of looking inside.


def _dropout1d(x, p, training, inplace, mode):
    probability(p, "dropout1d")
    check_tensor("dropout1d", "x", x)
    if x.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {x.dim()}D input. Note "
            "that dropout1d exists to provide channel-wise dropout on inputs with 1 spatial "
            "dimension, a channel dimension, and an optional batch dimension (i.e. 2D or 3D "
            "inputs)."
        )
    return FF.dropout(x, p, training, inplace, shared_dims=(-1,), mode=mode)


def _dropout2d(x, p, training, inplace, mode):
    probability(p, "dropout2d")
    check_tensor("dropout2d", "x", x)
    if x.dim() not in (3, 4):
        _warn_dimensions("dropout2d", x.dim(), 2, "3D or 4D")
    if x.dim() == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D "
            "dropout behavior is desired - input is interpreted as shape (N, C, L), where C is "
            "the channel dim. For an input without a batch dimension use x.unsqueeze(0); to "
            "silence this warning use dropout1d instead.",
            stacklevel=2,
        )
    shared_dims = _feature_dims(x, p, training)
    return FF.dropout(x, p, training, inplace, shared_dims=shared_dims, mode=mode)


def _dropout3d(x, p, training, inplace, mode):
    probability(p, "dropout3d")
    check_tensor("dropout3d", "x", x)
    if x.dim() not in (4, 5):
        _warn_dimensions("dropout3d", x.dim(), 3, "4D or 5D")
    # Any input but a batched one is a single example, as in torch.
    shared_dims = _feature_dims(x, p, training, first=2 if x.dim() == 5 else 1)
    return FF.dropout(x, p, training, inplace, shared_dims=shared_dims, mode=mode)


def _feature_alpha_dropout(x, p, training):
    probability(p, "feature_alpha_dropout")
    check_tensor("feature_alpha_dropout", "x", x)
    return FF.dropout(x, p, training, shared_dims=_feature_dims(x, p, training), mode="alpha")


for _name in ("_dropout1d", "_dropout2d", "_dropout3d", "_feature_alpha_dropout"):
    torch.fx.wrap(_name)


def _feature_dims(x, p, training, first=2):
    """The dimensions behind (N, C), or behind (C) alone; as in torch, checked where it drops."""
    if x.dim() < first and training and x.numel() > 0 and 0 < p < 1:
        raise RuntimeError(
            f"Feature dropout requires at least 2 dimensions in the input, but got {x.dim()}"
        )
    return tuple(range(first, x.dim()))


def _warn_dimensions(function, ndim, spatial, expected):
    warnings.warn(
        f"{function}: Received a {ndim}-D input to {function}, which is deprecated and will result "
        "in an error in a future release. To retain the behavior and silence this warning, please "
        f"use dropout instead. Note that {function} exists to provide channel-wise dropout on "
        f"inputs with {spatial} spatial dimensions, a channel dimension, and an optional batch "
        f"dimension (i.e. {expected} inputs).",
        stacklevel=3,
    )
