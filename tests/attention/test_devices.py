"""The implementation that attention with dropout uses on CUDA; tensors have no data here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

import fused_dropout.functional as FF
from fused_dropout.functional import attention
from fused_dropout.fusion.patterns.torch_nn import attention as fusion

P = 0.25


@pytest.fixture(autouse=True)
def fake_mode():
    with FakeTensorMode() as mode:
        yield mode


@pytest.fixture(autouse=True)
def ways(monkeypatch):
    """The calls of torch's function, as dictionaries, and "unfused" for each unfused call."""
    taken, unfused = [], attention.unfused_attention

    def torchs(query, key, value, attn_mask, dropout_p, is_causal, **options):
        taken.append({"attn_mask": attn_mask, "p": dropout_p, "is_causal": is_causal, **options})
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    def counted(*arguments):
        taken.append("unfused")
        return unfused(*arguments)

    monkeypatch.setattr(F, "scaled_dot_product_attention", torchs)
    monkeypatch.setattr(attention, "unfused_attention", counted)
    return taken


def qkv(device="cuda", dtype=torch.float16, key_heads=4):
    heads = (4, key_heads, key_heads)
    lengths = (5, 7, 7)
    return [
        torch.empty(2, h, n, 8, device=device, dtype=dtype)
        for h, n in zip(heads, lengths, strict=True)
    ]


def state():
    return torch.empty(2, dtype=torch.int64, device="cuda")


def mask(dtype):
    return torch.empty(5, 7, device="cuda", dtype=dtype)


@pytest.mark.parametrize("p", [P, 0.0])
def test_torchs_gets_every_option(ways, p):
    bool_mask = mask(torch.bool)
    FF.scaled_dot_product_attention(*qkv(), bool_mask, p, scale=0.5)
    FF.scaled_dot_product_attention(*qkv(key_heads=2), dropout_p=p, is_causal=True, enable_gqa=True)
    first, second = ways
    assert first["attn_mask"] is bool_mask
    assert (first["p"], first["is_causal"], first["scale"]) == (p, False, 0.5)
    assert (second["p"], second["is_causal"], second["enable_gqa"]) == (p, True, True)


def test_a_float_mask_has_the_dtype_of_query(ways):
    """As some of torch's CUDA kernels ask for."""
    FF.scaled_dot_product_attention(*qkv(), mask(torch.float32), P)
    assert ways[0]["attn_mask"].dtype == torch.float16


# The build may have no kernels for CUDA tensors.
@pytest.mark.filterwarnings("ignore:fused_dropout. this build has no kernels")
@pytest.mark.parametrize(
    "options",
    [
        {"rng_state": state},
        {"generator": torch.Generator},
        {"dropout_p": lambda: 1.0},  # torch's refuses it
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_runs_unfused_operators(ways, options):
    options = {"dropout_p": P, **{name: make() for name, make in options.items()}}
    result = FF.scaled_dot_product_attention(*qkv(), **options)
    assert ways == ["unfused"]
    assert result.device.type == "cuda" and result.shape == (2, 4, 5, 8)


def test_only_the_cpu_runs_unfused_operators_unasked(ways):
    FF.scaled_dot_product_attention(*qkv("xpu"), dropout_p=P)
    FF.scaled_dot_product_attention(*qkv("cpu"), dropout_p=P)
    assert ways[0]["p"] == P and ways[1:] == ["unfused"]


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((), {"dropout_p": 1.5}, ValueError, "between 0 and 1, but got 1.5"),
        ((torch.bool,), {"is_causal": True}, RuntimeError, "is_causal is True and attn_mask is"),
        ((torch.int64,), {}, RuntimeError, "attn_mask has dtype torch.int64"),
        ((), {"key_heads": 3, "enable_gqa": True}, RuntimeError, "key has 3 heads, but expected a"),
    ],
)
def test_errors_are_those_of_the_cpu(ways, arguments, options, error, text):
    options = {"dropout_p": P, **options}
    inputs = qkv(key_heads=options.pop("key_heads", 4))
    with pytest.raises(error, match=text):
        FF.scaled_dot_product_attention(*inputs, *map(mask, arguments), **options)
    assert not ways


@pytest.mark.parametrize("device, way", [("cuda", "torchs"), ("cpu", "unfused")])
@torch.no_grad()  # autograd asks for a device that is there
def test_fused_layers_go_by_the_same_rule(ways, device, way, monkeypatch):
    # There are no random numbers without a device.
    monkeypatch.setattr(nn.MultiheadAttention, "_reset_parameters", lambda module: None)
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda module: None)
    attention = nn.MultiheadAttention(16, 4, P, batch_first=True, device=device)
    x = torch.empty(2, 5, 16, device=device)
    # A layer whose parameters are of another class, such as FakeTensor, is called.
    monkeypatch.setattr(fusion, "attention_called", lambda name, child: None)
    fusion.attend(attention, x, x, None, None, False)
    assert ["unfused" if one == "unfused" else "torchs" for one in ways] == [way]
