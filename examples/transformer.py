"""A transformer block written with `torch.nn`, and the same block written with this package.

The fused block has the same parameters under the same names. At `p = 0` both compute the same. The
masks of the fused block follow the random-number contract. (Models of torch.nn's own layers do not
have to be rewritten: `fused_dropout.fuse` fuses them.)
"""

import torch.nn.functional as F
from torch import nn

import fused_dropout.functional as FF


def split_heads(qkv, heads):
    """Splits (batch, length, 3 * width) into three of (batch, heads, length, width / heads)."""
    batch, length, width = qkv.shape
    return qkv.view(batch, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)


def join_heads(x):
    """Joins (batch, heads, length, width / heads) to (batch, length, width)."""
    return x.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A causal pre-norm block as in GPT-2: attention, then two linear layers with GELU."""

    def __init__(self, width, heads, p):
        super().__init__()
        self.heads, self.p = heads, p
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attention_p = self.hidden_p = self.residual_p = p

    def attention(self, x):
        """Returns the concatenated results of the heads, before the projection."""
        p = self.attention_p if self.training else 0.0
        q, k, v = split_heads(self.qkv(x), self.heads)
        return join_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True))

    def forward(self, x):
        branch = self.proj(self.attention(self.norm1(x)))
        x = x + F.dropout(branch, self.residual_p, self.training)
        hidden = F.dropout(F.gelu(self.fc1(self.norm2(x))), self.hidden_p, self.training)
        return x + F.dropout(self.fc2(hidden), self.residual_p, self.training)


class FusedBlock(Block):
    """The same block, where one call replaces elementwise operators and the following norm."""

    def attention(self, x):
        p = self.attention_p if self.training else 0.0
        q, k, v = split_heads(self.qkv(x), self.heads)
        heads = FF.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return join_heads(heads)

    def forward(self, x):
        branch = F.linear(self.attention(self.norm1(x)), self.proj.weight)
        y, x = FF.dropout_add_layer_norm(
            branch,
            x,
            self.norm2.weight,
            self.norm2.bias,
            bias=self.proj.bias,
            p=self.residual_p,
            eps=self.norm2.eps,
            prenorm=True,
            training=self.training,
        )
        hidden = FF.bias_act_dropout(
            F.linear(y, self.fc1.weight), self.fc1.bias, self.hidden_p, "gelu", self.training
        )
        branch = F.linear(hidden, self.fc2.weight)
        return FF.bias_dropout_add(branch, self.fc2.bias, x, self.residual_p, self.training)
