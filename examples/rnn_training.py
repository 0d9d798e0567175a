"""Data, model and training of `examples.rnn`."""

import re
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from examples import lm_training

# So little text that a network without dropout overfits within minutes.
TRAINING_MODULES = ("inspect",)
VALIDATION_MODULES = ("dataclasses", "subprocess", "shutil")
LENGTH, BATCH = 48, 16
WIDTH = 256
UNKNOWN = 0  # index of all words that occur fewer than two times in training


@dataclass(frozen=True)
class Rates:
    """The probability to drop of each kind of dropout."""

    name: str
    embedding: float = 0.0  # of words
    locked: float = 0.0  # of the outputs of embedding and LSTM, with one mask for all time steps
    weight: float = 0.0  # of the recurrent weights


RUNS = (
    Rates("no dropout"),
    Rates("locked", locked=0.4),
    Rates("locked, embedding", locked=0.4, embedding=0.1),
    Rates("locked, embedding, weight", locked=0.4, embedding=0.1, weight=0.5),
)


def words_of(text):
    """Splits text into names, numbers, signs, and line ends with the following indentation."""
    return re.findall(r"\n\s*|\w+|[^\w\s]", text)


def read_texts():
    """Returns indices of words for training and for validation, and the size of the vocabulary."""
    training, validation = (
        words_of(lm_training.read_sources(names))
        for names in (TRAINING_MODULES, VALIDATION_MODULES)
    )
    known = [word for word, count in Counter(training).most_common() if count > 1]
    index = {word: i for i, word in enumerate(known, UNKNOWN + 1)}
    texts = (
        torch.tensor([index.get(word, UNKNOWN) for word in words])
        for words in (training, validation)
    )
    return *texts, len(known) + 1


class RecurrentModel(nn.Module):
    """Predicts the next word with one layer of an AWD-LSTM. Embedding and output layer are tied.

    Source: Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR
    2018.
    """

    def __init__(self, vocabulary, rates):
        super().__init__()
        self.embedding = fd.EmbeddingDropout(vocabulary, WIDTH, rates.embedding)
        lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.lstm = fd.WeightDrop(lstm, "weight_hh_l0", rates.weight)
        self.locked = fd.LockedDropout(rates.locked, batch_first=True)
        self.decoder = nn.Linear(WIDTH, vocabulary)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words):
        """Maps indices of shape (batch, length) to scores of shape (batch, length, vocabulary)."""
        x, _ = self.lstm(self.locked(self.embedding(words)))
        return self.decoder(self.locked(x))

    def loss(self, words):
        """Returns the mean cross-entropy of the next words, in nats."""
        scores = self(words[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten())


@dataclass
class Run(lm_training.Training):
    """Training of a recurrent model."""

    learning_rate = 1e-2
    longest_gradient = 0.5

    rates: Rates
    vocabulary: int

    def make_model(self):
        return RecurrentModel(self.vocabulary, self.rates)

    @property
    def best(self):
        """The lowest validation loss, which early stopping would select."""
        return min(loss for _, loss in self.validation)


def train(steps, validate_every, progress):
    """Trains a model for each entry of `RUNS`. Their steps take turns and see the same text.

    `progress()` is called after each step of each model.
    """
    training, validation, vocabulary = read_texts()
    runs = [Run(steps, rates, vocabulary) for rates in RUNS]
    generator = torch.Generator().manual_seed(1)
    held_out = [lm_training.batch_of(validation, generator, LENGTH, BATCH) for _ in range(16)]
    for step in range(steps):
        words = lm_training.batch_of(training, generator, LENGTH, BATCH)
        for run in runs:
            run.step(words)
            progress()
        if (step + 1) % validate_every == 0 or step + 1 == steps:
            for run in runs:
                run.validate(held_out)
    return runs, (len(training), len(validation), vocabulary)
