"""Devices without kernels: modules run their original forward, with one warning."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from fused_dropout.functional import _devices
from fused_dropout.fusion import eligibility
from tests.fusion.fusing import Net, assert_as_torch, called, encoder_layer, fused_copy, mlp

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def no_kernels(monkeypatch):
    """CPU tensors play the tensors of a device without kernels."""
    monkeypatch.setattr(eligibility, "has_kernels", lambda x: False)
    monkeypatch.setattr(_devices, "_warned", set())


class Functional(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "model, x",
    [
        (nn.Dropout(0.5), X),
        (Functional(), X),
        (mlp(), X),
        (Net(), TOKENS),
        (encoder_layer(d_model=8, nhead=2), TOKENS),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_original_forward_runs_with_one_warning(model, x, no_kernels, monkeypatch):
    monkeypatch.undo()
    fused = fused_copy(model)  # on a device with kernels, and moved afterwards
    monkeypatch.setattr(eligibility, "has_kernels", lambda x: False)
    monkeypatch.setattr(_devices, "_warned", set())
    with pytest.warns(UserWarning, match=r"no kernels for cpu tensors.*torch's own dropout") as w:
        assert_as_torch(model, fused, x)
    assert len(w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused(x)


def test_models_on_such_a_device_are_not_fused(no_kernels):
    model = Net()
    report = fd.fuse(model)
    assert not report.fused
    reasons = {site.text for site in report.skipped if site.module == "Sequential"}
    assert reasons == {"is on cpu, for which this build has no kernels"}
    assert not called(lambda: model(TOKENS))
    with pytest.raises(fd.FusionError, match="no kernels"):
        fd.fuse(model, strict=True)


def test_a_model_that_was_moved_there_is_reported(monkeypatch):
    model = fused_copy(Net())
    assert not fd.report(model).skipped
    monkeypatch.setattr(eligibility, "has_kernels", lambda x: False)
    assert "no kernels" in str(fd.report(model))
    with pytest.raises(fd.FusionError, match="no kernels"):
        fd.report(model, strict=True)
