"""Data, networks and training loop of `examples.digits`."""

import math
import multiprocessing
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import fused_dropout as fd

PIXELS, CLASSES = 64, 10
TRAINING_IMAGES = 300  # of 1,797, so that both networks overfit. The others are for validation
BATCH = 50
LEARNING_RATE, MOMENTUM = 0.1, 0.9
MOST_PROCESSES = 8


@dataclass(frozen=True)
class Task:
    """A network and its training data."""

    key: str
    title: str
    hidden: tuple[int, ...]
    p: float = 0.5
    epochs: int = 40
    label_noise: float = 0.0


TASKS = (
    Task("two_layer", "two-layer 64-256-10", hidden=(256,)),
    Task("wide", "wide 64-512-512-10", hidden=(512, 512)),
    Task("wide_noisy", "wide, 20 % wrong labels", hidden=(512, 512), label_noise=0.2),
)


@dataclass(frozen=True)
class Case:
    """A task with or without dropout, with fused or with `torch.nn` modules."""

    task: Task
    p: float
    fused: bool

    @property
    def code(self):
        return "fused" if self.fused else "unfused"


def cases(task, epochs=None):
    """Returns the four cases of a task."""
    if epochs is not None:
        task = replace(task, epochs=epochs)
    return [Case(task, p, fused) for p in (0.0, task.p) for fused in (False, True)]


def build_network(hidden, p, fused, seed):
    """Returns a multilayer perceptron whose weights depend only on `hidden` and `seed`.

    The unfused network has Linear, ReLU and Dropout for each hidden layer, and a Linear at the end.
    The fused network has one `fd.LinearActDropout` for each hidden layer. It can load the state
    dict of the unfused network, because the keys are the same. (With one hidden layer it is
    `fd.MLP`.)
    """
    torch.manual_seed(seed)
    unfused, fused_twin = OrderedDict(), OrderedDict()
    width = PIXELS
    for i, units in enumerate(hidden, start=1):
        unfused[f"fc{i}"] = nn.Linear(width, units)
        unfused[f"act{i}"] = nn.ReLU()
        unfused[f"drop{i}"] = nn.Dropout(p)
        fused_twin[f"fc{i}"] = fd.LinearActDropout(width, units, p=p, activation="relu")
        width = units
    top = f"fc{len(hidden) + 1}"
    unfused[top] = nn.Linear(width, CLASSES)
    fused_twin[top] = nn.Linear(width, CLASSES)

    unfused, fused_twin = nn.Sequential(unfused), nn.Sequential(fused_twin)
    fused_twin.load_state_dict(unfused.state_dict())
    return fused_twin if fused else unfused


def load_split(seed, label_noise=0.0):
    """Returns training and validation images in [0, 1] and their labels, split by `seed`.

    A random share `label_noise` of the training labels is changed to another class. Validation
    labels do not change.
    """
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        (images / 16).astype("float32"),
        labels,
        train_size=TRAINING_IMAGES,
        stratify=labels,
        random_state=seed,
    )
    x_train, x_val, y_train, y_val = map(torch.from_numpy, parts)
    if label_noise:
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.randperm(len(y_train), generator=generator)
        wrong = wrong[: round(label_noise * len(y_train))]
        shift = torch.randint(1, CLASSES, (len(wrong),), generator=generator)
        y_train[wrong] = (y_train[wrong] + shift) % CLASSES
    return x_train, y_train, x_val, y_val


@torch.no_grad()
def evaluate(model, x, y):
    """Returns mean loss and accuracy without dropout. The model is in training mode afterwards."""
    model.eval()
    scores = model(x)
    model.train()
    return F.cross_entropy(scores, y).item(), (scores.argmax(1) == y).float().mean().item()


def make_step(model, optimizer):
    """Returns the training step, which training and timing share."""

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def train(case, seed):
    """Trains one network and returns its history: lists with one entry per epoch.

    Split, wrong labels, initial weights and the order of the batches depend only on `seed`, so the
    cases of a task can be compared seed by seed. The masks are from torch's default generator, as
    in any training script.
    """
    task = case.task
    x_train, y_train, x_val, y_val = load_split(seed, task.label_noise)
    model = build_network(task.hidden, case.p, case.fused, seed)
    optimizer = make_optimizer(model)
    steps = task.epochs * math.ceil(len(x_train) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step = make_step(model, optimizer)
    order = torch.Generator().manual_seed(seed)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for _ in range(task.epochs):
        for batch in torch.randperm(len(x_train), generator=order).split(BATCH):
            step(x_train[batch], y_train[batch])
            schedule.step()
        for part, x, y in (("train", x_train, y_train), ("val", x_val, y_val)):
            loss, accuracy = evaluate(model, x, y)
            history[f"{part}_loss"].append(loss)
            history[f"{part}_acc"].append(accuracy)
    return history


def train_all(table, seeds, on_run):
    """Returns {case: one history per seed}. Calls `on_run` after each run.

    The runs are small and independent. Each uses one thread, and several run in parallel, as many
    as torch would use threads. So the scores do not depend on the number of cores.
    """
    jobs = [(case, seed) for case in table for seed in range(seeds)]
    histories = {case: [] for case in table}
    with ProcessPoolExecutor(
        min(torch.get_num_threads(), MOST_PROCESSES),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        for (case, _), history in zip(jobs, pool.map(train, *zip(*jobs, strict=True)), strict=True):
            histories[case].append(history)
            on_run()
    return histories
