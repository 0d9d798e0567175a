"""Fused models on a GPU: parity, mixed precision, CUDA graphs.

On a GPU: torch's own attention inside of fused layers, the dtypes of its autocast, and that a graph
of a fused model draws anew with every replay.
"""

import copy
import itertools

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.gpu.on_device import DEVICE, graphed, random

WIDTH = 64


def encoder(p, **options):
    return nn.TransformerEncoderLayer(WIDTH, 4, 96, dropout=p, batch_first=True, **options)


MODELS = {
    "mlp": lambda p: nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Dropout(p)),
    "encoder": encoder,
    "encoder_norm_first": lambda p: encoder(p, norm_first=True),
    "decoder": lambda p: _Decoder(p),
}
each_model = pytest.mark.parametrize("name", MODELS)


class _Decoder(nn.Module):
    """With one input."""

    def __init__(self, p):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(WIDTH, 4, 96, dropout=p, batch_first=True)

    def forward(self, x):
        return self.layer(x, x.flip(1))


def built(name, p, dtype=torch.float32):
    """Unfused and fused, with the same parameters."""
    torch.manual_seed(0)
    model = MODELS[name](p).to(DEVICE, dtype)
    fused = copy.deepcopy(model)
    fd.fuse(fused)
    return model, fused


def tokens(dtype=torch.float32):
    return random(8, 16, WIDTH, dtype=dtype).to(DEVICE).requires_grad_()


def results(model, x):
    """Output, and the gradients of input and parameters."""
    x.grad = None
    model.zero_grad()
    y = model(x)
    y.backward(random(*y.shape, dtype=y.dtype, seed=1).to(DEVICE))
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@each_model
def test_parity_without_dropout(name):
    model, fused = built(name, 0.0, torch.float64)
    x = tokens(torch.float64)
    for ours, theirs in zip(results(fused, x), results(model, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@each_model
def test_dropout_acts_and_reproduces(name):
    model, fused = built(name, 0.3)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(fused(tokens()).detach())
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    model.eval()
    assert torch.equal(fused.eval()(tokens()), model(tokens()))


@each_model
def test_backward_has_the_masks_of_forward(name):
    """By checkpointing, which computes forward once more: equal in bits to the call without it."""
    _, fused = built(name, 0.3)
    x = tokens()
    gradients = []
    for call in (fused, lambda x: torch.utils.checkpoint.checkpoint(fused, x, use_reentrant=False)):
        x.grad = None
        torch.manual_seed(5)
        call(x).square().sum().backward()
        gradients.append(x.grad.clone())
    torch.testing.assert_close(*gradients)


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_dtypes(name, dtype):
    """On a GPU layer norms give float32 there; ``dtype``: of what comes in."""
    model, fused = built(name, 0.0)
    seen = []
    with torch.autocast(DEVICE, torch.bfloat16):
        for one in (model, fused):
            x = random(8, 16, WIDTH, dtype=dtype).to(DEVICE).requires_grad_()
            y = one(x)
            y.float().square().mean().backward()
            seen.append((y.dtype, x.grad.dtype, [p.grad.dtype for p in one.parameters()]))
    assert seen[0] == seen[1]


@each_model
def test_graphed_callables_draw_new_masks(name):
    _, fused = built(name, 0.5)
    x = tokens()
    call = graphed(fused, x)
    weights = random(*fused(x).shape, seed=1).to(DEVICE)
    outputs, gradients = [], []
    for _ in range(4):
        x.grad = None
        y = call(x)
        y.backward(weights)
        outputs.append(y.detach().clone())
        gradients.append(x.grad.clone())
    for seen in (outputs, gradients):
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_graphed_backward_has_the_mask_of_its_replay():
    """Of a positive weight and a constant input each output is dropped or not."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Dropout(0.5)).to(DEVICE)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    fd.fuse(model)
    x = torch.ones(64, 200, 1, device=DEVICE, requires_grad=True)
    call = graphed(model, x)
    for _ in range(3):
        x.grad = None
        y = call(x)
        y.backward(torch.ones_like(y))
        assert torch.equal(y != 0, x.grad != 0)
        assert 0.4 < (y != 0).float().mean() < 0.6


@each_model
def test_graphed_callables_without_dropout_equal_torch(name):
    model, fused = built(name, 0.0)
    x = tokens()
    for ours, theirs in zip(results(graphed(fused, x), x), results(model, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
