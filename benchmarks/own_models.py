"""Language models as people write them, with no layer that a pattern of `fd.fuse` knows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Causal attention, with dropout after the projection."""

    def __init__(self, width: int, heads: int, p: float, bias: bool):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.heads, self.p = heads, p
        self.drop = nn.Dropout(p)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(*qkv, dropout_p=p, is_causal=True)
        y = y.transpose(1, 2).flatten(-2)
        return self.drop(self.proj(y))


class Mlp(nn.Module):
    def __init__(self, width: int, p: float):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        x = self.fc1(x)
        x = self.act(x)
        x = self.fc2(x)
        return self.drop(x)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        mean = x.float().pow(2).mean(-1, keepdim=True)
        return (x.float() * torch.rsqrt(mean + self.eps)).type_as(x) * self.weight


class GatedMlp(nn.Module):
    def __init__(self, width: int, p: float):
        super().__init__()
        hidden = 8 * width // 3
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        return self.drop(self.down(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    def __init__(self, norm, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.norm1, self.norm2 = norm(), norm()
        self.attention, self.mlp = attention, mlp

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class LanguageModel(nn.Module):
    """Blocks between an embedding and a linear layer; ``kind`` is "gpt" or "llama"."""

    def __init__(self, kind: str, vocabulary: int, layers: int, width: int, heads: int, p: float):
        super().__init__()
        is_gpt = kind == "gpt"

        def norm():
            return nn.LayerNorm(width) if is_gpt else RMSNorm(width)

        self.words = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(p)
        self.blocks = nn.ModuleList(
            Block(
                norm,
                Attention(width, heads, p, bias=is_gpt),
                Mlp(width, p) if is_gpt else GatedMlp(width, p),
            )
            for _ in range(layers)
        )
        self.norm = norm()
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, text):
        """The loss of the next word."""
        x = self.drop(self.words(text[:, :-1]))
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.norm(x))
        return F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())
