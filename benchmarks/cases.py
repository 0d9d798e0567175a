"""The table of benchmark cases. To add a case, add an entry to `CASES`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch._C import DispatchKey

import fused_dropout as fd

P = 0.1  # the probability to drop of every case
SMALL_SHAPE = (8, 64)  # shows the overhead of a call


@dataclass(frozen=True)
class Case:
    """One operation: a fused call and the equivalent unfused PyTorch operators.

    Both return one tensor or a tuple of tensors.

    Attributes:
        inputs: `inputs(new, rows, cols)` returns the tensors by name, one of them "x".
            `new(*shape)` makes a tensor with normal values, of the measured dtype and device.
        fused: `fused(FF, p, **tensors)`, where `FF` is `fused_dropout.functional`.
        eager: `eager(p, **tensors)`. `torch.compile` gets the same function.
        grads: names of the tensors whose gradients backward computes.
        moved: least bytes that "fwd" and "bwd" must read and write, as a multiple of the bytes of
            `x`. 2.0 is one read and one write per element, as in a copy. Small tensors such as a
            bias do not count.
        small: whether the case is also timed with `SMALL_SHAPE`.
        compiled: whether `torch.compile` supports it: it has no double backward.
    """

    inputs: Callable
    fused: Callable
    eager: Callable
    grads: tuple[str, ...]
    moved: dict[str, float]
    small: bool = False
    compiled: bool = True

    def passes(self, direction: str) -> float:
        """Returns the least bytes of "fwd", "bwd" or "fwd+bwd", as a multiple of the bytes of x."""
        return sum(self.moved[part] for part in direction.split("+"))


def _x(new, rows, cols):
    return {"x": new(rows, cols)}


def _x_bias(new, rows, cols):
    return {"x": new(rows, cols), "bias": new(cols)}


def _x_bias_residual(new, rows, cols):
    return {"x": new(rows, cols), "bias": new(cols), "residual": new(rows, cols)}


def _composed(FF, p, x):
    """Plain dropout by the composition that runs on devices without kernels.

    It is called directly, as for higher derivatives, so autograd stores its mask.
    """
    mask = ((), None, 0)
    options = (p, None, "identity", None, None, -1, "inverted", True, *mask)
    operator = torch.ops.fused_dropout.bias_act_dropout.default
    state = fd.new_rng_state(x.device)
    return operator._op_dk(DispatchKey.CompositeExplicitAutograd, x, None, None, state, *options)


def _x_residual_norm(new, rows, cols):
    x, residual = new(rows, cols), new(rows, cols)
    return {"x": x, "residual": residual, "weight": new(cols), "norm_bias": new(cols)}


def _x_residual_weight(new, rows, cols):
    return {"x": new(rows, cols), "residual": new(rows, cols), "weight": new(cols)}


def _halves_bias(new, rows, cols):
    """The result has rows x cols elements, and x has twice as many."""
    return {"x": new(rows, 2 * cols), "bias": new(2 * cols)}


def _layer_norm(p, x, residual, weight, norm_bias):
    return F.layer_norm(residual + F.dropout(x, p), weight.shape, weight, norm_bias)


def _layer_norm_prenorm(p, x, residual, weight, norm_bias):
    h = residual + F.dropout(x, p)
    return F.layer_norm(h, weight.shape, weight, norm_bias), h


def _rms_norm_prenorm(p, x, residual, weight):
    h = residual + F.dropout(x, p)
    return F.rms_norm(h, weight.shape, weight, 1e-5), h


def _x_logit(new, rows, cols):
    return {"x": new(rows, cols), "logit": new()}


def _x_z(new, rows, cols):
    return {"x": new(rows, cols), "z": new(rows, cols)}


def _gaussian(p, x):
    return x * (1 + (p / (1 - p)) ** 0.5 * torch.randn_like(x))


def _concrete(p, x, logit):
    dropped = torch.sigmoid((logit + torch.logit(torch.rand_like(x), 1e-7)) / 0.1)
    return x * (1 - dropped) / (1 - torch.sigmoid(logit))


def _standout(p, x, z):
    return x * (torch.rand_like(x) < torch.sigmoid(z).detach())


def _gated(activation):
    def unfused(p, x, bias):
        gate, value = (x + bias).chunk(2, -1)
        return F.dropout(activation(gate) * value, p)

    return unfused


def _images(new, rows, cols):
    """The same elements as (batch, channel, height, width): a row is one image plane."""
    channels = _power_of_two_divisor(rows, 64)
    height = _power_of_two_divisor(cols, int(cols**0.5))
    return {"x": new(rows // channels, channels, height, cols // height)}


def _sequence(new, rows, cols):
    """The same elements as (time, batch, feature)."""
    steps = _power_of_two_divisor(rows, 64)
    return {"x": new(steps, rows // steps, cols)}


def _locked(p, x):
    return x * F.dropout(torch.ones_like(x[:1]), p)


def _drop_path(p, x):
    """As in timm."""
    factors = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - p).div_(1 - p)
    return x * factors


def _words(new, rows, cols):
    """x is a table of embeddings. The text has a quarter as many words as the table."""
    words = (1000 * new(max(rows // 4, 1)).float().abs()).long() % rows
    return {"x": new(rows, cols), "words": words}


def _embedding(p, x, words):
    """As in the code of AWD-LSTM, with a second table that has the dropped words."""
    factors = x.new_empty(len(x), 1).bernoulli_(1 - p).div_(1 - p)
    return F.embedding(words, factors * x)


def _weight_input(new, rows, cols):
    """x is the weight of a linear layer. The batch is small."""
    return {"x": new(rows, cols), "input": new(16, cols)}


class _Classifier(nn.Module):
    """Dropout and a linear layer whose weight is an input."""

    is_dropout = True

    def __init__(self, dropout, p):
        super().__init__()
        self.dropout, self.p = dropout, p

    def forward(self, x, weight):
        return F.linear(self.dropout(x, self.p, self.training), weight)


def _classes(new, rows, cols):
    return {"x": new(rows, cols), "weight": new(16, cols)}


def _monte_carlo(FF, p, x, weight):
    result = fd.mc_dropout(_Classifier(FF.dropout, p), (x, weight), samples=4, grad=True)
    return result.mean, result.variance


def _monte_carlo_by_hand(p, x, weight):
    model = _Classifier(F.dropout, p)
    samples = torch.stack([model(x, weight).softmax(-1) for _ in range(4)])
    return samples.mean(0), samples.var(0, correction=0)


def _maps(new, rows, cols):
    """The same elements as feature maps: 8192x784 becomes (32, 256, 28, 28)."""
    channels = _power_of_two_divisor(rows, 256)
    height = max(divisor for divisor in range(1, math.isqrt(cols) + 1) if cols % divisor == 0)
    return {"x": new(rows // channels, channels, height, cols // height)}


def _drop_block(p, x, block_size=7):
    """As in image libraries: seeds are dilated by pooling, and the result is scaled."""
    batch, channels, *sizes = x.shape
    kernel = [min(block_size, size) for size in sizes]
    grid = [size - k + 1 for size, k in zip(sizes, kernel, strict=True)]
    gamma = p * math.prod(sizes) / (math.prod(kernel) * math.prod(grid))
    seeds = torch.empty(batch, channels, *grid, dtype=x.dtype, device=x.device).bernoulli_(gamma)
    height, width = kernel
    padded = F.pad(seeds, (width - 1, width - 1, height - 1, height - 1))
    kept = 1 - F.max_pool2d(padded, kernel, stride=1)
    return x * kept * (kept.numel() / kept.sum())


def _x_bias_dy(new, rows, cols):
    return {"x": new(rows, cols), "bias": new(cols), "dy": new(rows, cols)}


def _input_gradient(call, x, dy):
    """What a gradient penalty is computed from. Its backward is a double backward of the call."""
    x.requires_grad_()
    return torch.autograd.grad(call(x), x, dy, create_graph=True)[0]


def _jvp(call, x, tangent):
    return torch.func.jvp(call, (x,), (tangent,))


def _examples(new, rows, cols):
    """The same elements as up to 64 examples."""
    examples = _power_of_two_divisor(rows, 64)
    return {"x": new(examples, rows // examples, cols), "bias": new(cols)}


def _each_by_itself(call, x):
    return torch.func.vmap(call, randomness="different")(x)


def _gradients_of_each(call, x, bias):
    """As an ensemble of masks takes them; forward alone, as they are the results."""
    gradients = torch.func.grad(lambda x, bias: call(x, bias).sum(), (0, 1))
    return torch.func.vmap(gradients, (0, None), randomness="different")(x, bias)


def _gelu_dropout(p, x, bias):
    return F.dropout(F.gelu(x + bias), p)


def _power_of_two_divisor(n: int, limit: int) -> int:
    divisor = 1
    while n % (2 * divisor) == 0 and 2 * divisor <= limit:
        divisor *= 2
    return divisor


CASES = {
    "dropout": Case(
        inputs=_x,
        fused=lambda FF, p, x: FF.dropout(x, p),
        eager=lambda p, x: F.dropout(x, p),
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},  # x → y; dy → dx
        small=True,
    ),
    "dropout_composition": Case(
        inputs=_x,
        fused=_composed,
        eager=lambda p, x: F.dropout(x, p),
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
        small=True,
    ),
    "bias_relu_dropout": Case(
        inputs=_x_bias,
        fused=lambda FF, p, x, bias: FF.bias_act_dropout(x, bias, p, "relu"),
        eager=lambda p, x, bias: F.dropout(F.relu(x + bias), p),
        grads=("x", "bias"),
        moved={"fwd": 2, "bwd": 3},  # x → y; dy, y → dx
    ),
    "bias_gelu_dropout": Case(
        inputs=_x_bias,
        fused=lambda FF, p, x, bias: FF.bias_act_dropout(x, bias, p, "gelu"),
        eager=lambda p, x, bias: F.dropout(F.gelu(x + bias), p),
        grads=("x", "bias"),
        moved={"fwd": 2, "bwd": 3},  # x → y; dy, x → dx
        small=True,
    ),
    "bias_gelu_dropout_gradient": Case(
        inputs=_x_bias_dy,
        fused=lambda FF, p, x, bias, dy: _input_gradient(
            lambda x: FF.bias_act_dropout(x, bias, p, "gelu"), x, dy
        ),
        eager=lambda p, x, bias, dy: _input_gradient(lambda x: _gelu_dropout(p, x, bias), x, dy),
        grads=("x", "bias", "dy"),
        moved={"fwd": 5, "bwd": 5},  # x → y; dy, x → dx; and the gradient of dx, dy, x → two
        small=True,
        compiled=False,
    ),
    "bias_gelu_dropout_jvp": Case(
        inputs=_x_bias_dy,
        fused=lambda FF, p, x, bias, dy: _jvp(
            lambda x: FF.bias_act_dropout(x, bias, p, "gelu"), x, dy
        ),
        eager=lambda p, x, bias, dy: _jvp(lambda x: _gelu_dropout(p, x, bias), x, dy),
        grads=(),
        moved={"fwd": 4},  # x, its tangent → y, its tangent
        small=True,
    ),
    "bias_gelu_dropout_vmap": Case(
        inputs=_examples,
        fused=lambda FF, p, x, bias: _each_by_itself(
            lambda x: FF.bias_act_dropout(x, bias, p, "gelu"), x
        ),
        eager=lambda p, x, bias: _each_by_itself(lambda x: _gelu_dropout(p, x, bias), x),
        grads=("x", "bias"),
        moved={"fwd": 2, "bwd": 3},
        small=True,
    ),
    "bias_gelu_dropout_vmap_grad": Case(
        inputs=_examples,
        fused=lambda FF, p, x, bias: _gradients_of_each(
            lambda x, bias: FF.bias_act_dropout(x, bias, p, "gelu"), x, bias
        ),
        eager=lambda p, x, bias: _gradients_of_each(
            lambda x, bias: _gelu_dropout(p, x, bias), x, bias
        ),
        grads=(),
        moved={"fwd": 5},  # x → y; dy, x → dx
        small=True,
    ),
    "bias_dropout_add": Case(
        inputs=_x_bias_residual,
        fused=lambda FF, p, x, bias, residual: FF.bias_dropout_add(x, bias, residual, p),
        eager=lambda p, x, bias, residual: residual + F.dropout(x + bias, p),
        grads=("x", "bias", "residual"),
        moved={"fwd": 3, "bwd": 2},  # x, residual → y; dy → dx, and dy is dresidual
    ),
    "dropout2d": Case(
        inputs=_images,
        fused=lambda FF, p, x: FF.dropout(x, p, shared_dims=(2, 3)),
        eager=lambda p, x: F.dropout2d(x, p),
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "alpha_dropout": Case(
        inputs=_x,
        fused=lambda FF, p, x: FF.dropout(x, p, mode="alpha"),
        eager=lambda p, x: F.alpha_dropout(x, p, training=True),
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "locked_dropout": Case(
        inputs=_sequence,
        fused=lambda FF, p, x: FF.dropout(x, p, shared_dims=(0,)),
        eager=_locked,
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "drop_path": Case(
        inputs=_images,
        fused=lambda FF, p, x: FF.dropout(x, p, shared_dims=(1, 2, 3)),
        eager=_drop_path,
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "token_dropout": Case(
        inputs=_x,
        fused=lambda FF, p, x: FF.dropout(x, p, shared_dims=(-1,)),
        eager=_drop_path,
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "embedding_dropout": Case(
        inputs=_words,
        fused=lambda FF, p, x, words: FF.embedding_dropout(words, x, p),
        eager=_embedding,
        grads=("x",),
        moved={"fwd": 0.5, "bwd": 1.25},  # a quarter of x → y; dy → dx, which is dense
    ),
    "weight_dropout": Case(
        inputs=_weight_input,
        fused=lambda FF, p, x, input: F.linear(input, FF.dropout(x, p)),
        eager=lambda p, x, input: F.linear(input, F.dropout(x, p)),
        grads=("x",),
        moved={"fwd": 3, "bwd": 3},  # x → its dropped copy → the product, and back
    ),
    "drop_block": Case(
        inputs=_maps,
        fused=lambda FF, p, x: FF.drop_block(x, p, 7),
        eager=_drop_block,
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},
    ),
    "dropout_add_layer_norm": Case(
        inputs=_x_residual_norm,
        fused=lambda FF, p, x, residual, **norm: FF.dropout_add_layer_norm(
            x, residual, p=p, **norm
        ),
        eager=_layer_norm,
        grads=("x", "residual", "weight", "norm_bias"),
        moved={"fwd": 3, "bwd": 5},  # x, residual → y; dy, x, residual → dx, dresidual
        small=True,
    ),
    "dropout_add_layer_norm_prenorm": Case(
        inputs=_x_residual_norm,
        fused=lambda FF, p, x, residual, **norm: FF.dropout_add_layer_norm(
            x, residual, p=p, prenorm=True, **norm
        ),
        eager=_layer_norm_prenorm,
        grads=("x", "residual", "weight", "norm_bias"),
        moved={"fwd": 4, "bwd": 5},  # x, residual → y, h; dy, dh, h → dx, dresidual
    ),
    "dropout_add_rms_norm_prenorm": Case(
        inputs=_x_residual_weight,
        fused=lambda FF, p, x, residual, weight: FF.dropout_add_rms_norm(
            x, residual, weight, p=p, prenorm=True
        ),
        eager=_rms_norm_prenorm,
        grads=("x", "residual", "weight"),
        moved={"fwd": 4, "bwd": 5},
    ),
    # Half of the bytes of x is one number for each element of y: x → y; dy, x → dx.
    "bias_swiglu_dropout": Case(
        inputs=_halves_bias,
        fused=lambda FF, p, x, bias: FF.bias_glu_dropout(x, bias, p, "silu"),
        eager=_gated(F.silu),
        grads=("x", "bias"),
        moved={"fwd": 1.5, "bwd": 2.5},
        small=True,
    ),
    "bias_geglu_dropout": Case(
        inputs=_halves_bias,
        fused=lambda FF, p, x, bias: FF.bias_glu_dropout(x, bias, p, "gelu"),
        eager=_gated(F.gelu),
        grads=("x", "bias"),
        moved={"fwd": 1.5, "bwd": 2.5},
    ),
    "gaussian_dropout": Case(
        inputs=_x,
        fused=lambda FF, p, x: FF.gaussian_dropout(x, p),
        eager=_gaussian,
        grads=("x",),
        moved={"fwd": 2, "bwd": 2},  # x → y; dy → dx
    ),
    "concrete_dropout": Case(
        inputs=_x_logit,
        fused=lambda FF, p, x, logit: FF.concrete_dropout(x, logit),
        eager=_concrete,
        grads=("x", "logit"),
        moved={"fwd": 2, "bwd": 3},  # x → y; dy, x → dx
    ),
    "standout": Case(
        inputs=_x_z,
        fused=lambda FF, p, x, z: FF.standout(x, z),
        eager=_standout,
        grads=("x",),
        moved={"fwd": 3, "bwd": 3},  # x, z → y; dy, z → dx
    ),
    "mc_dropout": Case(
        inputs=_classes,
        fused=_monte_carlo,
        eager=_monte_carlo_by_hand,
        grads=("x",),
        moved={"fwd": 4, "bwd": 8},  # four samples: x; x and the accumulated gradient → their sum
    ),
}
