"""Code of any origin: known shapes of expressions become calls of kernels."""

import copy
import functools
import linecache
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from fused_dropout.fusion.structure.norms import norm_of_class
from tests.fusion import own_models as own
from tests.fusion.fusing import called, classes, fused_copy, seeded, uses_kernels
from tests.fusion.parity import (
    ExplicitMasks,
    assert_equal_runs,
    assert_parity,
    run,
    set_p,
    with_inputs,
)

X = torch.randn(3, 5, own.WIDTH, generator=torch.Generator().manual_seed(1))

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


def test_closures_and_line_numbers():
    model = own.with_closure()
    fused = fused_copy(model)
    assert "fused_dropout::bias_act_dropout" in called(lambda: fused(X))
    got = run(fused, with_inputs(X), 2)
    with ExplicitMasks():
        assert_equal_runs(run(model, with_inputs(X), 2), got, 2e-5)
    code, new = own.GptMlp.forward.__code__, fused_copy(own.GptMlp()).fused_forward.__code__
    assert (new.co_filename, new.co_firstlineno) == (code.co_filename, code.co_firstlineno)
    assert {line for *_, line in new.co_lines() if line} <= {
        line for *_, line in code.co_lines() if line
    }


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


@pytest.mark.parametrize("bias", [True, False])
def test_a_gate_without_a_kernel(bias):
    unfused = own.GatedByHalves(bias=bias)
    fused = fused_copy(unfused)
    for model in (unfused, fused):
        model.act = nn.Softsign()
    got = run(fused, with_inputs(X), 2)
    with ExplicitMasks():
        assert_equal_runs(run(unfused, with_inputs(X), 2), got, 2e-5)


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


# Code that must not be joined, or not be rewritten at all.


def doubled(function):
    @functools.wraps(function)
    def call(self, *args, **kwargs):
        return 2 * function(self, *args, **kwargs)

    return call


class ReadTwice(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(self.act(h))
        return self.fc2(y + h)


class ReadLater(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(h)
        z = self.fc2(y)
        return z, h


class ChangedLater(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(F.relu(h))
        h += y
        return self.fc2(y)


class ReadInTheNextTurn(own.AttributeMlp):
    def forward(self, x):
        h = x
        for _ in range(2):
            y = self.fc1(h)
            h = self.fc2(self.drop1(F.relu(y)))
        return h, y


class ReadAfterABranch(own.AttributeMlp):
    def forward(self, x, twice=True):
        y = self.fc1(x)
        if twice:
            z = self.fc1(x + 1)
            y = self.drop1(F.relu(z))
            y = y + z
        return self.fc2(y)


class Captured(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        later = lambda: h  # noqa: E731
        h = self.drop1(F.relu(h))
        return self.fc2(h) + later().sum()


class Deleted(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(F.relu(h))
        del h
        return self.fc2(y)


class UnderACondition(own.AttributeMlp):
    def forward(self, x):
        h = self.drop1(self.fc1(x))
        return self.fc2(h if self.training else x.new_zeros(24))


class HalvesReadLater(own.GatedByHalves):
    def forward(self, x):
        a, b = self.Wi(x).chunk(2, dim=-1)
        y = self.drop(self.act(a) * b)
        return self.Wo(y + a)


class OtherHalves(own.GatedByHalves):
    def forward(self, x):
        a, b = torch.cat((x, x), 1).chunk(2, dim=1)
        y = self.drop(self.act(a) * b)
        a, b = self.Wi(y).chunk(2, dim=-1)
        y = self.drop(self.act(a) * a)
        return self.Wo(y), b


class GateOfAnotherSize(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(16, 1), nn.Linear(16, 24)

    def forward(self, x):
        return self.fc2(self.drop1(torch.sigmoid(self.gate(x)) * self.up(x)))


class ConvolutionInHalves(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 1)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, dim=-1)
        return self.drop1(F.gelu(a) * b)


class BreakInALoop(own.AttributeMlp):
    def forward(self, x):
        h = x
        for i in range(3):
            h = self.fc1(x)
            x = self.fc2(self.drop1(F.gelu(h)))
            if i == 1:
                break
            h = x
        return x, h


class Finally(own.AttributeMlp):
    def forward(self, x):
        try:
            h = self.fc1(x)
            return self.fc2(self.drop1(F.gelu(h)))
        finally:
            self.last = h.detach()


class InplaceBefore(own.AttributeMlp):
    """``x`` is changed before the other side of the sum is computed."""

    def __init__(self):
        super().__init__()
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(16, 16)

    def forward(self, x):
        x = x * 1
        h = self.relu(x)
        h = self.fc(h)
        return 0.5 * x + self.drop1(h)


class InplaceInABranch(InplaceBefore):
    def body(self, x):
        return self.drop1(self.fc(self.relu(x)))

    def forward(self, x):
        x, s = x * 1, x * 2
        return x + s + self.body(x)


class Walrus(own.AttributeMlp):
    def forward(self, x):
        h = self.fc2(a := self.fc1(x))
        return 2 * a.sum() + self.drop2(h)


class Shadowed(own.AttributeMlp):
    """A local name that is a function of torch elsewhere."""

    def forward(self, x):
        silu = doubled_value
        return self.fc2(self.drop1(silu(self.fc1(x))))


class OwnDropoutInside(own.AttributeMlp):
    def forward(self, x):
        from tests.fusion.test_fusion_structure import doubled_value as dropout

        return self.fc2(self.drop1(dropout(F.relu(self.fc1(x)))))


def doubled_value(x):
    return 2 * x


class HookOnLastDropout(own.AttributeMlp):
    """A dropout layer that only ``open_forward`` bypasses."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.drop2.register_forward_hook(triple)

    def _sa(self, x):
        x = self.fc(x).clone()
        return self.drop2(x)

    def forward(self, x):
        return self.norm(x + self._sa(x))


def triple(module, inputs, output):
    return 3 * output


class DecoratedMethod(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    @doubled
    def body(self, x):
        return self.drop1(self.fc(x))

    def forward(self, x):
        return x + self.body(x)


class WithCall(own.GptMlp):
    def __call__(self, x):
        return 3 * super().__call__(x)


class CallsIt(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = WithCall()

    def forward(self, x):
        return x + self.mlp(x)


class OrderMatters(own.AttributeMlp):
    """``scale`` is read after the layer that sets it."""

    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def count(self, x):
        self.scale = self.scale + 1.0
        return self.drop1(F.relu(self.fc1(x)))

    def forward(self, x):
        self.scale = 1.0
        y = self.count(x)
        y = self.scale * y
        return self.fc2(y)


class InplaceAndReadLater(own.AttributeMlp):
    def __init__(self):
        super().__init__(nn.ReLU(inplace=True))

    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(self.act(h))
        return self.fc2(y), h


class WithTry(own.AttributeMlp):
    def forward(self, x):
        h = x
        try:
            h = self.fc1(x)
            h = self.drop1(self.act(h))
            h = self.fc2(h)
        except RuntimeError:
            h = h + 1
        return h


class SumOfOtherThings(own.AttributeMlp):
    def forward(self, x):
        return x.mean(-1, keepdim=True) + self.drop2(self.fc2(F.relu(self.fc1(x))))


class SumOfTwoDropouts(own.AttributeMlp):
    def forward(self, x):
        return self.drop1(self.fc1(x)) + self.drop2(self.fc1(self.drop2(x)))


class NumberAsResidual(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.path, self.norm = fd.DropPath(0.1), nn.LayerNorm(16)

    def forward(self, x):
        one, small = 1.0, 1e-3
        y = one + self.drop2(self.fc2(F.relu(self.fc1(x))))
        y = one + self.path(self.norm(y + small))
        y = y + small
        return self.norm(y) + y


class Properties(own.AttributeMlp):
    """``fuse`` does not run properties."""

    @property
    def missing(self):
        raise RuntimeError

    def forward(self, x, other=False):
        if other:
            x = self.missing.layer(x)
        return self.fc2(self.drop1(F.relu(self.fc1(x))))


class TransposedBranch(own.AttributeMlp):
    """``view`` needs the layout that torch gives to sums and norms."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), own.RmsNormOfLlama()

    def forward(self, x):
        y = x + self.drop1(self.fc2(self.fc1(x)).mT.contiguous().mT)
        y = y + y.view(-1).sum() / 100
        branch = self.norm1(y).mT.contiguous().mT
        y = y + self.drop1(branch)
        z = self.norm1(y)
        y = y + z.view(x.shape).mT.contiguous().mT
        z = self.norm2(y)
        return y.view(-1), z.view(-1)


class TransposedResidual(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        t = x.mT
        t = t + self.drop1(self.fc(t))
        n = self.norm(t)
        return t.mT.view(3, 80), n.view(-1)


class BroadcastResidual(own.AttributeMlp):
    def forward(self, x):
        r = x[:1]
        return r + self.drop2(self.fc2(F.relu(self.fc1(x))))


class Decorated(own.AttributeMlp):
    @doubled
    @doubled
    def forward(self, x):
        h = self.drop1(self.act(self.fc1(x)))
        return self.drop2(self.fc2(h))


class InComprehension(own.AttributeMlp):
    def forward(self, x):
        parts = [self.fc2(self.drop1(F.relu(self.fc1(one)))) for one in x.unbind(0)]
        return torch.stack(parts)


class PrivateName(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.__fc = nn.Linear(16, 24)

    def forward(self, x):
        return self.fc2(self.drop1(F.relu(self.__fc(x))))


OTHERS = [
    ReadTwice,
    ReadLater,
    ChangedLater,
    ReadInTheNextTurn,
    ReadAfterABranch,
    Captured,
    Deleted,
    UnderACondition,
    GateOfAnotherSize,
    ConvolutionInHalves,
    BreakInALoop,
    Finally,
    InplaceBefore,
    InplaceInABranch,
    Walrus,
    Shadowed,
    OwnDropoutInside,
    HookOnLastDropout,
    DecoratedMethod,
    CallsIt,
    HalvesReadLater,
    OtherHalves,
    OrderMatters,
    InplaceAndReadLater,
    WithTry,
    SumOfOtherThings,
    SumOfTwoDropouts,
    NumberAsResidual,
    Properties,
    BroadcastResidual,
    Decorated,
    InComprehension,
    PrivateName,
]


@pytest.mark.parametrize("cls", OTHERS)
def test_code_that_reads_what_it_computed(cls):
    torch.manual_seed(0)
    assert_parity(cls(), with_inputs(X))


def test_layouts():
    torch.manual_seed(0)
    call = with_inputs(X)
    assert_parity(
        TransposedBranch(), call, fused_classes=["TransposedBranch"], in_memory_order=True
    )


def test_layout_of_a_residual_that_is_not_contiguous():
    fused = fused_copy(TransposedResidual())
    fused(X)
    for one in fused.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.0
    for output, expected in zip(fused(X), fused.eval()(X), strict=True):
        torch.testing.assert_close(output, expected)


def test_code_that_was_replaced_is_not_rewritten(monkeypatch):
    fd.fuse(own.GptMlp())
    monkeypatch.setattr(own.GptMlp, "forward", lambda self, x: x + 1)
    model = own.GptMlp()
    model.c_fc = nn.Sequential(nn.Linear(16, 24))
    fd.fuse(model)
    assert torch.equal(model(X), X + 1)


def test_a_method_of_a_norm_that_is_replaced(monkeypatch):
    model = fused_copy(own.LlamaLayer(norm=own.RmsNormInTwoMethods))
    set_p(model, 0.0)
    monkeypatch.setattr(own.RmsNormInTwoMethods, "_norm", lambda self, x: 0 * x)
    expected = copy.deepcopy(model).eval()(X)
    torch.testing.assert_close(model(X), expected)


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


def test_unreadable_code_is_left():
    class Hiding:
        """A decorator that is not a function."""

        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function = function

        def __get__(self, instance, owner):
            return functools.partial(self.function, instance)

    class Decorated(own.AttributeMlp):
        @Hiding
        def forward(self, x):
            return self.drop1(self.act(self.fc1(x)))

    names = {"nn": nn, "own": own}
    exec(
        "class NoSource(own.AttributeMlp):\n"
        "    def forward(self, x):\n"
        "        return self.drop1(self.act(self.fc1(x)))",
        names,
    )

    class Locals(own.AttributeMlp):
        def forward(self, x):
            h = self.act(self.fc1(x))
            h = self.drop1(h)
            return h, len(locals())

    for cls in (Decorated, names["NoSource"], Locals):
        report = fd.fuse(cls())
        assert {site.module for site in report.fused} == {"Dropout"}, cls


def test_code_of_a_notebook():
    """The imports are in another cell, for which Python compiles calls of functions otherwise."""
    names = {"__name__": "cells"}
    for index, cell in enumerate(
        (
            "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n",
            "class Cell(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.fc, self.drop = nn.Linear(16, 16), nn.Dropout(0.1)\n"
            "    def forward(self, x):\n"
            "        return torch.relu(self.drop(F.gelu(self.fc(x))))\n",
        )
    ):
        file = f"<cell {index}>"
        linecache.cache[file] = len(cell), None, cell.splitlines(True), file
        exec(compile(cell, file, "exec"), names)
    (site, _) = fd.fuse(names["Cell"]()).fused
    assert site.text == "bias, activation and dropout"


def test_source_that_is_not_the_code():
    """A file that was changed after its import is not taken for the code that runs."""

    class Changed(own.AttributeMlp):
        def forward(self, x):
            return self.drop1(self.act(self.fc1(x)))

    Changed.forward.__code__ = own.GptMlp.forward.__code__.replace(
        co_filename=Changed.forward.__code__.co_filename,
        co_firstlineno=Changed.forward.__code__.co_firstlineno,
    )
    assert {site.module for site in fd.fuse(Changed()).fused} == {"Dropout"}

    class ChangedNorm(own.RmsNormOfLlama):
        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    assert norm_of_class(ChangedNorm) is not None
    ChangedNorm.forward.__code__ = OtherPower.forward.__code__.replace(
        co_filename=ChangedNorm.forward.__code__.co_filename,
        co_firstlineno=ChangedNorm.forward.__code__.co_firstlineno,
    )
    assert norm_of_class(ChangedNorm) is None


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
