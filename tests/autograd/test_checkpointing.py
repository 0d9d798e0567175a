"""Activation checkpointing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.autograd.derivatives import STATE, assert_all_close


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = fd.MLP(8, 16, 8, p=0.4)
        self.second = fd.BiasDropoutAdd(8, p=0.4)
        self.third = fd.Dropout(0.3, inplace=True)
        self.fourth = fd.AlphaDropout(0.2)

    def forward(self, x):
        return self.fourth(self.third(self.second(self.first(x), x) * 2))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
def test_checkpointing(reentrant, blocks):
    """Recomputed masks are those of the first pass, and the generator is left where it was."""
    torch.manual_seed(11)
    model = torch.nn.ModuleList(Block() for _ in range(blocks))
    x = torch.randn(16, 8, requires_grad=True)

    def plain(block, x, use_reentrant):
        return block(x)

    results = []
    for run in (plain, checkpoint):
        torch.manual_seed(12)
        y = x
        for block in model:
            y = run(block, y, use_reentrant=reentrant)
        after = torch.get_rng_state()
        x.grad = None
        model.zero_grad()
        y.pow(2).sum().backward()
        assert torch.equal(torch.get_rng_state(), after)
        results.append([y, x.grad, *(one.grad for one in model.parameters())])
    assert_all_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_with_a_state(reentrant):
    x = torch.randn(64, requires_grad=True)

    def call(x):
        return FF.bias_act_dropout(x * 2, None, 0.5, "gelu", rng_state=STATE)

    wanted = torch.autograd.grad(call(x).sum(), x)[0]
    y = checkpoint(call, x, use_reentrant=reentrant, preserve_rng_state=False)
    y.sum().backward()
    assert torch.equal(x.grad, wanted)
