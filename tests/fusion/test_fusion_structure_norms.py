"""Norms of any origin: they are recognised by what their code computes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout.fusion.structure.norms import norm_of_class
from tests.fusion import own_models as own
from tests.fusion.fusing import called, fused_copy
from tests.fusion.own_models import X
from tests.fusion.parity import assert_parity, set_p, with_inputs


def test_a_method_of_a_norm_that_is_replaced(monkeypatch):
    model = fused_copy(own.LlamaLayer(norm=own.RmsNormInTwoMethods))
    set_p(model, 0.0)
    monkeypatch.setattr(own.RmsNormInTwoMethods, "_norm", lambda self, x: 0 * x)
    expected = copy.deepcopy(model).eval()(X)
    torch.testing.assert_close(model(X), expected)


def test_norms_that_are_recognised():
    expected = {
        own.LayerNormWithoutBias: ("layer", "weight", "bias", 1e-5),
        own.RmsNormOfLlama: ("rms", "weight", None, "variance_epsilon"),
        own.RmsNormInTwoMethods: ("rms", "weight", None, "eps"),
    }
    for cls, norm in expected.items():
        assert norm_of_class(cls)[:4] == norm


class OtherPower(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-5))


class OtherDim(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5))


class NoMean(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2) + 1e-5))


class NoWeight(own.RmsNormOfLlama):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


class OnePlusWeight(own.RmsNormOfLlama):
    def forward(self, x):
        return (1.0 + self.weight) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class EpsOutside(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight * (x / (torch.sqrt(x.pow(2).mean(-1, keepdim=True)) + 1e-5))


class TwoTerms(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5 + 0.1))


class Condition(own.RmsNormOfLlama):
    def forward(self, x):
        if x.dim() > 2:
            return x
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


@pytest.mark.parametrize(
    "cls", [OtherPower, OtherDim, NoMean, NoWeight, OnePlusWeight, EpsOutside, TwoTerms, Condition]
)
def test_norms_that_are_others(cls):
    assert norm_of_class(cls) is None
    torch.manual_seed(0)
    assert_parity(own.LlamaLayer(norm=cls), with_inputs(X), fused_classes=["LlamaLayer"])


def test_a_norm_with_a_weight_of_another_dtype():
    """It returns the dtype of its weight, and the kernel that of its input."""
    model = own.LlamaLayer().bfloat16()
    model.post_attention_layernorm.float()
    model.mlp = nn.Linear(16, 16)
    fused = fused_copy(model)
    for one in (model, fused):
        set_p(one, 0.0)
    x = X.bfloat16()
    torch.testing.assert_close(fused(x), model(x), atol=0.05, rtol=0.05)


class SquareRoot(own.RmsNormOfLlama):
    def forward(self, x):
        return x / torch.sqrt(torch.mean(x * x, dim=-1, keepdim=True) + 1e-5) * self.weight


class Power(own.RmsNormOfLlama):
    def forward(self, x):
        return self.weight.float() * x * (self.variance_epsilon + (x**2).mean(-1, True)) ** -0.5


class Functional(own.RmsNormOfLlama):
    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


class NotCastBack(own.RmsNormOfLlama):
    def forward(self, x):
        x = x.float()
        return self.weight.float() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def test_a_norm_that_returns_float32():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = NotCastBack(), nn.Dropout(0.1)

        def forward(self, x):
            return self.norm(x + self.drop(x))

    model = Layer().bfloat16()
    assert fused_copy(model)(X.bfloat16()).dtype == model(X.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("cls", [SquareRoot, Power, Functional])
def test_norms_in_other_words(cls):
    assert norm_of_class(cls) is not None
    torch.manual_seed(0)
    model = own.LlamaLayer(norm=cls)
    fused = assert_parity(model, with_inputs(X), fused_classes=["LlamaLayer"])
    assert "fused_dropout::dropout_add_norm" in called(lambda: fused(X))


def test_a_norm_whose_source_is_not_its_code():
    class ChangedNorm(own.RmsNormOfLlama):
        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    assert norm_of_class(ChangedNorm) is not None
    ChangedNorm.forward.__code__ = OtherPower.forward.__code__.replace(
        co_filename=ChangedNorm.forward.__code__.co_filename,
        co_firstlineno=ChangedNorm.forward.__code__.co_firstlineno,
    )
    assert norm_of_class(ChangedNorm) is None
