"""Bias, activation, dropout and residual in one kernel."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._linear import LinearWeights
from fused_dropout.modules._options import DropOptions

__all__ = ["MLP", "BiasActDropout", "BiasDropoutAdd", "LinearActDropout"]


class BiasActDropout(DropOptions, nn.Module):
    """Bias, activation and dropout: `dropout(activation(x + bias))`.

    Shape: any shape with `num_features` elements along `bias_dim`; the output has the shape of the
    input.

    Equivalent PyTorch code: `F.dropout(F.gelu(x + bias), p, training)`.

    Args:
        num_features: size of the input along `bias_dim`.
        p: probability to drop an element.
        activation: one of `fused_dropout.functional.ACTIVATIONS`.
        bias_dim: dimension that the bias belongs to: -1 after linear layers, 1 after convolutions.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: as in `fused_dropout.Dropout`.
        noise_shape: as in `fused_dropout.Dropout`.
        device: device of the parameter.
        dtype: dtype of the parameter.

    Attributes:
        bias: parameter of shape (num_features,), initialised with zeros.
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
    """Bias, dropout and residual connection: `residual + dropout(x + bias)`.

    Call it as `module(x, residual)`.

    Shape: `x` and `residual` have the same shape (..., num_features), and so has the output.

    Equivalent PyTorch code: `residual + F.dropout(x + bias, p, training)`.

    Args:
        num_features: size of the input's last dimension.
        p: probability to drop an element.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: as in `fused_dropout.Dropout`.
        noise_shape: as in `fused_dropout.Dropout`.
        device: device of the parameter.
        dtype: dtype of the parameter.

    Attributes:
        bias: parameter of shape (num_features,), initialised with zeros.
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
    """Linear layer, activation and dropout: `dropout(activation(linear(x)))`.

    Parameters, initialisation and state-dict keys (weight, bias) are those of `torch.nn.Linear`.
    The kernel of the activation adds the bias. This module is not a subclass of `torch.nn.Linear`,
    so tools that replace linear layers do not replace it.

    Shape: input (..., in_features); output (..., out_features).

    Equivalent PyTorch code: `F.dropout(F.gelu(F.linear(x, weight, bias)), p, training)`.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        bias: whether the linear layer has a bias.
        p: probability to drop an element of the output.
        activation: one of `fused_dropout.functional.ACTIVATIONS`.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: dimensions of the output, as in `fused_dropout.Dropout`.
        noise_shape: for the output, as in `fused_dropout.Dropout`.
        device: device of the parameters.
        dtype: dtype of the parameters.
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
    """Two linear layers with an activation and dropout between them.

    Shape: input (..., in_features); output (..., out_features). State-dict keys: `fc1.*`, `fc2.*`.

    Equivalent PyTorch code: `fc2(F.dropout(F.gelu(fc1(x)), p, training))`.

    Args:
        in_features: size of the input's last dimension.
        hidden_features: number of hidden units.
        out_features: size of the output's last dimension.
        p: probability to drop a hidden unit.
        activation: one of `fused_dropout.functional.ACTIVATIONS`.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: dimensions of the hidden units, as in `fused_dropout.Dropout`.
        noise_shape: for the hidden units, as in `fused_dropout.Dropout`.
        device: device of the parameters.
        dtype: dtype of the parameters.
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
