"""Gated units: modules that call `fused_dropout.functional.bias_glu_dropout`."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._linear import LinearWeights
from fused_dropout.modules._options import DropOptions

__all__ = ["BiasGLUDropout", "GatedMLP", "LinearGLUDropout"]


class BiasGLUDropout(DropOptions, nn.Module):
    """Bias, gated unit and dropout: `dropout(activation(x1 + b1) * (x2 + b2))`, `x = [x1 | x2]`.

    Shape: input (..., 2 * num_features); output (..., num_features).

    Equivalent PyTorch code:

        gate, value = (x + bias).chunk(2, -1)
        F.dropout(F.silu(gate) * value, p, training)

    Source: Shazeer, "GLU variants improve transformer", 2020.

    Args:
        num_features: size of the output's last dimension, half of the input's.
        p: probability to drop an element of the output.
        activation: one of `fused_dropout.functional.ACTIVATIONS`. "silu" makes a SwiGLU, "gelu" a
            GEGLU, "relu" a ReGLU and "sigmoid" a GLU.
        gate_first: if True, the activation is applied to the first half. If False, it is applied to
            the second half, as in `torch.nn.GLU`.
        mode: "inverted" or "classic", as in `fused_dropout.Dropout`.
        shared_dims: dimensions of the output, as in `fused_dropout.Dropout`.
        noise_shape: for the output, as in `fused_dropout.Dropout`.
        device: device of the parameter.
        dtype: dtype of the parameter.

    Attributes:
        bias: parameter of shape (2 * num_features,), initialised with zeros.
    """

    def __init__(
        self,
        num_features,
        p=0.5,
        activation="silu",
        *,
        gate_first=True,
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
        self.gate_first = gate_first
        self.bias = nn.Parameter(torch.empty(2 * num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.bias)

    def forward(self, x):
        return FF.bias_glu_dropout(
            x,
            self.bias,
            self.p,
            self.activation,
            self.training,
            gate_first=self.gate_first,
            **self._drop_options(),
        )

    def extra_repr(self):
        return (
            f"{self.num_features}, p={self.p}, activation={self.activation!r}, "
            f"gate_first={self.gate_first}{self._options_repr()}"
        )


class LinearGLUDropout(DropOptions, LinearWeights):
    """A linear layer with twice the output features, a gated unit and dropout.

    Parameters, initialisation and state-dict keys (weight, bias) are those of
    `torch.nn.Linear(in_features, 2 * out_features)`. The kernel of the gated unit adds the bias.
    This module is not a subclass of `torch.nn.Linear`, so tools that replace linear layers do not
    replace it.

    Shape: input (..., in_features); output (..., out_features).

    Equivalent PyTorch code:

        gate, value = F.linear(x, weight, bias).chunk(2, -1)
        F.dropout(F.silu(gate) * value, p, training)

    Source: Shazeer, "GLU variants improve transformer", 2020.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension, half of what the linear layer computes.
        bias: whether the linear layer has a bias.
        p: probability to drop an element of the output.
        activation: activation of the gate, as in `fused_dropout.BiasGLUDropout`.
        gate_first: which half is the gate, as in `fused_dropout.BiasGLUDropout`.
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
        activation="silu",
        *,
        gate_first=True,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, 2 * out_features, bias, device=device, dtype=dtype)
        self._init_options(mode, shared_dims, noise_shape)
        self.p = check_p(self, p)
        self.activation = check_activation(self, activation)
        self.gate_first = gate_first

    def forward(self, x):
        return FF.bias_glu_dropout(
            F.linear(x, self.weight),
            self.bias,
            self.p,
            self.activation,
            self.training,
            gate_first=self.gate_first,
            **self._drop_options(),
        )

    def extra_repr(self):
        return (
            f"{super().extra_repr()}, p={self.p}, activation={self.activation!r}, "
            f"gate_first={self.gate_first}{self._options_repr()}"
        )


class GatedMLP(nn.Module):
    """Two linear layers with a gated unit and dropout between them.

    Shape: input (..., in_features); output (..., out_features). State-dict keys: `fc1.*`, `fc2.*`.

    Equivalent PyTorch code:

        gate, value = fc1(x).chunk(2, -1)
        fc2(F.dropout(F.silu(gate) * value, p, training))

    Source: Shazeer, "GLU variants improve transformer", 2020.

    Args:
        in_features: size of the input's last dimension.
        hidden_features: number of hidden units. The first layer computes twice as many numbers,
            gate and value.
        out_features: size of the output's last dimension.
        p: probability to drop a hidden unit.
        activation: activation of the gate, as in `fused_dropout.BiasGLUDropout`.
        gate_first: which half is the gate, as in `fused_dropout.BiasGLUDropout`.
        bias: whether the linear layers have a bias.
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
        activation="silu",
        *,
        gate_first=True,
        bias=True,
        mode="inverted",
        shared_dims=(),
        noise_shape=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.fc1 = LinearGLUDropout(
            in_features,
            hidden_features,
            bias,
            p,
            activation,
            gate_first=gate_first,
            mode=mode,
            shared_dims=shared_dims,
            noise_shape=noise_shape,
            device=device,
            dtype=dtype,
        )
        self.fc2 = nn.Linear(hidden_features, out_features, bias, device=device, dtype=dtype)

    def forward(self, x):
        return self.fc2(self.fc1(x))
