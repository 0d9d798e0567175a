"""DropConnect: a linear layer that drops weights."""

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

# The most elements of samples that Gaussian evaluation holds in memory at a time.
_MAX_SAMPLE_ELEMENTS = 2**22


class DropConnectLinear(LinearWeights):
    """A linear layer with an activation, whose weights are dropped element by element in training.

    Parameters, initialisation and state-dict keys (weight, bias) are those of `torch.nn.Linear`.
    It is not a subclass of `torch.nn.Linear`, so tools that replace linear layers do not replace
    it.

    Each call in training draws one mask of the weight matrix for the whole batch. The paper draws
    one for each example, which needs a matrix for each example. The bias is not dropped (the paper
    drops it too).

    `evaluation` selects one of two ways to evaluate:

    - "mean" computes `activation(W x + b)`, as in other kinds of dropout. It is exact only without
      an activation.
    - "gaussian" is the paper's way. In training, the pre-activation `u` of a unit has mean
      `W x + b` and variance `(1 - q) / q * (W * W) (x * x)`, where `q` is the probability to keep a
      weight. It is the sum of many terms, so it is nearly normal. The result is the mean of
      `activation(u)` over `samples` normal draws of `u` from torch's default generator.

    Shape: input (..., in_features); output (..., out_features).

    Equivalent PyTorch code: `activation(F.linear(x, F.dropout(weight, p, training), bias))`.

    Source: Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of neural networks using
    DropConnect", ICML 2013, section 3 and algorithm 2.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        bias: whether the layer has a bias.
        p: probability to drop a weight, in steps of 2^-16.
        activation: one of `fused_dropout.functional.ACTIVATIONS`. With "identity" the mean is
            exact, and evaluation draws nothing.
        evaluation: "mean" or "gaussian".
        samples: number of draws in Gaussian evaluation.
        mode: "inverted" scales the weights that are kept by `1 / q` in training. "classic" does not
            scale them, as in the paper. The mean and the variance are then `q * W x + b` and
            `q * (1 - q) * (W * W) (x * x)`.
        device: device of the parameters.
        dtype: dtype of the parameters.
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
                f"DropConnectLinear: samples is {samples!r}, but expected a positive integer"
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
        """Computes mean and variance of the pre-activations in training, over all masks.

        Args:
            x: input of shape (..., in_features).

        Returns:
            tuple: mean and variance, tensors of shape (..., out_features). Their dtype is float32,
                or the dtype of `x` if that is float64.

        Raises:
            ValueError: if `p` is 1 and `mode` is "inverted".
        """
        q = keep_probability(probability(self.p, "DropConnectLinear"))
        if q == 0 and self.mode == "inverted":
            raise ValueError(
                f"DropConnectLinear: p is {self.p}, but the variance of dropped weights needs p < 1"
            )
        # The squares of float16 numbers overflow.
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
        # The square root is not differentiable at 0.
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        total = torch.zeros_like(mean)
        chunk = max(1, _MAX_SAMPLE_ELEMENTS // max(mean.numel(), 1))
        for first in range(0, self.samples, chunk):
            count = min(chunk, self.samples - first)
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
