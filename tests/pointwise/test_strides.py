"""Results have the strides of empty_like, masks follow them, and no scratch tensor is allocated."""

import random

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import state

P = 0.5

CALLS = {
    "dropout": lambda x: FF.dropout(x, P, rng_state=state()),
    "gaussian": lambda x: FF.gaussian_dropout(x, P, rng_state=state()),
    "layer_norm": lambda x: FF.dropout_add_layer_norm(x, x, p=P, rng_state=state()),
    "drop_block": lambda x: FF.drop_block(x, P, 3, rng_state=state()),
    "mask": lambda x: FF.dropout_mask(x.shape, P, state(), like=x),
}


def odd_layout(seed):
    """Four dimensions in some order, sliced, stepped through, of size 1, or expanded."""
    chosen = random.Random(seed)
    sizes = [chosen.choice([1, 2, 3, 4, 6]) for _ in range(4)]
    steps = [chosen.choice([1, 1, 2]) for _ in sizes]
    gaps = [chosen.choice([0, 0, 1]) for _ in sizes]
    wide = [step * size + gap for step, size, gap in zip(steps, sizes, gaps, strict=True)]
    x = torch.randn(wide, generator=torch.Generator().manual_seed(seed))
    x = x[tuple(slice(gap, None, step) for step, gap in zip(steps, gaps, strict=True))]
    x = x[tuple(slice(0, size) for size in sizes)]
    dim = chosen.randrange(4)
    if chosen.random() < 0.3:
        x = x.narrow(dim, 0, 1).expand([4 if i == dim else n for i, n in enumerate(x.shape)])
    return x.permute(chosen.sample(range(4), 4))


@pytest.mark.parametrize("name", CALLS)
def test_of_odd_layouts(name):
    seen = set()
    for seed in range(150):
        x = odd_layout(seed)
        expected = torch.empty_like(x).stride()
        seen.add(expected == x.contiguous().stride())
        assert CALLS[name](x).stride() == expected, (x.shape, x.stride())
    assert seen == {True, False}


TRAINING = {
    "dropout_": lambda x: FF.dropout(x * 1, P, inplace=True),
    "layer_norm": lambda x: FF.dropout_add_layer_norm(x, x, p=P),
    "swiglu": lambda x: FF.bias_glu_dropout(x, p=P),
}


@pytest.mark.parametrize("name", TRAINING)
def test_no_memory_but_the_result(name):
    """In the forward pass of a call that autograd records."""
    x = torch.randn(256, 1024, requires_grad=True)
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        y = TRAINING[name](x)
    events = profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert sum(size for size in sizes if size > 0) < y.nbytes + x.nbytes / 8
