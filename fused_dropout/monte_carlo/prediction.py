"""Samples of a network that drops, and their statistics."""

import operator
from dataclasses import dataclass

import torch

from fused_dropout.modules._stochastic import has_independent_rows
from fused_dropout.monte_carlo._contexts import Dropping
from fused_dropout.monte_carlo.mode import choose_layers

OUTPUTS = ("logits", "probs", "regression")


@dataclass(frozen=True, eq=False)
class MCPrediction:
    """What :func:`mc_dropout` returns: statistics over its samples.

    Attributes:
        mean: of the model's output; of the class probabilities where it classifies.
        variance: of the same, elementwise: the population variance, divided by the number of
            samples.
        entropy: predictive entropy, that of ``mean``, in nats; without the dimension of the
            classes. None for regression.
        mutual_information: between the class and the dropped network, in nats: the entropy of the
            mean minus the mean of the entropies, never negative. None for regression.
        samples: all of them, of shape (samples, *mean.shape), if they were to be kept.
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
    """Runs a trained model several times with its dropout layers dropping, for its uncertainty.

    Args:
        model: a ``torch.nn.Module`` that returns one floating-point tensor. Its mode does not
            matter, and does not change: see :func:`mc_mode`.
        x: the input; a tuple is several. The model may change it in place.
        samples: number of samples T.
        output: what the model returns: "logits" (a softmax along ``class_dim`` follows), "probs"
            (probabilities that add up to 1 along it), or "regression" (anything else).
        only: which dropout layers shall drop, as in :func:`mc_mode`.
        samples_per_pass: how many samples one forward pass computes, by repeating the batch: the
            memory of so many batches for fewer, larger passes. The same in distribution if every
            mask belongs to a row, as those of elementwise dropout and of dropped channels do, and
            if rows do not see each other: dimension 0 of every input and of the output has to be
            the batch. Masks that a batch shares (of weights, of words, of stochastic depth per
            batch) would be shared by the samples; where a layer is not known to have masks per
            row, more than 1 is an error.
        class_dim: the dimension of the output that the classes lie along; not used for regression.
        keep_samples: whether to return all samples, too, and not statistics alone.
        grad: whether the result has an autograd graph, of all passes.

    Returns:
        MCPrediction: in the output's dtype, float32 at least. Sums are in float64 where the device
        has it. For regression the variance is that of the dropped networks alone: the noise of
        the data, such as a constant that was fitted, is to be added (Gal, Ghahramani, section 4).

    Errors: TypeError or ValueError for a wrong argument, before the model runs; these and
    IndexError for an output that is not as described.

    Seeds: layers draw from the default generators, so ``torch.manual_seed`` reproduces everything.

    Equivalent, for logits::

        with torch.no_grad(), fd.mc_mode(model):
            p = torch.stack([model(x).softmax(-1) for _ in range(samples)])
        mean, variance = p.mean(0), p.var(0, correction=0)
        entropy = torch.special.entr(mean).sum(-1)
        mutual_information = entropy - torch.special.entr(p).sum(-1).mean(0)

    Sources: Gal, Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; mutual information:
    Houlsby et al., "Bayesian active learning for classification and preference learning", 2011.
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
            # From now on the samples lie along a dimension of their own, the first.
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
        # Rounding alone can take it below zero.
        uncertainty["mutual_information"] = result((entropy - entropies.mean).clamp(min=0))
    return MCPrediction(
        result(moments.mean),
        result(moments.squares / samples),
        **uncertainty,
        samples=torch.cat(kept) if keep_samples else None,
    )


class _Moments:
    """Mean and sum of squared deviations of samples that come a few at a time (Chan et al. 1979).

    Equal samples have exactly their mean and a sum of exactly zero.
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
    """In the precision of ``y``; those of logits by way of their logarithms, never overflowing."""
    if output == "logits":
        return y.log_softmax(dim).exp()
    total = y.sum(dim, keepdim=True)
    # NaN is the model's affair.
    if (y < 0).any() or ((total - 1).abs() > torch.finfo(dtype).eps ** 0.5).any():
        raise ValueError(
            "mc_dropout: output is 'probs', but what the model returned is not: the values are "
            f"between {y.min().item():.4g} and {y.max().item():.4g}, their sums along class_dim "
            f"between {total.min().item():.4g} and {total.max().item():.4g}"
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
    """Refuses to put several samples into a batch where they might share a mask."""
    for name, layer in layers.items():
        if not has_independent_rows(layer):
            raise ValueError(
                f"mc_dropout: samples_per_pass is more than 1, but {name!r} "
                f"({type(layer).__name__}) is not known to have a mask for each row of a batch "
                "(attribute independent_rows), so that the samples of a pass might share one"
            )
    for name, module in model.named_modules():
        if getattr(module, "batch_first", None) is False:
            raise ValueError(
                f"mc_dropout: samples_per_pass is more than 1, but {name!r} "
                f"({type(module).__name__}) has batch_first=False, so that dimension 0 of its "
                "input is not the batch"
            )


def _rows(inputs):
    """The size of the batch, which has to be the same for all tensors."""
    sizes = {value.shape[:1] for value in inputs if isinstance(value, torch.Tensor)}
    if len(sizes) != 1 or sizes == {torch.Size()}:
        raise ValueError(
            "mc_dropout: samples_per_pass is more than 1, which needs a batch along dimension 0 of "
            "each tensor of x, but their shapes are "
            + str([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        )
    return sizes.pop()[0]


def _copies(value, count):
    """Memory of its own also for a single copy: the first layer may work in place."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.clone() if count == 1 else torch.cat([value] * count)


def _check_output(y, count, rows):
    if not isinstance(y, torch.Tensor) or not y.is_floating_point():
        what = f"{y.dtype} tensor" if isinstance(y, torch.Tensor) else type(y).__name__
        raise TypeError(
            f"mc_dropout: the model returned a {what}, but expected a floating-point tensor; wrap "
            "a model that returns something else in a module that returns the tensor wanted"
        )
    if rows is not None and y.shape[:1] != (count * rows,):
        raise ValueError(
            f"mc_dropout: samples_per_pass is more than 1, but from {count} times {rows} rows "
            f"the model made an output of shape {tuple(y.shape)}: dimension 0 is not the batch"
        )


def _class_dim(y, class_dim):
    if not -y.dim() <= class_dim < y.dim():
        raise IndexError(
            f"mc_dropout: class_dim is {class_dim}, but the output has {y.dim()} dimensions"
        )
    if y.shape[class_dim] < 2:
        raise ValueError(
            f"mc_dropout: the output has shape {tuple(y.shape)}, so {y.shape[class_dim]} classes "
            f"along class_dim={class_dim}, but expected at least 2. For regression say "
            "output='regression'; a single logit z of two classes is torch.cat([-z, z], -1) / 2"
        )
    return class_dim % y.dim()
