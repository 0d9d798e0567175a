"""The models of :mod:`benchmarks.end_to_end`, with random weights and data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LAYERS = 6
WIDTH, HEADS, HIDDEN = 256, 4, 1024
VOCABULARY = 8192  # so that the embedding does not dominate
CLASSES = 16


class Task(NamedTuple):
    """A model and what it is trained on.

    model: in training mode.
    loss: a function of the model (or of what was made of it) that has the data in it.
    """

    model: nn.Module
    loss: Callable


class Kind(NamedTuple):
    """A kind of model.

    make: a function of p and the quick flag that returns a :class:`Task`.
    package: without which there is no such model; None for torch alone.
    text: what it is.
    """

    make: Callable
    package: str | None
    text: str

    def is_there(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


class _Classifier(nn.Module):
    """torch's encoder between an embedding and a linear layer."""

    def __init__(self, p: float):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=p, activation="gelu", batch_first=True
        )
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, LAYERS)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, text, labels):
        x = self.encoder(self.words(text))
        return F.cross_entropy(self.head(x[:, 0]), labels)


def _text(quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Words and a label for each text."""
    batch, length = (2, 32) if quick else (16, 128)
    return torch.randint(VOCABULARY, (batch, length)), torch.randint(CLASSES, (batch,))


def encoder(p: float, quick: bool) -> Task:
    text, labels = _text(quick)
    return Task(_Classifier(p), lambda call: call(text, labels))


def bert(p: float, quick: bool) -> Task:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=128,
        hidden_dropout_prob=p,
        attention_probs_dropout_prob=p,
        num_labels=CLASSES,
    )
    text, labels = _text(quick)
    model = BertForSequenceClassification(config)
    return Task(model, lambda call: call(input_ids=text, labels=labels).loss)


def vit(p: float, quick: bool) -> Task:
    from timm.models.vision_transformer import VisionTransformer

    size, batch = (64, 2) if quick else (224, 8)
    model = VisionTransformer(
        img_size=size,
        patch_size=16,
        num_classes=CLASSES,
        embed_dim=384,
        depth=LAYERS,
        num_heads=6,
        proj_drop_rate=p,
        attn_drop_rate=p,
        drop_path_rate=p,
    )
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    return Task(model, lambda call: F.cross_entropy(call(images), labels))


KINDS = {
    "bert": Kind(
        bert,
        "transformers",
        "transformers' BertForSequenceClassification: 6 layers, 256 wide, 4 heads, 1024 hidden, "
        "16 texts of 128 words",
    ),
    "vit": Kind(
        vit,
        "timm",
        "timm's VisionTransformer: 6 layers, 384 wide, 6 heads, 1536 hidden, 8 images of 224 x 224 "
        "in patches of 16 x 16",
    ),
    "encoder": Kind(
        encoder,
        None,
        "nn.TransformerEncoder: 6 layers, 256 wide, 4 heads, 1024 hidden, 16 texts of 128 words",
    ),
}
