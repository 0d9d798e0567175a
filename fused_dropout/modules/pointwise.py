"""Modules around :func:`fused_dropout.functional.bias_act_dropout`."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._linear import LinearWeights
from fused_dropout.modules._options import DropOptions

__all__ = ["MLP", "BiasActDropout", "BiasDropoutAdd", "LinearActDropout"]


class BiasActDropout(DropOptions, nn.Module):
    """``dropout(activation(x + bias))`` with a bias of its own.

    Args:
        num_features: size of ``x`` along ``bias_dim``.
        p: probability to drop an element.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        bias_dim: the dimension that the bias belongs to: -1, or 1 after convolutions.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`.

    Attributes:
        bias: parameter of shape (num_features,), zeros at first.

    Equivalent: ``F.dropout(F.gelu(x + self.bias), p, training)``.
    """

    def __init__(
        self,
        num_features,
        p=0.5,
        activation="gelu",
        *,
        bias_dim=-1,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self._init_options(mode, shared_dims, noise_shape)
        self.num_features = num_features
        self.p = check_p(self, p)
        self.activation = check_activation(self, activation)
        self.bias_dim = bias_dim
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.bias)

    def forward(self, x):
        return FF.bias_act_dropout(
            x,
            self.bias,
            self.p,
            self.activation,
            self.training,
            bias_dim=self.bias_dim,
            **self._drop_options(),
        )

    def extra_repr(self):
        return (
            f"{self.num_features}, p={self.p}, activation={self.activation!r}, "
            f"bias_dim={self.bias_dim}{self._options_repr()}"
        )


class BiasDropoutAdd(DropOptions, nn.Module):
    """``residual + dropout(x + bias)`` with a bias of its own.

    Args:
        num_features: size of ``x`` along its last dimension.
        p: probability to drop an element.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`.

    Attributes:
        bias: parameter of shape (num_features,), zeros at first.

    Equivalent: ``residual + F.dropout(x + self.bias, p, training)``.
    """

    def __init__(
        self,
        num_features,
        p=0.5,
        *,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self._init_options(mode, shared_dims, noise_shape)
        self.num_features = num_features
        self.p = check_p(self, p)
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.bias)

    def forward(self, x, residual):
        return FF.bias_dropout_add(
            x, self.bias, residual, self.p, self.training, **self._drop_options()
        )

    def extra_repr(self):
        return f"{self.num_features}, p={self.p}{self._options_repr()}"


class LinearActDropout(DropOptions, LinearWeights):
    """``dropout(activation(linear(x)))``: the bias is added in the activation's pass.

    Parameters, initialisation and state-dict keys (weight, bias) are those of ``torch.nn.Linear``.
    It is no subclass of that class, so that tools which replace linear layers leave it alone.

    Args:
        in_features, out_features, bias: as in ``torch.nn.Linear``.
        p: probability to drop an element of the output.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`.

    Shape: (..., in_features) to (..., out_features).

    Equivalent: ``F.dropout(F.gelu(F.linear(x, weight, bias)), p, training)``.
    """

    def __init__(
        self,
        in_features,
        out_features,
        bias=True,
        p=0.5,
        activation="gelu",
        *,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._init_options(mode, shared_dims, noise_shape)
        self.p = check_p(self, p)
        self.activation = check_activation(self, activation)

    def forward(self, x):
        return FF.bias_act_dropout(
            F.linear(x, self.weight),
            self.bias,
            self.p,
            self.activation,
            self.training,
            **self._drop_options(),
        )

    def extra_repr(self):
        text = f"{super().extra_repr()}, p={self.p}, activation={self.activation!r}"
        return text + self._options_repr()


class MLP(nn.Module):
    """Two linear layers with activation and dropout between them.

    Args:
        in_features, hidden_features, out_features: widths.
        p: probability to drop a hidden unit.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`.

    Shape: (..., in_features) to (..., out_features). State-dict keys: fc1.*, fc2.*.

    Equivalent: ``fc2(F.dropout(F.gelu(fc1(x)), p, training))``.
    """

    def __init__(
        self,
        in_features,
        hidden_features,
        out_features,
        p=0.5,
        activation="gelu",
        *,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.fc1 = LinearActDropout(
            in_features,
            hidden_features,
            p=p,
            activation=activation,
            mode=mode,
            shared_dims=shared_dims,
            noise_shape=noise_shape,
            device=device,
            dtype=dtype,
        )
        self.fc2 = nn.Linear(hidden_features, out_features, device=device, dtype=dtype)

    def forward(self, x):
        return self.fc2(self.fc1(x))
