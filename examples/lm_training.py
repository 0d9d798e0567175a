"""Data, model and training loop of `examples.lm`."""

import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from examples.transformer import Block, FusedBlock

TRAINING_MODULES = ("argparse", "inspect", "tarfile", "typing")
VALIDATION_MODULES = ("dataclasses", "subprocess", "shutil")
LENGTH, BATCH = 128, 16
WIDTH, HEADS, LAYERS = 128, 4, 3
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.1
VOCABULARY = 128  # ASCII; all other characters are read as "?"


def read_sources(names):
    """Returns the concatenated sources of modules of the standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    return "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)


def read_modules(names):
    """Returns the sources as one int64 tensor of ASCII codes."""
    return torch.tensor(list(read_sources(names).encode("ascii", "replace")))


class LanguageModel(nn.Module):
    """Predicts the next character: embeddings, pre-norm blocks, a norm and a linear layer."""

    def __init__(self, p, fused):
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        block = FusedBlock if fused else Block
        self.blocks = nn.Sequential(*(block(WIDTH, HEADS, p) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        for embedding in (self.characters, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, text):
        """Maps codes of shape (batch, length) to scores of shape (batch, length, vocabulary)."""
        x = self.characters(text) + self.positions.weight[: text.shape[1]]
        return self.head(self.norm(self.blocks(x)))

    def loss(self, text):
        """Returns the mean cross-entropy of the next characters, in nats."""
        scores = self(text[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())


def batch_of(text, generator, length=LENGTH, batch=BATCH):
    """Returns excerpts of `length + 1` tokens from random positions."""
    starts = torch.randint(len(text) - length - 1, (batch,), generator=generator)
    return text[starts[:, None] + torch.arange(length + 1)]


@dataclass
class Training:
    """Training of one model, which a subclass makes in `make_model`."""

    learning_rate = LEARNING_RATE
    longest_gradient = float("inf")

    steps: int
    seed: int = field(default=0, kw_only=True)  # of the initial weights, which runs share
    times: list = field(default_factory=list, kw_only=True)
    training: list = field(default_factory=list, kw_only=True)  # a loss per step
    validation: list = field(default_factory=list, kw_only=True)  # (step, loss)

    def __post_init__(self):
        torch.manual_seed(self.seed)
        self.model = self.make_model()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(
            parameters, self.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, self.learning_rate, total_steps=self.steps
        )

    def loss(self, batch):
        return self.model.loss(batch)

    def step(self, batch):
        """One step of training, timed."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        if self.longest_gradient < float("inf"):
            nn.utils.clip_grad_norm_(self.model.parameters(), self.longest_gradient)
        self.optimizer.step()
        self.times.append(time.perf_counter() - start)
        self.schedule.step()
        self.training.append(loss.item())

    @torch.no_grad()
    def validate(self, batches):
        """Measures the mean loss without dropout."""
        self.model.eval()
        loss = sum(self.loss(batch).item() for batch in batches) / len(batches)
        self.model.train()
        self.validation.append((len(self.training), loss))


@dataclass
class Run(Training):
    """Training of a transformer."""

    p: float
    fused: bool

    def make_model(self):
        return LanguageModel(self.p, self.fused)

    @property
    def name(self):
        return f"{'fused' if self.fused else 'unfused'}, p = {self.p:g}"

    def activation_bytes(self, text):
        """Returns the peak memory of forward and backward, without parameters and gradients."""
        from benchmarks.devices import Cpu

        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        _, peak, _ = Cpu().track(lambda: self.model.loss(text).backward())
        return peak


def train(p, steps, validate_every, progress):
    """Trains four models, unfused and fused, without and with dropout, whose steps take turns.

    All models see the same text. `progress()` is called after each step of each model.
    """
    runs = [Run(steps, rate, fused) for rate in (0.0, p) for fused in (False, True)]
    training, validation = read_modules(TRAINING_MODULES), read_modules(VALIDATION_MODULES)
    generator = torch.Generator().manual_seed(1)
    held_out = [batch_of(validation, generator) for _ in range(8)]
    for step in range(steps):
        text = batch_of(training, generator)
        for run in runs:
            run.step(text)
            progress()
        if (step + 1) % validate_every == 0 or step + 1 == steps:
            for run in runs:
                run.validate(held_out)
    memory = {run.name: run.activation_bytes(text) for run in runs}
    return runs, memory, (len(training), len(validation))
