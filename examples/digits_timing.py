"""Time per training step of `examples.digits`, fused and unfused."""

import random
import time
from dataclasses import dataclass

import numpy as np
import torch

from examples.digits_training import (
    BATCH,
    CLASSES,
    PIXELS,
    TASKS,
    build_network,
    make_optimizer,
    make_step,
)

WARM_UP_ROUNDS, LEAST_ROUNDS = 3, 5


@dataclass(frozen=True)
class Setting:
    """A network and a batch size to time."""

    key: str
    title: str
    hidden: tuple[int, ...]
    p: float
    batch: int


SETTINGS = (
    *(
        Setting(task.key, f"{task.title}, batch {BATCH}", task.hidden, task.p, BATCH)
        for task in TASKS
        if not task.label_noise
    ),
    Setting("large_batch", "two-layer 64-4096-10, batch 1024", (4096,), 0.5, 1024),
)


def variants(setting):
    """Returns the four networks that are compared in a setting, as (p, fused)."""
    return [(p, fused) for p in (0.0, setting.p) for fused in (False, True)]


def time_setting(setting, seconds):
    """Returns the seconds per training step: {(p, fused): {"median", "p20", "p80"}}.

    A step is forward, loss, backward and optimiser step on the same random batch. Each round times
    one step of each variant in a random order, so that a machine that is slower for a while affects
    all variants equally. The rounds take about `seconds`.
    """
    data = torch.Generator().manual_seed(0)
    x = torch.rand(setting.batch, PIXELS, generator=data)
    y = torch.randint(CLASSES, (setting.batch,), generator=data)
    steps = {}
    for p, fused in variants(setting):
        model = build_network(setting.hidden, p, fused, seed=0)
        steps[p, fused] = make_step(model, make_optimizer(model))

    times = {variant: [] for variant in steps}
    shuffle = random.Random(0).shuffle
    order, rounds = list(steps), 0
    deadline = time.perf_counter() + seconds
    while rounds < WARM_UP_ROUNDS + LEAST_ROUNDS or time.perf_counter() < deadline:
        shuffle(order)
        for variant in order:
            start = time.perf_counter()
            steps[variant](x, y)
            times[variant].append(time.perf_counter() - start)
        rounds += 1
    return {
        variant: dict(
            zip(
                ("p20", "median", "p80"),
                np.quantile(t[WARM_UP_ROUNDS:], (0.2, 0.5, 0.8)),
                strict=True,
            )
        )
        for variant, t in times.items()
    }
