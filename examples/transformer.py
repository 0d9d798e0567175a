"""Transformer blocks, as one writes them with ``torch.nn`` and with this package.

A fused block has the parameters of its unfused sibling, under the same names, and its masks come
from the contract; at ``p = 0`` the two compute the same.
"""

import torch.nn.functional as F
from torch import nn

import fused_dropout.functional as FF


def attention_with_dropout(q, k, v, p, causal=False, mask=None):
    """``F.scaled_dot_product_attention`` whose dropout stores no mask.

    Shapes (batch, heads, length, width). Without dropout it is torch's own, which does not write
    the scores to memory; with dropout torch's CPU path writes them too.
    """
    if p == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        scores = scores + mask
    return FF.dropout(scores.softmax(-1), p) @ v


def split_heads(qkv, heads):
    """(batch, length, 3 * width) to three of (batch, heads, length, width / heads)."""
    batch, length, width = qkv.shape
    return qkv.view(batch, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)


def join_heads(x):
    """(batch, heads, length, width / heads) to (batch, length, width)."""
    return x.transpose(1, 2).flatten(2)


class FusedEncoderLayer(nn.TransformerEncoderLayer):
    """``nn.TransformerEncoderLayer(..., batch_first=True)``, post-norm, without masks."""

    def forward(self, x):
        attention = self.self_attn
        qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        p = attention.dropout if self.training else 0
        heads = attention_with_dropout(*split_heads(qkv, attention.num_heads), p)
        out = attention.out_proj
        x = self._add_and_norm(join_heads(heads), out, x, self.dropout1, self.norm1)
        hidden = FF.bias_act_dropout(
            F.linear(x, self.linear1.weight),
            self.linear1.bias,
            self.dropout.p,
            "gelu" if self.activation is F.gelu else "relu",
            self.training,
        )
        return self._add_and_norm(hidden, self.linear2, x, self.dropout2, self.norm2)

    def _add_and_norm(self, x, linear, residual, dropout, norm):
        """The linear layer's bias, dropout, the residual and the normalisation in one pass."""
        return FF.dropout_add_layer_norm(
            F.linear(x, linear.weight),
            residual,
            norm.weight,
            norm.bias,
            bias=linear.bias,
            p=dropout.p,
            eps=norm.eps,
            training=self.training,
        )


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
        """The heads' results side by side, in front of the projection."""
        p = self.attention_p if self.training else 0.0
        q, k, v = split_heads(self.qkv(x), self.heads)
        return join_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True))

    def forward(self, x):
        branch = self.proj(self.attention(self.norm1(x)))
        x = x + F.dropout(branch, self.residual_p, self.training)
        hidden = F.dropout(F.gelu(self.fc1(self.norm2(x))), self.hidden_p, self.training)
        return x + F.dropout(self.fc2(hidden), self.residual_p, self.training)


class FusedBlock(Block):
    """The same: each run of elementwise operators and the normalisation after it is one call."""

    def attention(self, x):
        p = self.attention_p if self.training else 0.0
        q, k, v = split_heads(self.qkv(x), self.heads)
        mask = None
        if p:
            length = x.shape[1]
            mask = x.new_full((length, length), float("-inf")).triu(1)
        return join_heads(attention_with_dropout(q, k, v, p, causal=True, mask=mask))

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
