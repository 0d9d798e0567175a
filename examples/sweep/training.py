"""One training run of the sweep."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd

MOMENTUM, BATCH = 0.9, 25
SAMPLES_PER_PASS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of all runs of a sweep."""

    hidden: tuple[int, ...]
    epochs: int
    learning_rate: float
    weight_decay: float
    l1: float
    mc_samples: int


def network(inputs, hidden, classes, p):
    """Returns a multilayer perceptron of fused modules: linear layer, ReLU and dropout."""
    widths = (inputs, *hidden)
    layers = [
        fd.LinearActDropout(before, after, p=p, activation="relu")
        for before, after in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def run_all(data, settings, probabilities, seeds, on_run):
    """Returns `{p: {score: array with a number per seed}}`. Calls `on_run` after each run."""
    runs = {p: [] for p in probabilities}
    for seed in range(seeds):
        parts = data.split(seed)
        for p in probabilities:
            runs[p].append(train(parts, settings, p, seed))
            on_run()
    return {
        p: {name: np.array([run[name] for run in per_seed]) for name in per_seed[0]}
        for p, per_seed in runs.items()
    }


def train(parts, settings, p, seed):
    """Trains a network and returns its scores after the last epoch, `{name: number}`.

    `{train,val,test}_acc` are in percent and `{train,val,test}_loss` in nats, both without dropout.
    `gap` is training accuracy minus validation accuracy. Names with `mc_` are scores of the average
    over Monte Carlo samples.

    The result depends only on `p` and `seed`. Runs with the same seed start from the same weights
    and see the same batches for every p, so they can be compared in pairs.
    """
    x, y = parts["train"]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = network(x.shape[1], settings.hidden, int(y.max()) + 1, p)
        weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        biases = [parameter for parameter in model.parameters() if parameter.dim() == 1]
        optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases}],
            lr=settings.learning_rate,
            momentum=MOMENTUM,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
        order = torch.Generator().manual_seed(seed)
        for _ in range(settings.epochs):
            for batch in torch.randperm(len(x), generator=order).split(BATCH):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                if settings.l1:
                    loss = loss + settings.l1 * sum(weight.abs().sum() for weight in weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        return evaluate(model, parts, settings.mc_samples if p else 0)


@torch.no_grad()
def evaluate(model, parts, mc_samples):
    """Returns the scores of `train`. Without dropout, all Monte Carlo samples are equal."""
    model.eval()
    result = {}
    for part, (x, y) in parts.items():
        log_probs = model(x).log_softmax(1)
        result[f"{part}_acc"], result[f"{part}_loss"] = score(log_probs, y)
        if part == "train":
            continue
        if mc_samples:
            samples = fd.mc_dropout(model, x, mc_samples, samples_per_pass=SAMPLES_PER_PASS)
            log_probs = samples.mean.clamp(min=torch.finfo(torch.float32).tiny).log()
        result[f"mc_{part}_acc"], result[f"mc_{part}_loss"] = score(log_probs, y)
    result["gap"] = result["train_acc"] - result["val_acc"]
    return result


def score(log_probs, y):
    """Returns the accuracy in percent, and the mean negative log-likelihood in nats."""
    accuracy = 100 * (log_probs.argmax(1) == y).double().mean().item()
    return accuracy, F.nll_loss(log_probs.double(), y).item()
