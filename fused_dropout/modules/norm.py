"""Modules around :func:`fused_dropout.functional.dropout_add_layer_norm` and its RMS sibling."""

import math

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_tensor, normalized_dims, shared_dims_of
from fused_dropout.functional._nested import on_values
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._options import DropOptions

__all__ = ["DropoutAddLayerNorm", "DropoutAddRMSNorm"]


def _over(function, x, residual, normalized_shape, options):
    """Calls `function` with the normalised dimensions of all tensors flattened to one."""
    check_tensor(function.__name__, "x", x)
    if x.is_nested:
        return _over_values(function, x, residual, normalized_shape, options)
    shape, dims = x.shape, len(normalized_shape)
    if shape[-dims:] != normalized_shape:
        raise RuntimeError(
            f"{function.__name__}: x has shape {tuple(shape)}, but normalized_shape is "
            f"{tuple(normalized_shape)}"
        )
    if dims == 1:
        return function(x, residual, **options)
    width = math.prod(normalized_shape)
    options["shared_dims"] = _flat_shared_dims(function.__name__, x, dims, options)
    x = x.reshape(*shape[:-dims], width)
    residual = residual.reshape(x.shape) if residual is not None else None
    for name in ("weight", "norm_bias", "bias", "layer_scale"):
        if options.get(name) is not None:
            options[name] = options[name].reshape(width)
    result = function(x, residual, **options)
    if isinstance(result, tuple):
        return tuple(tensor.reshape(shape) for tensor in result)
    return result.reshape(shape)


def _over_values(function, x, residual, normalized_shape, options):
    """The same for a nested tensor."""
    if x.dim() <= len(normalized_shape):
        raise RuntimeError(
            f"{function.__name__}: x, a nested tensor, has {x.dim()} dimensions, but expected more "
            f"than the {len(normalized_shape)} of normalized_shape"
        )
    row_scale, shared_dims, noise_shape = (
        options.pop(name) for name in ("row_scale", "shared_dims", "noise_shape")
    )

    def call(values, residual, row_scale, shared_dims=(), noise_shape=None):
        place = {"shared_dims": shared_dims, "noise_shape": noise_shape, "row_scale": row_scale}
        return _over(function, values, residual, normalized_shape, {**options, **place})

    return on_values(
        function.__name__,
        call,
        x,
        same={"residual": residual},
        rows={"row_scale": row_scale},
        last=len(normalized_shape),
        shared_dims=shared_dims,
        noise_shape=noise_shape,
    )


def _flat_shared_dims(function, x, dims, options):
    """The shared dimensions where the last `dims` have become one."""
    shared = shared_dims_of(function, x, options["shared_dims"], options.pop("noise_shape"))
    shared = normalized_dims(function, shared, x.dim())
    first = x.dim() - dims
    leading = [dim for dim in shared if dim < first]
    if len(leading) == len(shared):
        return leading
    if any(dim not in shared and x.shape[dim] > 1 for dim in range(first, x.dim())):
        raise ValueError(
            f"{function}: shared_dims names some of the {dims} normalised dimensions, but expected "
            f"all or none of them: {shared}"
        )
    return [*leading, first]


def _layer_norm_over(x, residual, normalized_shape, **options):
    return _over(FF.dropout_add_layer_norm, x, residual, normalized_shape, options)


def _rms_norm_over(x, residual, normalized_shape, **options):
    return _over(FF.dropout_add_rms_norm, x, residual, normalized_shape, options)


# Symbolic tracing records these calls, as it cannot follow a comparison of shapes.
torch.fx.wrap("_layer_norm_over")
torch.fx.wrap("_rms_norm_over")


class _Branch(DropOptions):
    """What is in front of the normalisation: a mixin of the two modules below."""

    def _init_branch(
        self,
        p,
        branch_bias,
        activation,
        prenorm,
        layer_scale_init,
        mode,
        shared_dims,
        noise_shape,
        device=None,
        dtype=None,
    ):
        self._init_options(mode, shared_dims, noise_shape)
        self.p = check_p(self, p)
        self.activation = check_activation(self, activation)
        self.prenorm = prenorm
        self.layer_scale_init = layer_scale_init

        def parameter(wanted):
            empty = torch.empty(self.normalized_shape, device=device, dtype=dtype)
            return nn.Parameter(empty) if wanted else None

        self.register_parameter("branch_bias", parameter(branch_bias))
        self.register_parameter("layer_scale", parameter(layer_scale_init is not None))
        self._reset_branch()

    def _reset_branch(self):
        if self.branch_bias is not None:
            nn.init.zeros_(self.branch_bias)
        if self.layer_scale is not None:
            nn.init.constant_(self.layer_scale, self.layer_scale_init)

    def _options(self):
        return {
            "bias": self.branch_bias,
            "layer_scale": self.layer_scale,
            "p": self.p,
            "eps": self.eps,
            "activation": self.activation,
            "prenorm": self.prenorm,
            "training": self.training,
            **self._drop_options(),
        }

    def _branch_repr(self):
        text = f", p={self.p}, activation={self.activation!r}, prenorm={self.prenorm}"
        if self.branch_bias is not None:
            text += ", branch_bias=True"
        if self.layer_scale is not None:
            text += f", layer_scale_init={self.layer_scale_init}"
        return text + self._options_repr()


class DropoutAddLayerNorm(_Branch, nn.LayerNorm):
    """``layer_norm(residual + dropout(x))``: a ``torch.nn.LayerNorm`` with what precedes it.

    Args:
        normalized_shape: sizes of the last dimensions of ``x``, as in ``torch.nn.LayerNorm``.
        p: probability to drop an element of ``x``.
        eps, elementwise_affine, bias: as in ``torch.nn.LayerNorm``.
        branch_bias: whether a bias is added to ``x`` first, such as that of the linear layer
            before.
        activation: of ``x``; one of ``fused_dropout.functional.ACTIVATIONS``.
        prenorm: return the sum ``h`` too, from which the next residual connection starts.
        layer_scale_init: if given, the branch is multiplied by a parameter of this initial value.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`; of several normalised
            dimensions all or none can be shared.

    Attributes:
        weight, bias: the normalisation's, of shape ``normalized_shape``, as in
            ``torch.nn.LayerNorm``; ``branch_bias`` (zeros at first) and ``layer_scale`` likewise.

    Shape: ``x`` and ``residual`` (or None) of one shape ``(*, *normalized_shape)``; ``row_scale``
    (optional, for stochastic depth) of shape ``*``. Returns ``y``, or ``(y, h)`` with ``prenorm``.

    Equivalent::

        h = residual + row_scale * layer_scale * F.dropout(act(x + branch_bias), p, training)
        y = F.layer_norm(h, normalized_shape, weight, bias, eps)
    """

    def __init__(
        self,
        normalized_shape,
        p=0.5,
        eps=1e-5,
        elementwise_affine=True,
        bias=True,
        *,
        branch_bias=False,
        activation="identity",
        prenorm=False,
        layer_scale_init=None,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        self._init_branch(
            p,
            branch_bias,
            activation,
            prenorm,
            layer_scale_init,
            mode,
            shared_dims,
            noise_shape,
            device,
            dtype,
        )

    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "layer_scale"):  # torch's constructor comes before
            self._reset_branch()

    def forward(self, x, residual, row_scale=None):
        return _layer_norm_over(
            x,
            residual,
            self.normalized_shape,
            weight=self.weight,
            norm_bias=self.bias,
            row_scale=row_scale,
            **self._options(),
        )

    def extra_repr(self):
        return super().extra_repr() + self._branch_repr()


class DropoutAddRMSNorm(_Branch, nn.RMSNorm):
    """``rms_norm(residual + dropout(x))``: a ``torch.nn.RMSNorm`` with what precedes it.

    Arguments, attributes and shapes are those of :class:`DropoutAddLayerNorm`, without a ``bias``
    of the normalisation. Unlike in ``torch.nn.RMSNorm``, ``eps`` is a number in any case.

    Equivalent::

        h = residual + row_scale * layer_scale * F.dropout(act(x + branch_bias), p, training)
        y = F.rms_norm(h, normalized_shape, weight, eps)
    """

    def __init__(
        self,
        normalized_shape,
        p=0.5,
        eps=1e-5,
        elementwise_affine=True,
        *,
        branch_bias=False,
        activation="identity",
        prenorm=False,
        layer_scale_init=None,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self._init_branch(
            p,
            branch_bias,
            activation,
            prenorm,
            layer_scale_init,
            mode,
            shared_dims,
            noise_shape,
            device,
            dtype,
        )

    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "layer_scale"):  # torch's constructor comes before
            self._reset_branch()

    def forward(self, x, residual, row_scale=None):
        return _rms_norm_over(
            x,
            residual,
            self.normalized_shape,
            weight=self.weight,
            row_scale=row_scale,
            **self._options(),
        )

    def extra_repr(self):
        return super().extra_repr() + self._branch_repr()
