"""Modules around :func:`fused_dropout.functional.bias_glu_dropout`."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._linear import LinearWeights
from fused_dropout.modules._options import DropOptions

__all__ = ["BiasGLUDropout", "GatedMLP", "LinearGLUDropout"]


class BiasGLUDropout(DropOptions, nn.Module):
    """``dropout(activation(x1 + b1) * (x2 + b2))``, ``x = [x1 | x2]``, with a bias of its own.

    Args:
        num_features: size of the result along its last dimension, half of ``x``'s.
        p: probability to drop an element of the result.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``: "silu" is SwiGLU, "gelu"
            GEGLU, "relu" ReGLU, "sigmoid" GLU.
        gate_first: whether the activation is applied to the first half or, as in ``nn.GLU``, to
            the second.
        mode, shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`; they speak of the
            result.

    Attributes:
        bias: parameter of shape (2 * num_features,), zeros at first.

    Shape: (..., 2 * num_features) to (..., num_features).

    Equivalent: ``F.dropout(F.silu(gate) * value, p, training)`` with ``gate, value =
    (x + self.bias).chunk(2, -1)``.
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
    """A linear layer to two halves, the gated unit of them, and dropout.

    Parameters, initialisation and state-dict keys (weight, bias) are those of a
    ``torch.nn.Linear(in_features, 2 * out_features)``; the bias is added in the pass of the gated
    unit. It is no subclass of that class, so that tools which replace linear layers leave it alone.

    Args:
        in_features: size of ``x`` along its last dimension.
        out_features: size of the result, half of what the linear layer computes.
        bias: as in ``torch.nn.Linear``.
        p, activation, gate_first, mode, shared_dims, noise_shape: as in :class:`BiasGLUDropout`.

    Shape: (..., in_features) to (..., out_features).

    Equivalent: ``F.dropout(F.silu(gate) * value, p, training)`` with ``gate, value =
    F.linear(x, weight, bias).chunk(2, -1)``.
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

    Args:
        in_features, hidden_features, out_features: widths; the first layer computes twice
            ``hidden_features``, gate and value.
        p: probability to drop a hidden unit.
        activation, gate_first, mode, shared_dims, noise_shape: as in :class:`BiasGLUDropout`.
        bias: whether the linear layers have one.

    Shape: (..., in_features) to (..., out_features). State-dict keys: fc1.*, fc2.*.

    Equivalent: ``fc2(F.dropout(F.silu(gate) * value, p, training))`` with ``gate, value =
    fc1(x).chunk(2, -1)``. Source: Shazeer, "GLU variants improve transformer", 2020.
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
