"""The models of `benchmarks.end_to_end`, with random weights and data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .own_models import LanguageModel
from .sizes import Images, Sizes, Text

VOCABULARY = 8192  # small, so that the embedding does not dominate the time
CLASSES = 16


class Task(NamedTuple):
    """A model and its training data.

    model: the model.
    loss: a function that calls the model (or the compiled model) with the data and returns the
        loss.
    """

    model: nn.Module
    loss: Callable


class Kind(NamedTuple):
    """A kind of model.

    make: a function of p and the size that returns a `Task`.
    package: the package that it needs, or None if it needs only torch.
    name: its description.
    size: the field of `Sizes` with its size.
    """

    make: Callable
    package: str | None
    name: str
    size: str

    def describe(self, sizes: Sizes) -> str:
        return f"{self.name}: {getattr(sizes, self.size)}"

    def is_there(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


class _Classifier(nn.Module):
    """torch's encoder between an embedding and a linear layer."""

    def __init__(self, p: float, size: Text):
        super().__init__()
        width = size.width
        layer = nn.TransformerEncoderLayer(
            width, size.heads, 4 * width, dropout=p, activation="gelu", batch_first=True
        )
        self.words = nn.Embedding(VOCABULARY, width)
        self.encoder = nn.TransformerEncoder(layer, size.layers)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, text, labels):
        x = self.encoder(self.words(text))
        return F.cross_entropy(self.head(x[:, 0]), labels)


def _text(size: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random words, and a label for each text."""
    words = torch.randint(VOCABULARY, (size.texts, size.words))
    return words, torch.randint(CLASSES, (size.texts,))


def encoder(p: float, size: Text) -> Task:
    text, labels = _text(size)
    return Task(_Classifier(p, size), lambda call: call(text, labels))


def bert(p: float, size: Text) -> Task:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=size.words,
        hidden_dropout_prob=p,
        attention_probs_dropout_prob=p,
        num_labels=CLASSES,
    )
    text, labels = _text(size)
    model = BertForSequenceClassification(config)
    return Task(model, lambda call: call(input_ids=text, labels=labels).loss)


def vit(p: float, size: Images) -> Task:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=size.size,
        patch_size=16,
        num_classes=CLASSES,
        embed_dim=size.width,
        depth=size.layers,
        num_heads=size.heads,
        proj_drop_rate=p,
        attn_drop_rate=p,
        drop_path_rate=p,
    )
    images = torch.randn(size.images, 3, size.size, size.size)
    labels = torch.randint(CLASSES, (size.images,))
    return Task(model, lambda call: F.cross_entropy(call(images), labels))


def own(kind: str) -> Callable:
    """Returns the function that makes a language model of `own_models.py`."""

    def make(p: float, size: Text) -> Task:
        text, _ = _text(size)
        model = LanguageModel(kind, VOCABULARY, size.layers, size.width, size.heads, p)
        return Task(model, lambda call: call(text))

    return make


KINDS = {
    "bert": Kind(bert, "transformers", "transformers' BertForSequenceClassification", "text"),
    "vit": Kind(vit, "timm", "timm's VisionTransformer", "images"),
    "encoder": Kind(encoder, None, "nn.TransformerEncoder", "text"),
    "gpt": Kind(own("gpt"), None, "a GPT as one's own code", "text"),
    "llama": Kind(own("llama"), None, "a Llama as one's own code", "text"),
}
