"""A linear layer that drops weights."""

import torch
import torch.nn.functional as F

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import (
    check_mode,
    check_tensor,
    keep_probability,
    probability,
)
from fused_dropout.modules._checks import check_activation, check_p
from fused_dropout.modules._linear import LinearWeights
from fused_dropout.modules._options import mode_repr

__all__ = ["DropConnectLinear"]

# Numbers that the evaluation by samples holds at a time.
_NUMBERS_AT_A_TIME = 2**22


class DropConnectLinear(LinearWeights):
    """A linear layer that drops single weights in training, with the activation behind it.

    Parameters, initialisation and state-dict keys (weight, bias) are those of ``torch.nn.Linear``.
    It is no subclass of that class, so that tools which replace linear layers leave it alone.

    Each call in training draws one mask over the weight matrix, for all examples of the batch; the
    paper draws one for each example, which takes a matrix for each. The bias is not dropped (in the
    paper it is).

    Evaluation has two ways. By the mean, as with any dropout, it computes ``activation(W x + b)``;
    this is exact only without an activation. By the paper's Gaussian, each unit's input ``u`` in
    training has mean ``W x + b`` and variance ``(1 - q) / q * (W * W) (x * x)``, ``q`` being the
    probability to keep a weight; as a sum of many terms it is nearly normal, and the result is the
    mean of ``activation`` over ``samples`` normal draws of ``u``, from torch's default generator.

    Args:
        in_features, out_features, bias: as in ``torch.nn.Linear``.
        p: probability to drop a weight, in steps of 2^-16.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``. Without one the mean is exact,
            and nothing is drawn in evaluation.
        evaluation: "mean" or "gaussian".
        samples: how many draws the Gaussian is averaged over.
        mode: "inverted" scales the weights that are kept by ``1 / q`` in training; "classic" leaves
            them, as the paper does: then ``q * W x + b`` and ``q * (1 - q) * (W * W) (x * x)`` are
            the mean and the variance.

    Shape: (..., in_features) to (..., out_features).

    Equivalent: ``activation(F.linear(x, F.dropout(weight, p, training), bias))``.
    Source: Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of neural networks using
    DropConnect", ICML 2013, section 3 and algorithm 2.
    """

    is_dropout = True

    def __init__(
        self,
        in_features,
        out_features,
        bias=True,
        p=0.5,
        *,
        activation="identity",
        evaluation="mean",
        samples=100,
        mode="inverted",
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.p = check_p(self, p)
        self.activation = check_activation(self, activation)
        if evaluation not in ("mean", "gaussian"):
            raise ValueError(
                f"DropConnectLinear: evaluation is {evaluation!r}, but expected 'mean' or "
                "'gaussian'"
            )
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(
                f"DropConnectLinear: samples is {samples!r}, but expected a number from 1"
            )
        self.evaluation = evaluation
        self.samples = samples
        self.mode = check_mode(type(self).__name__, mode)

    def forward(self, x):
        check_tensor(type(self).__name__, "x", x)
        gaussian = self.evaluation == "gaussian" and self.activation != "identity"
        if gaussian and not self.training:
            return self._mean_over_samples(x)
        weight = FF.dropout(self.weight, self.p, self.training, mode=self.mode)
        if self.activation == "identity":
            return F.linear(x, weight, self.bias)
        return self._activate(F.linear(x, weight), self.bias)

    def moments(self, x):
        """Mean and variance of each unit's input in training, for given ``x``.

        Returns:
            two Tensors of shape (..., out_features), in float32, or ``x``'s dtype if it is wider.
        """
        q = keep_probability(probability(self.p, "DropConnectLinear"))
        if q == 0 and self.mode == "inverted":
            raise ValueError(
                f"DropConnectLinear: p is {self.p}, but the variance of dropped weights needs p < 1"
            )
        # The squares of 16-bit numbers leave their range.
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, x = self.weight.to(dtype), x.to(dtype)
        scale, variance = (1, (1 - q) / q) if self.mode == "inverted" else (q, q * (1 - q))
        with torch.autocast(x.device.type, enabled=False):
            mean = F.linear(x, weight) * scale
            if self.bias is not None:
                mean = mean + self.bias.to(dtype)
            return mean, F.linear(x.square(), weight.square()) * variance

    def _mean_over_samples(self, x):
        mean, variance = self.moments(x)
        # The square root has no derivative at 0.
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        total = torch.zeros_like(mean)
        at_a_time = max(1, _NUMBERS_AT_A_TIME // max(mean.numel(), 1))
        for first in range(0, self.samples, at_a_time):
            count = min(at_a_time, self.samples - first)
            normal = torch.randn((count, *mean.shape), dtype=mean.dtype, device=mean.device)
            total = total + self._activate(mean + deviation * normal).sum(0)
        return (total / self.samples).to(x.dtype)

    def _activate(self, x, bias=None):
        return FF.bias_act_dropout(x, bias, 0.0, self.activation, training=False)

    def extra_repr(self):
        text = f"{super().extra_repr()}, p={self.p}, activation={self.activation!r}"
        text += f", evaluation={self.evaluation!r}"
        if self.evaluation == "gaussian":
            text += f", samples={self.samples}"
        return text + mode_repr(self.mode)
