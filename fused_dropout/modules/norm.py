"""Dropout, residual and normalisation: modules that call the functions of this name."""

import math

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_tensor, normalized_dims, shared_dims_of
from fused_dropout.functional._nested import on_values
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._options import DropOptions

__all__ = ["DropoutAddLayerNorm", "DropoutAddRMSNorm"]


def _call(function, x, residual, normalized_shape, options):
    """Flattens the normalised dimensions to one and calls `function`, which normalises one."""
    check_tensor(function.__name__, "x", x)
    if x.is_nested:
        return _call_nested(function, x, residual, normalized_shape, options)
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


def _call_nested(function, x, residual, normalized_shape, options):
    """Does the same for a nested tensor."""
    if x.dim() <= len(normalized_shape):
        raise RuntimeError(
            f"{function.__name__}: x, a nested tensor, has {x.dim()} dimensions, but expected more "
            f"than the {len(normalized_shape)} of normalized_shape"
        )
    row_scale, shared_dims, noise_shape = (
        options.pop(name) for name in ("row_scale", "shared_dims", "noise_shape")
    )

    def call(values, residual, row_scale, shared_dims=(), noise_shape=None):
        more = {"shared_dims": shared_dims, "noise_shape": noise_shape, "row_scale": row_scale}
        return _call(function, values, residual, normalized_shape, {**options, **more})

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
    """Returns the shared dimensions after the last `dims` dimensions were flattened to one."""
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
    return _call(FF.dropout_add_layer_norm, x, residual, normalized_shape, options)


def _rms_norm_over(x, residual, normalized_shape, **options):
    return _call(FF.dropout_add_rms_norm, x, residual, normalized_shape, options)


# torch.fx records calls of these functions, as it cannot trace a comparison of shapes.
torch.fx.wrap("_layer_norm_over")
torch.fx.wrap("_rms_norm_over")


class _Branch(DropOptions):
    """Mixin of the two modules below: all that precedes the normalisation."""

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
    """Dropout, residual connection and layer norm: `layer_norm(residual + dropout(x))`.

    It is a `torch.nn.LayerNorm` with the dropout and the residual connection that precede it.
    Call it as `module(x, residual, row_scale=None)`.

    Shape: `x` and `residual` (or None) have the same shape `(*, *normalized_shape)`. `row_scale`
    has shape `*`; it is optional and serves stochastic depth. The output `y` has the shape of `x`.
    With `prenorm` the output is `(y, h)`, two tensors of this shape.

    Equivalent PyTorch code:

        h = residual + row_scale * layer_scale * F.dropout(act(x + branch_bias), p, training)
        y = F.layer_norm(h, normalized_shape, weight, bias, eps)

    Args:
        normalized_shape: sizes of the last dimensions of `x`, as in `torch.nn.LayerNorm`.
        p: probability to drop an element of `x`.
        eps: summand of the variance, as in `torch.nn.LayerNorm`.
        elementwise_affine: whether the normalisation has parameters, as in `torch.nn.LayerNorm`.
        bias: whether the normalisation has a bias, as in `torch.nn.LayerNorm`.
        branch_bias: whether a bias is added to `x` first. It can take the place of the bias of a
            linear layer before this module.
        activation: applied to `x`; one of `fused_dropout.functional.ACTIVATIONS`.
        prenorm: whether the sum `h` is returned too, as the input of the next residual connection.
        layer_scale_init: initial value of a parameter `layer_scale` that multiplies the branch, or
            None for no such parameter.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: as in `fused_dropout.Dropout`. If several dimensions are normalised, either all
            or none of them can be shared.
        noise_shape: the same in the notation of Keras.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Attributes:
        weight: weight of the normalisation, of shape `normalized_shape`, or None.
        bias: bias of the normalisation, of shape `normalized_shape`, or None.
        branch_bias: parameter of shape `normalized_shape`, initialised with zeros, or None.
        layer_scale: parameter of shape `normalized_shape`, or None.
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
    """Dropout, residual connection and RMS norm: `rms_norm(residual + dropout(x))`.

    It is a `torch.nn.RMSNorm` with the dropout and the residual connection that precede it. Call it
    as `module(x, residual, row_scale=None)`.

    Arguments, attributes and shapes are those of `fused_dropout.DropoutAddLayerNorm`, except that
    the normalisation has no `bias`. Unlike in `torch.nn.RMSNorm`, `eps` cannot be None.

    Equivalent PyTorch code:

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
