"""Reports: dropout sites of a training step, calls really made, fused modules as they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import Net, classes, encoder_layer, fused_copy, mlp
from tests.module_helpers import drawing_nothing

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


def kinds(report):
    return [(site.name, site.kind) for site in report.dropout_sites]


# Each encoder layer drops at three places and in its attention.
ENCODER = [
    (f"encoder.{layer}{name}", kind)
    for layer in (0, 1)
    for name, kind in (
        (".self_attn", "alone"),
        (".dropout", "neighbours"),
        (".dropout1", "neighbours"),
        (".dropout2", "neighbours"),
    )
]
FUSED = [("embed.2", "neighbours"), *ENCODER, ("drop", "alone")]


def test_sites_in_the_code():
    model = Net()
    assert kinds(fd.report(model)) == [(name, "torch") for name, _ in FUSED]
    assert {site.reason for site in fd.report(model).dropout_sites} == {"is not fused"}
    assert kinds(fd.fuse(model, dry_run=True)) == FUSED
    assert kinds(fd.fuse(model)) == FUSED
    assert kinds(fd.report(model)) == FUSED


def test_calls_of_a_step():
    """One for each call, by the module that makes it."""
    model = Net()
    before = fd.report(model, TOKENS)
    assert [kind for _, kind in kinds(before)] == ["torch"] * len(FUSED)
    assert all(".py:" in site.reason for site in before.dropout_sites)
    fd.fuse(model)
    calls = kinds(fd.report(model, TOKENS))
    assert sorted(kind for _, kind in calls) == sorted(kind for _, kind in FUSED)
    assert {name for name, _ in calls} == {"embed", "encoder.0", "encoder.1", "drop"}


def test_named_inputs():
    class Named(nn.Module):
        def forward(self, x, *, times):
            for _ in range(times):
                x = F.dropout(x, 0.5)
            return x

    assert kinds(fd.report(Named(), x=X, times=3)) == [("", "torch")] * 3


def test_a_step_changes_nothing():
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), mlp())
    fd.fuse(model)
    model.eval()
    model[1].train()
    flags = [module.training for module in model.modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    with drawing_nothing():
        assert len(fd.report(model, X).dropout_sites) == 2
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))


def test_a_step_that_fails_changes_nothing():
    model = mlp().eval()
    with drawing_nothing(), pytest.raises(RuntimeError):
        fd.report(model, X[:, :3])
    assert not any(module.training for module in model.modules())


def test_layers_that_never_drop_do_not_count():
    class ReadsP(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.zero = nn.Dropout(0.3), nn.Dropout(0.0)

        def forward(self, x):
            p = self.drop.p if self.training else 0.0
            return self.zero(F.scaled_dot_product_attention(x, x, x, dropout_p=p))

    model = ReadsP()
    assert [site.name for site in fd.fuse(model).dropout_sites] == [""]
    assert kinds(fd.report(model, TOKENS)) == [("", "alone")]


def test_what_torch_still_runs_is_named():
    class Hidden(nn.Module):
        """Calls dropout in a way that its code does not show."""

        def __init__(self):
            super().__init__()
            self.function = F.dropout

        def forward(self, x):
            return self.function(x, 0.5, self.training)

    model = nn.Sequential(Hidden(), nn.LSTM(8, 8, 2, dropout=0.5))
    (lstm,) = fd.fuse(model).dropout_sites
    assert lstm.name == "1" and "left with torch: 1: LSTM: torch computes all" in str(
        fd.report(model)
    )
    report = fd.report(model, X)
    assert kinds(report) == [("0", "torch"), ("1", "torch")]
    assert "2 left with torch" in str(report)
    assert f"left with torch: 0: F.dropout: called in {__file__}:" in str(report)


def test_a_module_that_fell_back_is_listed():
    model = fused_copy(Net())
    assert not fd.report(model, strict=True).skipped
    handle = model.encoder[1].dropout2.register_forward_hook(lambda *_: None)
    (site,) = fd.report(model).skipped
    assert (site.name, site.text) == ("encoder.1", "dropout2 has hooks")
    assert ("encoder.1.dropout2", "alone") in kinds(fd.report(model))
    assert ("encoder.0.dropout2", "neighbours") in kinds(fd.report(model))
    for function in (fd.fuse, fd.report):
        with pytest.raises(fd.FusionError, match=r"encoder\.1: .*: dropout2 has hooks"):
            function(model, strict=True)
    handle.remove()
    assert not fd.report(model, strict=True).skipped


def test_hooks_of_the_process_are_a_reason():
    model = fused_copy(encoder_layer())
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks for all modules" in fd.report(model).skipped[0].text
    finally:
        handle.remove()


def test_fusing_again_fuses_what_could_not_be_fused_before():
    class Own(nn.TransformerEncoderLayer):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.1, self.training)

    model = nn.ModuleList([encoder_layer(), Own(16, 4, 24)])
    handle = model[0].dropout.register_forward_hook(lambda *_: None)
    report = fd.fuse(model)
    assert {site.name for site in report.skipped} == {"0", "1"}
    assert [site.group for site in report.fused if site.name == "1"] == ["functional"]
    handle.remove()
    assert "0" in {site.name for site in fd.fuse(model).fused}
    assert {site.name for site in fd.report(model).skipped} == {"1"}


def test_text_of_both_kinds_of_reports():
    text = str(fd.fuse(mlp()))
    assert "dropout of a training step: 1 in a kernel with neighbours, 0 alone" in text
    assert str(fd.report(mlp())).endswith("  left with torch: 2: Dropout: is not fused")
    assert str(fd.report(nn.Linear(2, 2))) == "fuse: no module matches a pattern"


def test_report_is_for_modules():
    with pytest.raises(TypeError, match=r"report: model is of type Tensor, but expected"):
        fd.report(X)


def test_classes_stay():
    model = Net()
    old = classes(model)
    fd.report(model, TOKENS)
    assert classes(model) == old
