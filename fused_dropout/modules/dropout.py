"""Drop-in replacements for torch.nn's dropout layers, with the same signatures and errors."""

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
    """Mixin with the keyword-only option `mode`."""

    is_dropout = independent_rows = True
    mode = "inverted"  # default for pickles of torch.nn layers, which do not have this attribute

    def __init__(self, p=0.5, inplace=False, *, mode="inverted"):
        check_mode(type(self).__name__, mode)
        super().__init__(check_p(self, p), inplace)
        self.mode = mode

    def extra_repr(self):
        return super().extra_repr() + mode_repr(self.mode)

    def _arguments(self):
        return self.p, self.training, self.inplace, self.mode


class Dropout(DropOptions, nn.Dropout):
    """Drops single elements, without a mask in memory.

    Shape: any; the output has the shape of the input.

    Equivalent PyTorch code: `torch.nn.Dropout(p, inplace)`.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way to
    prevent neural networks from overfitting", JMLR 2014.

    Args:
        p: probability to drop an element, in steps of 2^-16.
        inplace: whether the result is written into the input.
        mode: "inverted" scales by `1 / (1 - p)` in training. "classic" scales by `1 - p` in
            evaluation instead.
        shared_dims: dimensions of the input along which all elements are kept or dropped together,
            such as `(-1,)` to drop whole tokens of shape (batch, length, width).
        noise_shape: the same in the notation of Keras, such as `(None, None, 1)`.
    """

    def __init__(self, p=0.5, inplace=False, *, mode="inverted", shared_dims=(), noise_shape=None):
        super().__init__(check_p(self, p), inplace)
        self._init_options(mode, shared_dims, noise_shape)

    def forward(self, input):
        return FF.dropout(input, self.p, self.training, self.inplace, **self._drop_options())

    def extra_repr(self):
        return super().extra_repr() + self._options_repr()


class Dropout1d(_ModeMixin, nn.Dropout1d):
    """Drops whole channels of inputs of shape (N, C, L) or (C, L).

    Equivalent PyTorch code: `torch.nn.Dropout1d(p, inplace)`.

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.

    Args:
        p: probability to drop a channel, in steps of 2^-16.
        inplace: whether the result is written into the input.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
    """

    def forward(self, input):
        return _dropout1d(input, *self._arguments())


class Dropout2d(_ModeMixin, nn.Dropout2d):
    """Drops whole channels of inputs of shape (N, C, H, W).

    As in torch, a 3-D input is interpreted as (N, C, L), with a warning.

    Equivalent PyTorch code: `torch.nn.Dropout2d(p, inplace)`.

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.

    Args:
        p: probability to drop a channel, in steps of 2^-16.
        inplace: whether the result is written into the input.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
    """

    def forward(self, input):
        return _dropout2d(input, *self._arguments())


class Dropout3d(_ModeMixin, nn.Dropout3d):
    """Drops whole channels of inputs of shape (N, C, D, H, W) or (C, D, H, W).

    Equivalent PyTorch code: `torch.nn.Dropout3d(p, inplace)`.

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.

    Args:
        p: probability to drop a channel, in steps of 2^-16.
        inplace: whether the result is written into the input.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
    """

    def forward(self, input):
        return _dropout3d(input, *self._arguments())


class AlphaDropout(nn.AlphaDropout, Leaf):
    """Dropout that preserves mean and variance, for networks with the activation SELU.

    Shape: any; the output has the shape of the input.

    Equivalent PyTorch code: `torch.nn.AlphaDropout(p)`.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks",
    NeurIPS 2017.

    Args:
        p: probability to drop an element, in steps of 2^-16.
        inplace: accepted without effect, as in torch.
    """

    is_dropout = independent_rows = True

    def __init__(self, p=0.5, inplace=False):
        super().__init__(check_p(self, p), inplace)

    def forward(self, input):
        return FF.dropout(input, self.p, self.training, mode="alpha")


class FeatureAlphaDropout(nn.FeatureAlphaDropout, Leaf):
    """Alpha dropout of whole channels, for inputs of shape (N, C, ...).

    Equivalent PyTorch code: `torch.nn.FeatureAlphaDropout(p)`.

    Source: see `fused_dropout.AlphaDropout`.

    Args:
        p: probability to drop a channel, in steps of 2^-16.
        inplace: accepted without effect, as in torch.
    """

    is_dropout = independent_rows = True

    def __init__(self, p=0.5, inplace=False):
        super().__init__(check_p(self, p), inplace)

    def forward(self, input):
        return _feature_alpha_dropout(input, self.p, self.training)


# The functions below depend on the number of dimensions. They are not methods, so that torch.fx can
# record calls of them instead of tracing into them.


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
    # As in torch, every input that is not 5-D is a single example.
    shared_dims = _feature_dims(x, p, training, first=2 if x.dim() == 5 else 1)
    return FF.dropout(x, p, training, inplace, shared_dims=shared_dims, mode=mode)


def _feature_alpha_dropout(x, p, training):
    probability(p, "feature_alpha_dropout")
    check_tensor("feature_alpha_dropout", "x", x)
    return FF.dropout(x, p, training, shared_dims=_feature_dims(x, p, training), mode="alpha")


for _name in ("_dropout1d", "_dropout2d", "_dropout3d", "_feature_alpha_dropout"):
    torch.fx.wrap(_name)


def _feature_dims(x, p, training, first=2):
    """The dimensions after the channels. As in torch, checked only if something is dropped."""
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
