"""Modules that cannot be fused, at the time of ``fuse`` and at every later call.

A module that runs its original forward has the masks of torch for the same seed.
"""

import copy
import re
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize, prune

import fused_dropout as fd
from tests.fusion.fusing import (
    assert_as_torch,
    decoder_layer,
    encoder_layer,
    fused_copy,
    mlp,
    seeded,
    uses_kernels,
)
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))

HOOKS = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "forward_pre": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "always": lambda module: module.register_forward_hook(lambda *_: None, always_call=True),
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward_pre": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "old_backward": lambda module: module.register_backward_hook(lambda *_: None),
}
GLOBAL_HOOKS = {
    "forward": torch_module.register_module_forward_hook,
    "forward_pre": torch_module.register_module_forward_pre_hook,
    "backward": torch_module.register_module_full_backward_hook,
    "backward_pre": torch_module.register_module_full_backward_pre_hook,
}


class Logged(nn.Linear):
    """A subclass. It computes the same function, but ``fuse`` cannot know that."""


class Marked(torch.Tensor):
    pass


def weight_of_a_subclass(linear):
    linear.weight = nn.Parameter(torch.Tensor._make_subclass(Marked, linear.weight.detach()))


def replace_forward(module):
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs) + 1


# {name: (change of a linear layer, reason in the report)}
CHANGES = {
    **{f"{name}_hook": (hook, "has hooks") for name, hook in HOOKS.items()},
    "weight_norm": (parametrizations.weight_norm, "has a parametrisation of weight"),
    "spectral_norm": (parametrizations.spectral_norm, "has a parametrisation of weight"),
    "parametrised_bias": (
        lambda layer: parametrize.register_parametrization(layer, "bias", nn.Softplus()),
        "has a parametrisation of bias",
    ),
    "old_weight_norm": (nn.utils.weight_norm, "has hooks"),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "has hooks"),
    "subclass": (
        lambda layer: setattr(layer, "__class__", Logged),
        r"is tests.fusion.test_fusion_skipped.Logged, a subclass of Linear",
    ),
    "tensor_subclass": (
        weight_of_a_subclass,
        r"\.weight is a tensor subclass: Marked",
    ),
    "instance_forward": (replace_forward, "has a forward set on the instance"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_linear_layers_in_a_sequential(change, when):
    change, reason = CHANGES[change]
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.4))
    unfused = copy.deepcopy(model)
    torch.manual_seed(0)
    change(unfused[0])
    if when == "after":
        fd.fuse(model, "sequential")
        assert uses_kernels(model, X)
    torch.manual_seed(0)
    change(model[0])
    report = fd.report(model) if when == "after" else fd.fuse(model, "sequential")
    (site,) = report.skipped
    assert site.text.startswith("0") and re.search(reason, site.text), site.text
    assert_as_torch(unfused, model, X)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_linear_layers_are_called(change, when):
    """What follows them is fused: their output is the only thing that changes."""
    change, reason = CHANGES[change]
    for model, name, inputs in (
        (encoder_layer(), "linear1", (TOKENS,)),
        (decoder_layer(), "linear2", (TOKENS, TOKENS)),
    ):
        unfused = copy.deepcopy(model)
        torch.manual_seed(0)
        change(unfused.get_submodule(name))
        if when == "after":
            fd.fuse(model, "torch.nn")
        torch.manual_seed(0)
        change(model.get_submodule(name))
        report = fd.report(model) if when == "after" else fd.fuse(model, "torch.nn")
        (site,) = report.fused
        assert f"not fused: {name}" in site.text and re.search(reason, site.text), site.text
        kinds = {site.kind for site in fd.report(model, *inputs).dropout_sites}
        assert "neighbours" in kinds and "torch" not in kinds
        got = seeded(model, *inputs)
        unfused.load_state_dict(model.state_dict())  # spectral norm changes a buffer at each call
        if "spectral" not in str(change):
            with ExplicitMasks():
                wanted = seeded(unfused, *inputs)
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_on_other_children(hook):
    for model, name, inputs in (
        (nn.Sequential(nn.GELU(), nn.Dropout(0.4)), "0", (X,)),
        (nn.Sequential(nn.GELU(), nn.Dropout(0.4)), "1", (X,)),
        (encoder_layer(), "dropout", (TOKENS,)),
        (encoder_layer(), "dropout2", (TOKENS,)),
        (decoder_layer(), "dropout3", (TOKENS, TOKENS)),
    ):
        fused = fused_copy(model, ["sequential", "torch.nn"])
        assert uses_kernels(fused, *inputs)
        handle = HOOKS[hook](fused.get_submodule(name))
        assert_as_torch(model, fused, *inputs)
        (site,) = fd.fuse(fd.unfuse(fused), ["sequential", "torch.nn"]).skipped
        assert site.text == f"{name} has hooks"
        handle.remove()
        fd.fuse(fused, ["sequential", "torch.nn"])
        assert uses_kernels(fused, *inputs)


@pytest.mark.parametrize("hook", GLOBAL_HOOKS)
def test_global_hooks(hook):
    """They have to see the call of every child."""
    for model, inputs in ((mlp(), (X,)), (encoder_layer(), (TOKENS,))):
        fused = fused_copy(model, ["sequential", "torch.nn"])
        seen = []
        handle = GLOBAL_HOOKS[hook](lambda module, *_: seen.append(module))  # noqa: B023
        try:
            assert_as_torch(model, fused, *[x.clone().requires_grad_() for x in inputs])
            fused(*[x.clone().requires_grad_() for x in inputs]).sum().backward()
        finally:
            handle.remove()
        assert {type(module) for module in seen} >= {nn.Linear, nn.Dropout}
        assert uses_kernels(fused, *inputs)


@pytest.mark.parametrize("name", ["norm1", "norm2", "activation"])
def test_norm_or_activation_with_hooks_is_called(name):
    """The rest of the layer is fused."""
    layer = encoder_layer(activation=nn.GELU())
    fd.fuse(layer)
    for hook in HOOKS:
        if hook == "old_backward":  # excludes other backward hooks
            continue
        handle = HOOKS[hook](layer.get_submodule(name))
        seen = []
        layer.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))  # noqa: B023
        assert uses_kernels(layer, TOKENS) and seen
        handle.remove()


ATTENTION = [
    (encoder_layer, ["self_attn"], (TOKENS,)),
    (decoder_layer, ["self_attn", "multihead_attn"], (TOKENS, TOKENS)),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("hook", ["forward", "backward"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("make, names, inputs", ATTENTION)
def test_attention_with_hooks_is_called(make, names, inputs, norm_first, hook, when):
    """Its hooks see what they see without fusing. The rest of the layer is fused."""
    model = make(norm_first=norm_first)
    fused = fused_copy(model) if when == "after" else copy.deepcopy(model)
    seen = []
    for name in names:
        for one in (model, fused):
            HOOKS[hook](one.get_submodule(name))
            one.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs, options: seen.append((inputs, options)), with_kwargs=True
            )
    if when == "before":
        fd.fuse(fused)
    (site,) = (site for site in fd.report(fused, strict=True).fused if site.name == "")
    assert all(f"{name} has hooks" in site.text for name in names)
    kinds = [site.kind for site in fd.report(fused, *inputs).dropout_sites]
    assert kinds.count("neighbours") == (3 if make is encoder_layer else 4)
    assert "torch" not in kinds
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    call = with_inputs(*inputs, **{"src_mask" if make is encoder_layer else "tgt_mask": mask})
    seen.clear()
    got = run(fused, call, seed=4)
    with ExplicitMasks(in_memory_order=True):  # the output of the called attention is transposed
        wanted = run(model, call, seed=4)
    assert_equal_runs(wanted, got, 2e-5)
    calls = seen[: len(names)], seen[len(names) :]
    for (ours, options), (theirs, other_options) in zip(*calls, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert options.keys() == other_options.keys()
        for name, x in options.items():
            other = other_options[name]
            assert torch.equal(x, other) if isinstance(x, torch.Tensor) else x is other


def test_hooks_on_the_fused_module_itself():
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS)):
        seen = []
        fd.fuse(model)
        model.register_forward_hook(lambda module, inputs, output: seen.append(output))  # noqa: B023
        y = model(x)
        assert seen[0] is y and uses_kernels(model, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantised_layers():
    groups = ["sequential", "torch.nn"]
    for model, x in ((mlp()[::2], X), (encoder_layer(), TOKENS)):
        after, before = (
            torch.ao.quantization.quantize_dynamic(one.eval(), {nn.Linear})
            for one in (fused_copy(model, groups), model)
        )
        if x is TOKENS:  # torch's fast path of transformer layers does not accept them
            assert uses_kernels(after.train(), x)
            (site,) = fd.report(after).fused
            assert "not fused: linear1 is torch.ao.nn.quantized.dynamic" in site.text
            continue
        assert torch.equal(before(x), after(x))
        assert_as_torch(before.train(), after.train(), x)
        (site,) = fd.fuse(before, groups).skipped
        assert site.text.startswith("0 is torch.ao.nn.quantized.dynamic")


def test_tied_layers_and_weights():
    """They are fused, and the gradients of the shared parameters add up."""
    tied = nn.Linear(8, 8)
    model = nn.Sequential(tied, nn.GELU(), nn.Dropout(0.0), tied, nn.GELU(), nn.Dropout(0.0))
    model.append(nn.Linear(8, 8))
    model[6].weight = tied.weight
    fused = fused_copy(model)
    assert fused[0] is fused[3] and fused[6].weight is fused[0].weight
    for one in (model, fused):
        one(X).square().sum().backward()
    torch.testing.assert_close(fused[0].weight.grad, model[0].weight.grad)
    torch.testing.assert_close(fused[0].bias.grad, model[0].bias.grad)

    layer = encoder_layer(dropout=0.0)
    stack = nn.ModuleList([layer, layer])
    assert [p.name for p in fd.fuse(stack, "torch.nn").fused] == ["0"]
    assert stack[0] is stack[1] and uses_kernels(stack[1], TOKENS)


class Cubed(nn.Module):
    def forward(self, x):
        return x**3


def test_activations_without_a_kernel():
    for act in (Cubed(), nn.Softplus(2), nn.PReLU(), nn.RReLU(), nn.Threshold(0, 0)):
        model = nn.Sequential(nn.Linear(8, 16), act, nn.Dropout(0.4))
        fused = fused_copy(model, "sequential")
        assert_as_torch(model, fused, X)
    model = nn.Sequential(nn.Linear(8, 16), Cubed(), nn.Dropout(0.4))
    (site,) = fd.fuse(model, "sequential").skipped
    assert (
        site.text == "1 is tests.fusion.test_fusion_skipped.Cubed, an activation without a kernel"
    )
    (site,) = fd.fuse(encoder_layer(activation=Cubed()), "torch.nn").fused
    assert site.text.endswith("activation without a kernel")
    (site,) = fd.fuse(nn.Sequential(nn.Softplus(2), nn.Dropout()), "sequential").skipped
    assert site.text == "0 has options without a kernel: Softplus(beta=2, threshold=20.0)"


# Methods that were replaced


def scaled(self, x):
    return F.linear(x, self.weight, self.bias) * 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_replaced_forward_of_the_class_of_a_child(when):
    """Some projects replace the forward of all linear layers of a process."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.4))
    fused = fused_copy(model, "sequential") if when == "after" else copy.deepcopy(model)
    with patch.object(nn.Linear, "forward", scaled):
        if when == "before":
            (site,) = fd.fuse(fused, "sequential").skipped
            assert re.search("is .*Linear, whose forward was replaced", site.text)
        assert_as_torch(model, fused, X)
    if when == "after":
        assert uses_kernels(fused, X)

    model = encoder_layer()
    model.self_attn.dropout = 0.0  # the attention, which is called, is not fused here
    fused = fused_copy(model, "torch.nn") if when == "after" else copy.deepcopy(model)
    with patch.object(nn.Linear, "forward", scaled):
        if when == "before":
            (site,) = fd.fuse(fused, "torch.nn").fused
            assert re.search("linear1 is .*Linear, whose forward was replaced", site.text)
        got = seeded(fused, TOKENS)
        with ExplicitMasks(in_memory_order=True):
            wanted = seeded(model, TOKENS)
    torch.testing.assert_close(got, wanted)


def doubled(forward):
    return lambda *args, **kwargs: forward(*args, **kwargs) * 2


REPLACED = [
    (nn.Sequential, "forward", mlp, (X,)),
    (nn.Dropout, "forward", lambda: nn.Dropout(0.4), (X,)),
    (nn.TransformerEncoderLayer, "forward", encoder_layer, (TOKENS,)),
    (nn.TransformerEncoderLayer, "_sa_block", encoder_layer, (TOKENS,)),
    (nn.TransformerEncoderLayer, "_ff_block", encoder_layer, (TOKENS,)),
    (nn.TransformerDecoderLayer, "forward", decoder_layer, (TOKENS, TOKENS)),
    (nn.TransformerDecoderLayer, "_mha_block", decoder_layer, (TOKENS, TOKENS)),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("cls, name, build, inputs", REPLACED)
def test_replaced_method_of_the_class(cls, name, build, inputs, when):
    model = build()
    group = {nn.Sequential: "sequential", nn.Dropout: "dropout"}.get(cls, "torch.nn")
    fused = fused_copy(model, group) if when == "after" else copy.deepcopy(model)
    with patch.object(cls, name, doubled(getattr(cls, name))):
        if when == "before":
            (site,) = fd.fuse(fused, group).skipped
            assert site.text == f"{cls.__name__}.{name} was replaced"
        assert_as_torch(model, fused, *inputs)
    if when == "after":
        assert uses_kernels(fused, *inputs)


def test_forward_set_on_the_instance_before_fusing():
    """It precedes the forward of every class, so the module is skipped."""
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS), (nn.Dropout(0.4), X)):
        replace_forward(model)
        (site,) = (p for p in fd.fuse(model).sites if p.name == "")
        assert not site.fused and site.text == "has a forward set on the instance"
        model(x)


def test_forward_set_on_the_instance_after_fusing():
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS)):
        fused = fused_copy(model)
        replace_forward(fused)
        wanted = seeded(fused_copy(model), x) + 1
        assert torch.equal(seeded(fused, x), wanted)


def test_other_method_set_on_the_instance_after_fusing():
    model = encoder_layer()
    fused = fused_copy(model, "torch.nn")
    for one in (model, fused):
        one._ff_block = lambda x: x * 3
    assert_as_torch(model, fused, TOKENS)


class Twice(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class OwnBlock(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return super()._ff_block(x) * 2


def test_subclasses_that_override_a_method():
    model = Twice(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.4))
    assert not fd.fuse(model, "sequential").sites
    layer = OwnBlock(16, 4, 24)
    (site,) = fd.fuse(layer, "torch.nn").skipped
    assert site.text == "OwnBlock overrides _ff_block"
