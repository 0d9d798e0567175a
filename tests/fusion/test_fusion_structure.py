"""Code of any origin: known shapes of expressions become calls of kernels."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion import own_models as own
from tests.fusion.fusing import classes, fused_copy, seeded, uses_kernels
from tests.fusion.own_models import X
from tests.fusion.parity import (
    ExplicitMasks,
    assert_equal_runs,
    assert_parity,
    run,
    set_p,
    with_inputs,
)

# {name: (model, calls in a kernel with neighbours, calls alone)}
MODELS = {
    "attributes": (own.AttributeMlp, 2, 0),
    "tanh": (lambda: own.AttributeMlp(nn.Tanh()), 2, 0),
    "activation_without_kernel": (lambda: own.AttributeMlp(nn.Softsign()), 1, 1),
    "nested": (own.NestedMlp, 2, 0),
    "functional": (own.FunctionalMlp, 2, 0),
    "loop": (own.LayersInALoop, 2, 0),
    "gate": (own.Gated, 1, 0),
    "gate_in_steps": (own.GatedInSteps, 1, 0),
    "halves": (own.GatedByHalves, 1, 0),
    "halves_without_bias": (lambda: own.GatedByHalves(bias=False), 1, 0),
    "second_half": (own.GatedBySecondHalf, 1, 0),
    "gpt": (own.GptBlock, 2, 0),
    "gpt_without_bias": (lambda: own.GptBlock(bias=False), 2, 0),
    "llama": (own.LlamaLayer, 2, 0),
    "llama_with_two_methods": (lambda: own.LlamaLayer(norm=own.RmsNormInTwoMethods), 2, 0),
    "llama_with_norm_of_torch": (lambda: own.LlamaLayer(norm=lambda: nn.RMSNorm(16)), 2, 0),
    "post_norm": (own.PostNormLayer, 3, 0),
    "pairs": (own.LayersInPairs, 6, 0),
    "drop_path": (own.DropPathBlock, 3, 2),
    "parallel": (own.ParallelBlock, 2, 0),
    "pre_norm_by_option": (lambda: own.ConditionalBlock(True), 3, 0),
    "post_norm_by_option": (lambda: own.ConditionalBlock(False), 3, 0),
    "blocks_as_methods": (own.BlocksAsMethods, 3, 0),
    "chunks": (own.Chunks, 5, 0),
    "inheriting": (own.Inheriting, 1, 2),
    "inplace": (own.InplaceLayers, 1, 0),
}


# Norms that compute in float32, whatever the dtype of the input.
IN_FLOAT32 = ("llama", "llama_with_two_methods")


def made(name):
    torch.manual_seed(0)
    return MODELS[name][0]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_parity(name, dtype):
    model = made(name).to(dtype)
    assert_parity(
        model,
        with_inputs(X.to(dtype)),
        fused_classes=[type(model).__name__],
        tolerance=2e-5 if dtype == torch.float32 or name in IN_FLOAT32 else 1e-12,
    )


@pytest.mark.parametrize("name", MODELS)
def test_calls(name):
    model = made(name)
    fd.fuse(model)
    kinds = [site.kind for site in fd.report(model, X).dropout_sites]
    assert (kinds.count("neighbours"), kinds.count("alone")) == MODELS[name][1:]
    assert "torch" not in kinds


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_and_autocast(name):
    model = made(name)
    fused = fused_copy(model)
    with torch.autocast("cpu"):
        _assert_same_outputs(model, fused, X, 0.02)
    _assert_same_outputs(model.bfloat16(), fused.bfloat16(), X.bfloat16(), 0.02)


def _assert_same_outputs(model, fused, x, tolerance):
    """Without dropout: the unfused model rounds before dropout, so it has no results to compare."""
    for one in (model, fused):
        set_p(one, 0.0)
    for output, other in zip(_tensors(fused(x)), _tensors(model(x)), strict=True):
        assert output.dtype == other.dtype
        torch.testing.assert_close(output, other, atol=tolerance, rtol=tolerance)
        output.float().sum().backward()


@pytest.mark.parametrize("name", ["attributes", "functional", "gpt", "llama", "pairs", "post_norm"])
def test_compile(name):
    model = made(name)
    fused = fused_copy(model)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    got, expected = seeded(compiled, X), seeded(fused, X)
    for one, other in zip(_tensors(got), _tensors(expected), strict=True):
        torch.testing.assert_close(one, other)


def _tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [x for x in output if x is not None]


def test_report_names_what_is_fused():
    model = own.GptBlock()
    texts = {site.name: site.text for site in fd.fuse(model).fused}
    assert texts[""] == "end of a branch, residual and norm; end of a branch and residual"
    assert texts["mlp"] == "bias and activation; bias and dropout"
    kinds = {site.name: site.kind for site in fd.report(model).dropout_sites}
    assert kinds == {"attn.resid_dropout": "neighbours", "mlp.dropout": "neighbours"}


def test_lines_of_functional_dropout_in_the_report():
    class OneOfTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            x = F.dropout(F.relu(self.fc(x)), 0.1, self.training)
            return F.dropout(x.sum(0), 0.1, self.training)

    model = OneOfTwo()
    fd.fuse(model)
    assert [site.kind for site in fd.report(model).dropout_sites] == ["neighbours", "alone"]
    calls = {site.kind for site in fd.report(model, X).dropout_sites}
    assert calls == {"neighbours", "alone"}


def test_only_this_group():
    model = own.GptBlock()
    report = fd.fuse(model, patterns=["structure"])
    assert {site.group for site in report.fused} == {"structure"}
    assert {site.module for site in report.fused} == {"GptBlock", "CausalSelfAttention", "GptMlp"}
    fd.unfuse(model)
    assert type(model) is own.GptBlock
    fd.fuse(model, patterns=["dropout"])
    assert type(model) is own.GptBlock


def test_one_class_with_other_children():
    """Modules of one class get the code for what their children are."""
    with_act, without = own.AttributeMlp(nn.GELU()), own.AttributeMlp(nn.Identity())
    for model in (with_act, without):
        fd.fuse(model)
    assert type(with_act) is not type(without)
    assert type(with_act).__name__ == type(without).__name__ == "AttributeMlp"
    unfused = own.AttributeMlp(nn.Identity())
    assert_parity(unfused, with_inputs(X), fused_classes=["AttributeMlp"])
    assert type(pickle.loads(pickle.dumps(without))) is type(without)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gate_without_a_kernel(bias):
    unfused = own.GatedByHalves(bias=bias)
    fused = fused_copy(unfused)
    for model in (unfused, fused):
        model.act = nn.Softsign()
    got = run(fused, with_inputs(X), 2)
    with ExplicitMasks():
        assert_equal_runs(run(unfused, with_inputs(X), 2), got, 2e-5)


def test_nested_tensors():
    """The original code runs, whatever it does with them."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.1)

        def forward(self, x):
            return x + self.drop(torch.tanh(x))

    fused = fused_copy(Gated())
    nested = torch.nested.nested_tensor([X[0], X[1, :3]], layout=torch.jagged)
    assert fused(nested).is_nested and not uses_kernels(fused, nested)


def test_two_layers_share_their_class():
    model = nn.ModuleList([own.GptBlock(), own.GptBlock()])
    fd.fuse(model)
    assert type(model[0]) is type(model[1])
    assert classes(model) == classes(copy.deepcopy(model))
