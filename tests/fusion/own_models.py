"""Models as people write them, without a pattern of their own: see test_fusion_structure.py."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import silu

import fused_dropout as fd

WIDTH = 16
X = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))


class AttributeMlp(nn.Module):
    def __init__(self, act=None, p=0.1):
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 24)
        self.act = act or nn.GELU()
        self.drop1 = nn.Dropout(p)
        self.fc2 = nn.Linear(24, WIDTH)
        self.drop2 = nn.Dropout(p)

    def forward(self, x):
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop1(x)
        x = self.fc2(x)
        x = self.drop2(x)
        return x


class NestedMlp(AttributeMlp):
    """One expression; an annotation and another name for the result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.drop1(F.relu(self.fc1(x)))
        out = self.fc2(hidden)
        return self.drop2(out)


class FunctionalMlp(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.p = p
        self.activation = F.gelu

    def forward(self, x):
        x = F.dropout(self.activation(self.fc1(x)), p=self.p, training=self.training)
        x = self.fc2(x)
        return F.dropout(x, self.p, self.training)


class LayersInALoop(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.drop = nn.Dropout(p)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
            x = self.drop(x)
        return self.layers[-1](x)


class Gated(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24, bias=False)
        self.down = nn.Linear(24, WIDTH, bias=False)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        return self.down(self.drop(silu(self.gate(x)) * self.up(x)))


class GatedByHalves(nn.Module):
    """As in ModernBERT."""

    def __init__(self, p=0.1, bias=True, act=None):
        super().__init__()
        self.Wi, self.Wo = nn.Linear(WIDTH, 48, bias=bias), nn.Linear(24, WIDTH)
        self.act, self.drop = act or nn.GELU(), nn.Dropout(p)

    def forward(self, hidden_states):
        input, gate = self.Wi(hidden_states).chunk(2, dim=-1)
        return self.Wo(self.drop(self.act(input) * gate))


class GatedBySecondHalf(GatedByHalves):
    def forward(self, x):
        value, gate = torch.chunk(self.Wi(x) * 2, 2, -1)
        x = self.drop(value * F.silu(gate))
        return self.Wo(x)


class GatedInSteps(Gated):
    def forward(self, x):
        value = self.up(x)
        gate = self.gate(x)
        hidden = self.drop(value * F.gelu(gate))
        return self.down(hidden)


class LayerNormWithoutBias(nn.Module):
    """The norm of nanoGPT."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.rand(width)) if bias else None

    def forward(self, input):
        return F.layer_norm(input, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    """The attention of nanoGPT."""

    def __init__(self, p=0.1):
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)
        self.resid_dropout = nn.Dropout(p)
        self.n_head = 4

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        y = self.resid_dropout(self.c_proj(y))
        return y


class GptMlp(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 24)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(24, WIDTH)
        self.dropout = nn.Dropout(p)

    def forward(self, x):
        x = self.c_fc(x)
        x = self.gelu(x)
        x = self.c_proj(x)
        x = self.dropout(x)
        return x


class GptBlock(nn.Module):
    """The block of nanoGPT."""

    def __init__(self, p=0.1, bias=True):
        super().__init__()
        self.ln_1 = LayerNormWithoutBias(WIDTH, bias)
        self.attn = CausalSelfAttention(p)
        self.ln_2 = LayerNormWithoutBias(WIDTH, bias)
        self.mlp = GptMlp(p)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class RmsNormOfLlama(nn.Module):
    """As transformers writes it."""

    def __init__(self, width=WIDTH, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class RmsNormInTwoMethods(nn.Module):
    """As the code that Llama was published with writes it."""

    def __init__(self, width=WIDTH, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        output = self._norm(x.float()).type_as(x)
        return output * self.weight


class Tuple(nn.Module):
    """Stands for attention that returns weights too."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, scale=1.0):
        return self.proj(hidden_states) * scale, None


class LlamaLayer(nn.Module):
    def __init__(self, p=0.1, norm=RmsNormOfLlama):
        super().__init__()
        self.self_attn, self.mlp = Tuple(), Gated(p)
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.resid_dropout = nn.Dropout(p)

    def forward(self, hidden_states, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        # Self attention
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = residual + hidden_states

        # Fully connected
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = self.resid_dropout(hidden_states)
        hidden_states = residual + hidden_states
        return hidden_states


class PostNormLayer(nn.Module):
    """The layer of many models that were translated from fairseq."""

    def __init__(self, p=0.1):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.attn = nn.Linear(WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout, self.activation_dropout = p, p

    def forward(self, x, factor=None):
        residual = x
        x = self.attn(x)
        x = nn.functional.dropout(x, p=self.dropout, training=self.training)
        x = residual + x
        x = self.norm1(x)
        residual = x
        x = F.relu(self.fc1(x))
        x = nn.functional.dropout(x, p=self.activation_dropout, training=self.training)
        x = self.fc2(x)
        x = nn.functional.dropout(x, p=self.dropout, training=self.training)
        x = residual + x
        x = self.norm2(x)
        if factor is not None:
            x = x * factor
        outputs = (x,)
        return outputs


class PreNorm(nn.Module):
    """A wrapper as in vit-pytorch."""

    def __init__(self, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(WIDTH), fn

    def forward(self, x, **kwargs):
        return self.fn(self.norm(x), **kwargs)


class FeedForward(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 24), nn.GELU(), nn.Dropout(p), nn.Linear(24, WIDTH), nn.Dropout(p)
        )

    def forward(self, x):
        return self.net(x)


class LayersInPairs(nn.Module):
    """A transformer as in vit-pytorch."""

    def __init__(self, p=0.1):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(FeedForward(p)), PreNorm(CausalSelfAttention(p))])
            for _ in range(2)
        )

    def forward(self, x):
        for ff, attn in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return x


class DropPathBlock(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = CausalSelfAttention(p), AttributeMlp(p=p)
        self.drop_path = fd.DropPath(p)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ParallelBlock(nn.Module):
    """Both branches from the same input, as in GPT-J and GPT-NeoX."""

    def __init__(self, p=0.1):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attn, self.mlp = nn.Linear(WIDTH, WIDTH), GptMlp(p)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        y = self.norm(x)
        a = self.drop(self.attn(y))
        m = self.mlp(y)
        x = m + a + x
        return x


class ConditionalBlock(nn.Module):
    """Pre-norm or post-norm, by an option."""

    def __init__(self, norm_first, p=0.1):
        super().__init__()
        self.norm_first = norm_first
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.fc, self.mlp = nn.Linear(WIDTH, WIDTH), AttributeMlp(p=p)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        if self.norm_first:
            x = x + self.drop(self.fc(self.norm1(x)))
            x = x + self.mlp(self.norm2(x))
        else:
            x = self.norm1(x + self.drop(self.fc(x)))
            x = self.norm2(x + self.mlp(x))
        return x


class BlocksAsMethods(nn.Module):
    """A copy of the layer of torch.nn, in which the branches are methods."""

    def __init__(self, p=0.1):
        super().__init__()
        self.self_attn = nn.Linear(WIDTH, WIDTH)
        self.linear1, self.linear2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout, self.dropout1 = nn.Dropout(p), nn.Dropout(p)
        self.dropout2 = nn.Dropout(p)
        self.activation = F.relu

    def forward(self, src):
        x = src
        x = x + self._sa_block(self.norm1(x))
        x = x + self._ff_block(self.norm2(x))
        return x

    def _sa_block(self, x):
        x = self.self_attn(x)
        return self.dropout1(x)

    def _ff_block(self, x):
        x = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return self.dropout2(x)


class Chunks(AttributeMlp):
    """A method as an argument."""

    def forward(self, x):
        return torch.cat(list(map(self.ff_chunk, x.split(1, dim=1))), dim=1)

    def ff_chunk(self, x):
        x = self.act(self.fc1(x))
        x = self.fc2(x)
        return self.drop2(x)


class Inheriting(AttributeMlp):
    """Calls ``super().forward``."""

    def __init__(self):
        super().__init__()
        self.drop3 = nn.Dropout(0.1)
        self.fc3 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return super().forward(self.drop3(F.relu(self.fc3(x))))


def with_closure():
    factor = 2.0

    class Closure(AttributeMlp):
        def forward(self, x):
            return self.drop1(F.relu(self.fc1(x * factor)))

    return Closure()


class InplaceLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.1, inplace=True)

    def forward(self, x):
        return self.fc2(self.drop(self.act(self.fc1(x))))
