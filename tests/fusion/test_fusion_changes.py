"""Changes of a fused model, which the next call has to respect."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.fusion.fusing import encoder_layer, fused_copy, mlp, seeded, uses_kernels

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


def test_changed_p_and_training():
    ones = torch.ones(64, 8)
    fused = fused_copy(nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Dropout(0.4)))
    for p in (0.4, 0.9, 0.0, 1.0, torch.tensor(0.25)):
        fused[2].p = p
        share = (fused(ones) == 0).float().mean().item()
        assert abs(share - float(p)) < 0.06
    fused[2].p = 0.5
    fused[2].eval()
    assert (fused(ones) == 0).sum() == 0
    fused[2].train()
    assert (fused(ones) == 0).sum() > 0
    fused[2].p = 1.5
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1.5"):
        fused(ones)


def test_a_child_frozen_in_evaluation():
    layer = fused_copy(encoder_layer(dropout=0.0), "torch.nn")
    layer.dropout2.p = 0.5
    a, b = layer(TOKENS), layer(TOKENS)
    assert not torch.equal(a, b)
    layer.dropout2.eval()
    assert torch.equal(layer(TOKENS), layer(TOKENS)) and uses_kernels(layer, TOKENS)
    layer.self_attn.dropout = 0.5
    assert not torch.equal(layer(TOKENS), layer(TOKENS))
    layer.self_attn.eval()
    assert torch.equal(layer(TOKENS), layer(TOKENS))


def test_changed_layers_of_a_sequential():
    model = fused_copy(mlp(0.4), "sequential")
    model[1] = nn.Tanh()
    assert torch.allclose(
        seeded(model, X), model[3](FF.dropout(torch.tanh(model[0](X)), 0.4, rng_state=_state()))
    )
    model.append(nn.ReLU())
    model.append(nn.Dropout(1.0))
    assert not model(X).any()
    del model[4:]
    model[2] = nn.Identity()
    assert torch.allclose(model(X), model[3](torch.tanh(model[0](X))))
    model.insert(0, nn.Flatten())
    assert torch.allclose(model(X), model[4](torch.tanh(model[1](X))))


def _state():
    torch.manual_seed(5)
    return fd.new_rng_state()


def test_changed_layers_of_a_transformer_layer():
    model = encoder_layer(dropout=0.0)
    fused = fused_copy(model, "torch.nn")
    for one in (model, fused):
        torch.manual_seed(0)
        one.linear1 = nn.Linear(16, 40)
        one.linear2 = nn.Linear(40, 16)
        one.activation = F.silu
        one.norm1 = nn.Identity()
        one.norm_first = True
        one.dropout = nn.Identity()
    torch.testing.assert_close(fused(TOKENS), model(TOKENS))
    assert uses_kernels(fused, TOKENS)


def test_removed_parametrisation():
    fused = fused_copy(mlp(), "sequential")
    parametrizations.weight_norm(fused[0])
    parametrize.remove_parametrizations(fused[0], "weight")
    assert uses_kernels(fused[:2], X) and type(fused[0]) is nn.Linear


def test_pruning_keeps_its_mask():
    """The layer is called, because a hook computes its weight."""
    fused = fused_copy(mlp(0.0), "sequential")
    prune.l1_unstructured(fused[0], "weight", 0.5)
    fused(X).sum().backward()
    assert not fused[0].weight_orig.grad[fused[0].weight_mask == 0].any()
