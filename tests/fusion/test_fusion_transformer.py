"""Masks, activations, norms and errors of torch.nn's transformer layers: fused against unfused."""

import copy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import (
    assert_as_torch,
    decoder_layer,
    encoder_layer,
    fused_copy,
    seeded,
    uses_kernels,
)
from tests.fusion.parity import assert_parity, run, with_inputs


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, MEMORY = tensor(3, 5, 16), tensor(3, 7, 16, seed=1)
PADDING = torch.arange(5) >= torch.tensor([5, 4, 2])[:, None]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
EACH_HEAD = tensor(12, 5, 5, seed=2) > 1
EACH_HEAD[..., 0] = False


def as_float(mask):
    return torch.zeros(mask.shape).masked_fill(mask, -torch.inf)


def without_kernel(x):
    return x * x.sigmoid() ** 2


ACTIVATIONS = [
    "relu",
    "gelu",
    F.silu,
    torch.tanh,
    nn.GELU("tanh"),
    nn.LeakyReLU(0.2),
    nn.Hardswish(),
]


@pytest.mark.parametrize("act", [*ACTIVATIONS, nn.PReLU(), without_kernel], ids=str)
def test_activations(act):
    assert_parity(
        encoder_layer(activation=act), with_inputs(X), fused_classes=["TransformerEncoderLayer"]
    )
    report = fd.fuse(encoder_layer(activation=act))
    assert ("not fused: activation" in str(report)) == (act not in ACTIVATIONS)


def test_activations_of_decoder_layers():
    for act in ("gelu", nn.SiLU(), without_kernel):
        assert_parity(decoder_layer(activation=act, bias=False), with_inputs(X, MEMORY))


MASKS = {
    "bool": {"src_mask": CAUSAL.isinf()},
    "float": {"src_mask": tensor(5, 5, seed=3)},
    "each_head": {"src_mask": EACH_HEAD},
    "each_head_float": {"src_mask": as_float(EACH_HEAD)},
    "padding": {"src_key_padding_mask": PADDING},
    "padding_float": {"src_key_padding_mask": as_float(PADDING)},
    "both": {"src_mask": CAUSAL.isinf(), "src_key_padding_mask": PADDING},
    "both_float": {"src_mask": CAUSAL, "src_key_padding_mask": as_float(PADDING)},
    "each_head_and_padding": {"src_mask": EACH_HEAD, "src_key_padding_mask": PADDING},
    "causal": {"src_mask": CAUSAL, "is_causal": True},
    "causal_and_padding": {
        "src_mask": CAUSAL.isinf(),
        "src_key_padding_mask": PADDING,
        "is_causal": True,
    },
}


def batch_firsts(name):
    # With batch_first=True, torch's fast path gives NaN for mask values other than 0 and -inf.
    return (False,) if name == "float" else (True, False)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    for batch_first in batch_firsts(name):
        x = X if batch_first else X.transpose(0, 1).contiguous()
        layer = encoder_layer(batch_first=batch_first, norm_first=batch_first)
        assert_parity(layer, with_inputs(x, **MASKS[name]))


@pytest.mark.parametrize("name", ["none", "bool", "float", "padding", "both"])
def test_unbatched(name):
    options = dict(MASKS.get(name, {}))
    if "src_key_padding_mask" in options:
        options["src_key_padding_mask"] = PADDING[1]
    for batch_first in batch_firsts(name):
        assert_parity(encoder_layer(batch_first=batch_first), with_inputs(X[0], **options))
    options = {"src_mask": EACH_HEAD[:4]}
    assert_parity(encoder_layer(), with_inputs(X[0], **options))


def test_decoder_masks():
    memory_mask = tensor(5, 7, seed=4) > 0.8
    memory_padding = torch.arange(7) >= torch.tensor([7, 3, 5])[:, None]
    for norm_first in (True, False):
        for options in (
            {"tgt_mask": CAUSAL, "tgt_is_causal": True},
            {"tgt_mask": CAUSAL, "memory_mask": as_float(memory_mask)},
            {
                "tgt_mask": CAUSAL.isinf(),
                "tgt_key_padding_mask": PADDING,
                "memory_mask": memory_mask,
                "memory_key_padding_mask": memory_padding,
            },
            {"memory_mask": torch.ones(5, 7).triu(1).bool(), "memory_is_causal": True},
        ):
            assert_parity(decoder_layer(norm_first=norm_first), with_inputs(X, MEMORY, **options))
    assert_parity(decoder_layer(), with_inputs(X[0], MEMORY[0]))
    # The target as its own memory.
    assert_parity(
        decoder_layer(), lambda model: (lambda x: ([model(x, x)], [x]))(X.clone().requires_grad_())
    )


def test_rows_without_keys():
    """For an example that consists of padding only, attention returns zeros and not NaN."""
    padding = PADDING.clone()
    padding[1] = True
    model = encoder_layer(dropout=0.0)
    fused = fused_copy(model)
    call = with_inputs(X, src_key_padding_mask=padding)
    (expected,), gradients = run(model, call)
    (got,), others = run(fused, call)
    torch.testing.assert_close(got, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=name)
    fused.dropout1.p = fused.self_attn.dropout = 0.5
    (got,), others = run(fused, call)
    assert got.isfinite().all() and all(g.isfinite().all() for g in others.values())


def test_heads_and_widths():
    for width, heads in ((15, 3), (7, 1), (9, 9)):
        model = nn.TransformerEncoderLayer(width, heads, 11, batch_first=True)
        assert_parity(model, with_inputs(tensor(2, 3, width)))


def test_memory_of_another_width():
    model = decoder_layer()
    model.multihead_attn = nn.MultiheadAttention(16, 4, 0.1, kdim=10, vdim=10, batch_first=True)
    assert_parity(model, with_inputs(X, tensor(3, 7, 10)))
    model.multihead_attn = nn.MultiheadAttention(
        16, 4, 0.1, bias=False, kdim=10, vdim=10, batch_first=True
    )
    assert_parity(model, with_inputs(X, tensor(3, 7, 10)))


def test_attention_with_rare_options():
    """The attention module is called and has masks of torch."""
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        model = encoder_layer()
        model.self_attn = nn.MultiheadAttention(16, 4, 0.1, batch_first=True, **options)
        assert_parity(model, with_inputs(X, src_key_padding_mask=PADDING), masks=False)


class PowerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 16))

    def forward(self, x):
        return x / x.square().mean((0, 1), keepdim=True).sqrt() * self.weight


NORMS = {
    "rms": lambda: nn.RMSNorm(16),
    "rms_eps": lambda: nn.RMSNorm(16, eps=0.1),
    "rms_plain": lambda: nn.RMSNorm(16, elementwise_affine=False),
    "layer_plain": lambda: nn.LayerNorm(16, elementwise_affine=False),
    "layer_no_bias": lambda: nn.LayerNorm(16, bias=False, eps=0.1),
    "layer_of_two": lambda: nn.LayerNorm((5, 16)),
    "power": PowerNorm,
    "none": nn.Identity,
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name):
    for norm_first in (True, False):
        # batch_first=False, because torch's fast path reads attributes that only LayerNorm has.
        layer = encoder_layer(norm_first=norm_first, batch_first=False)
        layer.norm1, layer.norm2 = NORMS[name](), NORMS[name]()
        assert_parity(layer, with_inputs(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_epsilon_of_an_rms_norm(dtype):
    """Without eps, that of the dtype in which torch computes. Small inputs show the difference."""
    layer = encoder_layer(dropout=0.0, bias=False)
    layer.norm1, layer.norm2 = nn.RMSNorm(16), nn.RMSNorm(16)
    layer, x = layer.to(dtype), (X * 1e-3).to(dtype)
    with torch.no_grad():
        for name in ("linear2", "self_attn.out_proj"):
            layer.get_submodule(name).weight.mul_(1e-3)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(fused_copy(layer)(x), layer(x), rtol=tolerance, atol=tolerance)


def test_nested_tensors():
    """In evaluation they take torch's fast path, and in training torch raises its error."""
    layer = encoder_layer()
    x = torch.nested.nested_tensor(list(X.unbind()))
    messages = []
    for one in (layer, fused_copy(layer)):
        with pytest.raises((RuntimeError, AssertionError)) as caught:
            one(x)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with torch.no_grad():
        one, other = (m.eval()(x).to_padded_tensor(0) for m in (layer, fused_copy(layer)))
    assert torch.equal(one, other)


BAD = {
    "mask_of_integers": (X, {"src_mask": torch.zeros(5, 5, dtype=torch.int64)}),
    "mask_that_broadcasts": (X, {"src_mask": torch.zeros(1, 5)}),
    "mask_of_other_heads": (X, {"src_mask": torch.zeros(3, 5, 5)}),
    "padding_of_integers": (X, {"src_key_padding_mask": PADDING.long()}),
    "padding_that_broadcasts": (X, {"src_key_padding_mask": PADDING[:1]}),
    "causal_without_mask": (X, {"is_causal": True}),
    "four_dimensions": (X[None], {}),
    "width": (X[..., :15], {}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_as_in_torch(name):
    x, options = BAD[name]
    model = encoder_layer()
    for one in (model, fused_copy(model, "torch.nn")):
        with pytest.raises((RuntimeError, AssertionError)):
            one(x, **options)


def test_bad_memory_raises_as_in_torch():
    model = decoder_layer()
    for one in (model, fused_copy(model, "torch.nn")):
        for memory in (MEMORY[:1], MEMORY[0], MEMORY[..., :10]):
            with pytest.raises((RuntimeError, AssertionError)):
                one(X, memory)


# Full models


def test_encoder_model():
    model = nn.TransformerEncoder(encoder_layer(), 2, nn.LayerNorm(16), enable_nested_tensor=False)
    fused = assert_parity(model, with_inputs(X, mask=CAUSAL, is_causal=True))
    assert_parity(model, with_inputs(X, src_key_padding_mask=PADDING))
    assert len(fd.fuse(fused, "torch.nn").fused) == 2


def test_transformer_model():
    model = nn.Transformer(
        16, 4, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=24, batch_first=True
    )
    call = with_inputs(MEMORY, X, tgt_mask=CAUSAL, tgt_is_causal=True)
    assert_parity(model, call, fused_classes=["TransformerEncoderLayer", "TransformerDecoderLayer"])


def test_evaluation_takes_the_fast_path():
    """A single layer takes it, and a stack takes it with nested tensors."""
    taken = []
    fast = torch._transformer_encoder_layer_fwd

    def spy(*args):
        taken.append(args[0].is_nested)
        return fast(*args)

    layer = encoder_layer()
    stack = nn.TransformerEncoder(encoder_layer(), 2)
    with patch.object(torch, "_transformer_encoder_layer_fwd", spy), torch.no_grad():
        for model, options, nested in (
            (layer, {}, [False]),
            (layer, {"src_mask": CAUSAL.isinf()}, [False]),
            (stack, {"src_key_padding_mask": PADDING}, [True, True]),
        ):
            outputs = []
            for one in (model.eval(), fused_copy(model).eval()):
                taken.clear()
                outputs.append(one(X, **options))
                assert taken == nested
            assert torch.equal(*outputs)
            taken.clear()
            fused_copy(model).train()(X, **options)
            assert not taken


def test_monte_carlo_mode():
    """Only dropout is in training mode, also the dropout of attention."""
    model = nn.TransformerEncoder(encoder_layer(), 1, enable_nested_tensor=False)
    fused = fused_copy(model)
    with torch.no_grad():
        wanted = model.eval()(X)
        with fd.mc_mode(fused):
            assert uses_kernels(fused, X)
            outputs = torch.stack([fused(X) for _ in range(400)])
        assert torch.equal(fused.eval()(X), wanted)
        assert not torch.equal(outputs[0], outputs[1])
        with fd.mc_mode(model):
            others = torch.stack([model(X) for _ in range(400)])
    spread = (others.var(0) / 400 + outputs.var(0) / 400).sqrt()
    assert ((outputs.mean(0) - others.mean(0)).abs() < 5 * spread).all()


def test_a_single_child_in_training():
    """Any dropout child of a transformer layer that is in evaluation."""
    layer = fused_copy(encoder_layer(), "torch.nn").eval()
    for name in ("dropout", "dropout1", "dropout2", "self_attn"):
        one = layer.get_submodule(name)
        one.training = True
        assert uses_kernels(layer, X) and not torch.equal(layer(X), layer(X))
        one.training = False
    assert not uses_kernels(layer, X)


def test_each_dropout_site_changes_the_output():
    """Every dropout layer of a decoder layer is applied, at the right site."""
    model = copy.deepcopy(decoder_layer(dropout=0.0))
    fused = fused_copy(model, "torch.nn")
    plain = seeded(fused, X, MEMORY)
    for name in ("dropout", "dropout1", "dropout2", "dropout3"):
        fused.get_submodule(name).p = 1.0
        model.get_submodule(name).p = 1.0
        torch.testing.assert_close(fused(X, MEMORY), model(X, MEMORY))
        fused.get_submodule(name).p = model.get_submodule(name).p = 0.5
        assert not torch.allclose(fused(X, MEMORY), plain)
        fused.get_submodule(name).p = model.get_submodule(name).p = 0.0
    for name in ("self_attn", "multihead_attn"):
        fused.get_submodule(name).dropout = 0.5
        assert not torch.allclose(fused(X, MEMORY), plain)
        fused.get_submodule(name).dropout = 0.0
    torch.testing.assert_close(fused(X, MEMORY), plain)


def test_complex_input_falls_back():
    layer = encoder_layer(activation=torch.tanh)
    with pytest.raises(RuntimeError):
        fused_copy(layer)(X.to(torch.complex64))
    assert_as_torch(layer.eval(), fused_copy(layer), X)
