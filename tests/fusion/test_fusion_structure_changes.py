"""Code of any origin: modules and classes that change after `fuse`."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion import own_models as own
from tests.fusion.fusing import fused_copy, seeded
from tests.fusion.own_models import X
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs

CHANGES = {
    "adapter": lambda model: setattr(model.mlp, "fc1", nn.Sequential(nn.Linear(16, 24))),
    "hook_on_linear": lambda model: model.mlp.fc2.register_forward_hook(lambda *_: None),
    "hook_on_norm": lambda model: model.norm2.register_forward_hook(lambda *_: None),
    "hook_on_child": lambda model: model.mlp.register_forward_hook(lambda *_: None),
    "hook_on_dropout": lambda model: model.mlp.drop1.register_forward_hook(lambda *_: None),
    "norm": lambda model: setattr(model, "norm2", nn.BatchNorm1d(5)),
    "no_norm": lambda model: setattr(model, "norm2", nn.Identity()),
    "activation": lambda model: setattr(model.mlp, "act", nn.Softsign()),
    "dropout": lambda model: setattr(model.mlp, "drop2", nn.Identity()),
    "other_dropout": lambda model: setattr(model.mlp, "drop2", nn.Hardtanh()),
    "child": lambda model: setattr(model, "mlp", nn.Linear(16, 16)),
    "frozen_child": lambda model: model.mlp.eval(),
    "forward": lambda model: setattr(model.mlp, "forward", lambda x: x),
}


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_fuse(change, norm_first):
    """A change of a child after ``fuse`` has the effect that it has in the unfused model."""
    torch.manual_seed(0)
    unfused = own.ConditionalBlock(norm_first)
    fused = fused_copy(unfused)
    for model in (unfused, fused):
        torch.manual_seed(1)
        CHANGES[change](model)
    got = run(fused, with_inputs(X), 2)
    with ExplicitMasks():
        expected = run(unfused, with_inputs(X), 2)
    assert_equal_runs(expected, got, 2e-5)


def test_methods_that_are_replaced_after_fuse(monkeypatch):
    fused = fused_copy(own.BlocksAsMethods())
    monkeypatch.setattr(own.BlocksAsMethods, "_ff_block", lambda self, x: torch.zeros_like(x))
    monkeypatch.setattr(own.BlocksAsMethods, "_sa_block", lambda self, x: torch.zeros_like(x))
    assert torch.equal(fused(X), X)
    assert fd.report(fused).skipped[0].text == "a method of its class was replaced"


def test_hooks_run_once():
    calls = []
    model = fused_copy(own.GptBlock())
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(X)
    assert sorted(calls) == sorted(name for name, _ in model.named_modules())


def test_dropout_children_in_training_alone():
    """``mc_mode`` and code that sets the flag of a dropout layer work in evaluation."""
    model = own.AttributeMlp().eval()
    fused = fused_copy(model)
    for one in (model, fused):
        one.drop2.train()
    got = seeded(fused, X)
    with ExplicitMasks():
        torch.testing.assert_close(got, seeded(model, X))
    with fd.mc_mode(fused):
        assert not torch.equal(fused(X), fused(X))


def test_code_that_was_replaced_is_not_rewritten(monkeypatch):
    fd.fuse(own.GptMlp())
    monkeypatch.setattr(own.GptMlp, "forward", lambda self, x: x + 1)
    model = own.GptMlp()
    model.c_fc = nn.Sequential(nn.Linear(16, 24))
    fd.fuse(model)
    assert torch.equal(model(X), X + 1)


def test_modules_that_refer_to_each_other():
    class Child(own.GptMlp):
        def forward(self, x):
            self.parent.count += 1
            return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))

    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child, self.count = Child(), 0
            self.child.__dict__["parent"] = self

        def forward(self, x):
            return x + self.child(x)

    model = Parent()
    assert {site.module.rpartition(".")[2] for site in fd.fuse(model).fused} > {"Parent", "Child"}
    model(X)
    assert model.count == 1


def test_dropout_that_is_removed_after_fuse():
    class Optional(own.AttributeMlp):
        def forward(self, x):
            x = F.gelu(self.fc1(x))
            if self.drop1 is not None:
                x = self.drop1(self.fc2(x))
            return x

    model = fused_copy(Optional())
    model.drop1 = None
    for one in (model, copy.copy(model).eval()):
        assert torch.equal(one(X), F.gelu(one.fc1(X)))
