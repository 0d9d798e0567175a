"""Samples of a network with active dropout layers, and their statistics."""

import operator
from dataclasses import dataclass

import torch

from fused_dropout.modules._stochastic import has_independent_rows
from fused_dropout.monte_carlo._contexts import Dropping
from fused_dropout.monte_carlo.mode import choose_layers

OUTPUTS = ("logits", "probs", "regression")


@dataclass(frozen=True, eq=False)
class MCPrediction:
    """The result of `fused_dropout.mc_dropout`: statistics over the samples.

    Attributes:
        mean: mean of the class probabilities, or of the model's output in regression.
        variance: elementwise variance of the same. The sum of squared deviations is divided by the
            number of samples.
        entropy: predictive entropy in nats: the entropy of `mean` along the class dimension. None
            for regression.
        mutual_information: mutual information between the class and the mask, in nats: the entropy
            of the mean minus the mean of the entropies. Never negative. None for regression.
        samples: all samples, of shape `(samples, *mean.shape)`, or None unless `keep_samples`.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    entropy: torch.Tensor | None = None
    mutual_information: torch.Tensor | None = None
    samples: torch.Tensor | None = None


def mc_dropout(
    model,
    x,
    samples=50,
    *,
    output="logits",
    only=None,
    samples_per_pass=1,
    class_dim=-1,
    keep_samples=False,
    grad=False,
):
    """Estimates the uncertainty of a trained model from several passes with active dropout layers.

    Layers draw from the default generators, so `torch.manual_seed` makes the result reproducible.

    Equivalent PyTorch code, for logits:

        with torch.no_grad(), fd.mc_mode(model):
            p = torch.stack([model(x).softmax(-1) for _ in range(samples)])
        mean, variance = p.mean(0), p.var(0, correction=0)
        entropy = torch.special.entr(mean).sum(-1)
        mutual_information = entropy - torch.special.entr(p).sum(-1).mean(0)

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016. Mutual
    information: Houlsby, Huszár, Ghahramani and Lengyel, "Bayesian active learning for
    classification and preference learning", 2011.

    Args:
        model: a `torch.nn.Module` that returns one floating-point tensor. It may be in training or
            evaluation mode, and its mode does not change: see `fused_dropout.mc_mode`.
        x: the input, or a tuple of inputs. The model gets copies, so it may work in place.
        samples: number of samples.
        output: the kind of output: "logits" (the softmax along `class_dim` is applied), "probs"
            (probabilities, whose sum along `class_dim` is 1) or "regression" (anything else).
        only: the dropout layers that drop, as in `fused_dropout.mc_mode`.
        samples_per_pass: number of samples that one forward pass computes. The batch is repeated
            so many times, which needs more memory for fewer, larger passes. Dimension 0 of every
            input and of the output must be the batch, and rows must not depend on each other. The
            distribution of the result does not change if every mask belongs to a row, as in dropout
            of elements and of channels. A mask of the whole batch (of weights, of words, of
            stochastic depth per batch) would be shared by the samples. A value above 1 is an error
            if a layer is not known to have masks for each row.
        class_dim: dimension of the classes in the output. Not used for regression.
        keep_samples: whether the result contains all samples.
        grad: whether the result has an autograd graph of all passes.

    Returns:
        MCPrediction: the statistics, in the dtype of the output, at least float32. Sums are
            computed in float64 if the device supports it. For regression, the variance is only that
            of the masks. Add the noise of the data, such as a fitted constant (Gal and Ghahramani,
            section 4).

    Raises:
        TypeError: if an argument has a wrong type, or the model does not return a floating-point
            tensor.
        ValueError: if an argument has a wrong value, or the output does not fit to `output` and
            `samples_per_pass`. Errors that do not depend on the output are raised before the model
            runs.
        IndexError: if the output has no dimension `class_dim`.
    """
    layers = choose_layers("mc_dropout", model, only)
    samples = _positive("samples", samples)
    samples_per_pass = _positive("samples_per_pass", samples_per_pass)
    if output not in OUTPUTS:
        raise ValueError(
            f"mc_dropout: output is {output!r}, but expected one of {', '.join(OUTPUTS)}"
        )
    inputs = x if isinstance(x, tuple) else (x,)
    rows = None
    if samples_per_pass > 1:
        _check_samples_are_independent(model, layers)
        rows = _rows(inputs)

    moments, entropies, kept = _Moments(), _Moments(), []
    mode = Dropping("mc_dropout", model, layers)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()), mode:
        for start in range(0, samples, samples_per_pass):
            count = min(samples_per_pass, samples - start)
            y = model(*(_copies(value, count) for value in inputs))
            _check_output(y, count, rows)
            wide = y.float() if y.device.type == "mps" else y.double()
            if output != "regression":
                dim = _class_dim(y, class_dim)
                wide = _probabilities(wide, y.dtype, output, dim)
            # Adds a dimension 0 of samples.
            wide = wide.unsqueeze(0) if rows is None else wide.unflatten(0, (count, rows))
            moments.add(wide)
            if output != "regression":
                entropies.add(_entropy(wide, dim + 1))
            if keep_samples:
                kept.append(wide.to(_result_dtype(y)))

    def result(value):
        return value.to(_result_dtype(y))

    uncertainty = {}
    if output != "regression":
        entropy = _entropy(moments.mean, dim)
        uncertainty["entropy"] = result(entropy)
        # Rounding errors can make it negative.
        uncertainty["mutual_information"] = result((entropy - entropies.mean).clamp(min=0))
    return MCPrediction(
        result(moments.mean),
        result(moments.squares / samples),
        **uncertainty,
        samples=torch.cat(kept) if keep_samples else None,
    )


class _Moments:
    """Mean and sum of squared deviations, updated with a few samples at a time (Chan et al. 1979).

    For equal samples, the mean is exactly the sample and the sum is exactly zero.
    """

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, samples):
        count, total = len(samples), self.count + len(samples)
        mean = samples[0] + (samples - samples[0]).mean(0)
        squares = (samples - mean).square().sum(0)
        if self.count:
            difference = mean - self.mean
            squares = squares + self.squares + difference.square() * (self.count * count / total)
            mean = self.mean + difference * (count / total)
        self.count, self.mean, self.squares = total, mean, squares


def _entropy(probabilities, dim):
    return torch.special.entr(probabilities).sum(dim)


def _probabilities(y, dtype, output, dim):
    """Returns the probabilities in the precision of `y`. The softmax of logits cannot overflow."""
    if output == "logits":
        return y.log_softmax(dim).exp()
    total = y.sum(dim, keepdim=True)
    # These comparisons are false for NaN, which passes through to the result.
    if (y < 0).any() or ((total - 1).abs() > torch.finfo(dtype).eps ** 0.5).any():
        raise ValueError(
            "mc_dropout: output is 'probs', but the model did not return probabilities: the values "
            f"are between {y.min().item():.4g} and {y.max().item():.4g}, their sums along "
            f"class_dim between {total.min().item():.4g} and {total.max().item():.4g}"
        )
    return y / total


def _result_dtype(y):
    return torch.promote_types(y.dtype, torch.float32)


# ---------------------------------------------------------------- arguments


def _positive(name, value):
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"mc_dropout: {name} is {value!r}, but expected a positive integer"
        ) from None
    if number < 1:
        raise ValueError(f"mc_dropout: {name} is {number}, but expected at least 1")
    return number


def _check_samples_are_independent(model, layers):
    """Raises an error if several samples in one batch might share a mask."""
    for name, layer in layers.items():
        if not has_independent_rows(layer):
            raise ValueError(
                f"mc_dropout: samples_per_pass is more than 1, but {name!r} "
                f"({type(layer).__name__}) is not known to have a mask for each row of a batch "
                "(attribute independent_rows), so the samples of a pass might share a mask"
            )
    for name, module in model.named_modules():
        if getattr(module, "batch_first", None) is False:
            raise ValueError(
                f"mc_dropout: samples_per_pass is more than 1, but {name!r} "
                f"({type(module).__name__}) has batch_first=False, so dimension 0 of its "
                "input is not the batch"
            )


def _rows(inputs):
    """Returns the size of the batch, which must be the same for all tensors."""
    sizes = {value.shape[:1] for value in inputs if isinstance(value, torch.Tensor)}
    if len(sizes) != 1 or sizes == {torch.Size()}:
        raise ValueError(
            "mc_dropout: samples_per_pass is more than 1, which needs a batch along dimension 0 of "
            "each tensor of x, but their shapes are "
            + str([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        )
    return sizes.pop()[0]


def _copies(value, count):
    """Repeats a tensor along dimension 0. Always a copy, as the first layer may work in place."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.clone() if count == 1 else torch.cat([value] * count)


def _check_output(y, count, rows):
    if not isinstance(y, torch.Tensor) or not y.is_floating_point():
        what = f"{y.dtype} tensor" if isinstance(y, torch.Tensor) else type(y).__name__
        raise TypeError(
            f"mc_dropout: the model returned a {what}, but expected a floating-point tensor; wrap "
            "the model in a module that returns one"
        )
    if rows is not None and y.shape[:1] != (count * rows,):
        raise ValueError(
            f"mc_dropout: samples_per_pass is more than 1, and the model returned a tensor of "
            f"shape {tuple(y.shape)} for {count} times {rows} rows, but expected {count * rows} "
            "rows along dimension 0"
        )


def _class_dim(y, class_dim):
    if not -y.dim() <= class_dim < y.dim():
        raise IndexError(
            f"mc_dropout: class_dim is {class_dim}, but the output has {y.dim()} dimensions"
        )
    if y.shape[class_dim] < 2:
        raise ValueError(
            f"mc_dropout: the output has shape {tuple(y.shape)}, so {y.shape[class_dim]} classes "
            f"along class_dim={class_dim}, but expected at least 2. For regression pass "
            "output='regression'. For two classes and a single logit z, let the model return "
            "torch.cat([-z, z], -1) / 2"
        )
    return class_dim % y.dim()
