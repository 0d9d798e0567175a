"""Modules of transformers models that ``fuse`` skips, and the reasons in the report."""

import copy
import functools

import pytest
import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface
from transformers.models.bert.modeling_bert import BertSelfOutput

import fused_dropout as fd
from fused_dropout.fusion.class_swap import FusedMixin
from tests.fusion.fusing import seeded
from tests.fusion.packages.hf_models import bert, call_encoder
from tests.fusion.parity import ExplicitMasks, assert_parity


@pytest.fixture
def model():
    return bert().train()


def texts(report):
    return {site.name: site.text for site in report.skipped}


OUTPUT = "encoder.layer.0.output"


class LowRank(nn.Linear):
    """A linear layer with a low-rank adapter."""

    def __init__(self, of):
        super().__init__(of.in_features, of.out_features)
        self.weight, self.bias = of.weight, of.bias
        self.down = nn.Linear(of.in_features, 2, bias=False)
        self.up = nn.Linear(2, of.out_features, bias=False)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


def test_hooks_on_a_child(model):
    model.encoder.layer[0].output.dense.register_forward_hook(lambda *_: None)
    model.encoder.layer[0].attention.output.dropout.register_forward_pre_hook(lambda *_: None)
    report = fd.fuse(model)
    assert texts(report) == {"encoder.layer.0.attention.output": "dropout has hooks"}
    assert called_layer(report) == "dense has hooks"


def called_layer(report):
    """What the report says of the linear layer in OUTPUT that is called."""
    (text,) = (site.text for site in report.fused if site.name == OUTPUT)
    return text.partition("bias, dropout, residual and norm; not fused: ")[2]


def test_hooks_added_after_fuse_are_called(model):
    fd.fuse(model)
    seen = []
    model.encoder.layer[0].output.dense.register_forward_hook(lambda *_: seen.append(1))
    call_encoder(model)
    assert seen == [1]


def test_parametrisation(model):
    nn.utils.parametrizations.weight_norm(model.encoder.layer[0].output.dense)
    report = fd.fuse(model, strict=True)
    assert called_layer(report) == "dense has a parametrisation of weight"


def test_subclass_of_linear(model):
    output = model.encoder.layer[0].output
    output.dense = LowRank(output.dense)
    report = fd.fuse(model, strict=True)
    assert called_layer(report).endswith("LowRank, a subclass of Linear")


def test_adapters_added_after_fuse_are_used(model):
    fd.fuse(model)
    output = model.encoder.layer[0].output
    output.dense = LowRank(output.dense)
    call_encoder(model)[0][0].sum().backward()
    assert output.dense.up.weight.grad.abs().max() > 0


def test_activation_without_a_kernel(model):
    model.encoder.layer[0].intermediate.intermediate_act_fn = nn.Softsign()
    report = fd.fuse(model)
    fused = {site.name for site in report.fused if site.name.endswith("intermediate")}
    assert fused == {"encoder.layer.1.intermediate"} and not report.skipped


def test_quantised(model):
    torch.ao.quantization.quantize_dynamic(
        model.encoder.layer[0].output, {nn.Linear}, dtype=torch.qint8, inplace=True
    )
    text = called_layer(fd.fuse(model, strict=True))
    assert text.startswith("dense is torch.ao.nn.quantized.dynamic.") and "Linear" in text


def test_tied_modules_are_fused(model):
    layers = model.encoder.layer
    layers[1].output, layers[1].intermediate = layers[0].output, layers[0].intermediate
    layers[1].attention.output.dense.weight = layers[0].attention.output.dense.weight
    fused = assert_parity(model, call_encoder)
    first, second = fused.encoder.layer
    assert first.output is second.output
    assert first.attention.output.dense.weight is second.attention.output.dense.weight


def assert_as_unfused(output):
    """A module computes the same in a fused model, which calls its own code."""
    unfused = copy.deepcopy(output).train()
    fd.fuse(output)
    x, y = torch.randn(2, 4, 5, 32)
    got = seeded(output, x, y)
    with ExplicitMasks():
        torch.testing.assert_close(got, seeded(unfused, x, y))


def test_a_subclass_that_overrides_forward(model):
    class Output(BertSelfOutput):
        def forward(self, hidden_states, input_tensor):
            return super().forward(hidden_states, input_tensor) + 1

    output = model.encoder.layer[0].attention.output
    output.__class__ = Output
    assert_as_unfused(output)


def test_a_subclass_that_inherits_forward_is_fused(model):
    class Output(BertSelfOutput):
        pass

    model.encoder.layer[0].attention.output.__class__ = Output
    report = fd.fuse(model)
    assert not report.skipped and "Output" in type(model.encoder.layer[0].attention.output).__name__


def plain(self, hidden_states, input_tensor):
    return hidden_states


@functools.wraps(BertSelfOutput.forward)
def wrapping(self, hidden_states, input_tensor):
    return hidden_states


@pytest.mark.parametrize("forward", [plain, wrapping])
def test_a_replaced_forward(model, monkeypatch, forward):
    monkeypatch.setattr(BertSelfOutput, "forward", forward)
    assert_as_unfused(model.encoder.layer[0].attention.output)


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_other_implementations_of_attention(implementation):
    model = bert(attn_implementation=implementation)
    skipped = texts(fd.fuse(model))
    assert set(skipped) == {f"encoder.layer.{i}.attention.self" for i in range(2)}
    assert set(skipped.values()) == {
        f"attn_implementation is {implementation!r}, but expected 'sdpa'"
    }


def test_an_implementation_selected_after_fuse_is_used(model):
    fd.fuse(model)
    seen = []

    def theirs(module, query, key, value, attention_mask, **kwargs):
        seen.append(1)
        return query.transpose(1, 2), None

    AttentionInterface.register("theirs", theirs)
    try:
        model.set_attn_implementation("theirs")
        call_encoder(model)
    finally:
        del AttentionInterface._global_mapping["theirs"]
    assert seen == [1, 1]


def test_a_replaced_entry_of_the_attention_table(model, monkeypatch):
    fd.fuse(bert())
    seen = []

    def theirs(module, query, key, value, attention_mask, **kwargs):
        seen.append(1)
        return query.transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", theirs)
    skipped = texts(fd.fuse(model))
    assert set(skipped.values()) == {
        "the entry 'sdpa' of transformers' attention table is an unknown function"
    }
    call_encoder(model)
    assert seen == [1, 1]


def test_strict(model):
    model.encoder.layer[0].output.dropout.register_forward_hook(lambda *_: None)
    with pytest.raises(fd.fusion.FusionError, match="dropout has hooks") as error:
        fd.fuse(model, strict=True)
    assert list(texts(error.value.report)) == [OUTPUT]
    assert not any(isinstance(module, FusedMixin) for module in model.modules())
