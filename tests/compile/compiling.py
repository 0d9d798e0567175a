"""Helpers of the tests of the compiler.

Most of them run on the backend `aot_eager`, which traces as Inductor does and generates no code.
"""

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import fixed_state

STATE = fixed_state()
every_quick_backend = pytest.mark.parametrize("backend", ["eager", "aot_eager"])


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def with_gradient(x):
    return x.detach().clone().requires_grad_()


def results_of(function, *inputs, seed=0, grads=None):
    """The output from a seed, and the gradients of the inputs, or of those that `grads` names."""
    grads = grads or [True] * len(inputs)
    inputs = [with_gradient(one) if grad else one for one, grad in zip(inputs, grads, strict=True)]
    torch.manual_seed(seed)
    y = function(*inputs)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    return [y.detach(), *(one.grad for one in inputs if one.requires_grad)]


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def tensor(*shape, grad=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_(grad)


def channels_last(*shape, grad=False):
    return tensor(*shape).to(memory_format=torch.channels_last).requires_grad_(grad)


VECTOR = tensor(6)


def several(x):
    """Four draws in a row, each of another operation."""
    x = FF.dropout(x, 0.3)
    x = FF.bias_act_dropout(x, VECTOR, 0.2, "silu")
    x = FF.bias_dropout_add(x, None, x * 2, 0.5)
    return FF.dropout(x * 1, 0.4, inplace=True, mode="alpha")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 8),
            fd.Dropout(0.2),
            fd.LinearActDropout(8, 8, p=0.3),
            fd.MLP(8, 16, 8, p=0.3, activation="relu"),
            fd.BiasActDropout(8, 0.1, "tanh"),
            fd.AlphaDropout(0.1),
            fd.Dropout(0.1, inplace=True),
        )
        self.add = fd.BiasDropoutAdd(8, 0.2)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        y = self.layers(x)
        return self.head(self.add(y, y))


def operators_of(graph):
    return {
        node.target.name() if hasattr(node.target, "name") else str(node.target)
        for node in graph.nodes
        if node.op == "call_function"
    }
