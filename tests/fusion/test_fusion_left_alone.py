"""What is left alone and why, at the time of fusing and at every call after it.

Where a module falls back to its old forward, its masks are torch's for the same seed.
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
import fused_dropout.functional as FF
from tests.fusion.fusing import (
    assert_as_torch,
    decoder_layer,
    encoder_layer,
    fused_copy,
    mlp,
    seeded,
    uses_kernels,
)

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
    """A subclass that computes the same, as far as one knows."""


class Marked(torch.Tensor):
    pass


def weight_of_a_subclass(linear):
    linear.weight = nn.Parameter(torch.Tensor._make_subclass(Marked, linear.weight.detach()))


def exchange_forward(module):
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs) + 1


# What is done to a linear layer, and the words of the report.
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
        r"is test_fusion_left_alone.Logged, a subclass of Linear",
    ),
    "tensor_subclass": (
        weight_of_a_subclass,
        r"\.weight is quantised or distributed: a Marked",
    ),
    "own_forward": (exchange_forward, "has a forward of its own"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_linear_layers(change, when):
    change, reason = CHANGES[change]
    for model, name, x, group in (
        (nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.4)), "0", X, "sequential"),
        (encoder_layer(), "linear1", TOKENS, "transformer"),
        (decoder_layer(), "linear2", (TOKENS, TOKENS), "transformer"),
    ):
        inputs = x if isinstance(x, tuple) else (x,)
        unfused = copy.deepcopy(model)
        torch.manual_seed(0)
        change(unfused.get_submodule(name))
        if when == "after":
            fd.fuse(model, group)
            assert uses_kernels(model, *inputs)
        torch.manual_seed(0)
        change(model.get_submodule(name))
        if when == "before":
            (place,) = fd.fuse(model, group).left
            assert place.text.startswith(name)
            assert re.search(reason, place.text), place.text
        assert_as_torch(unfused, model, *inputs)


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_on_other_children(hook):
    for model, name, inputs in (
        (nn.Sequential(nn.GELU(), nn.Dropout(0.4)), "0", (X,)),
        (nn.Sequential(nn.GELU(), nn.Dropout(0.4)), "1", (X,)),
        (encoder_layer(), "self_attn", (TOKENS,)),
        (encoder_layer(), "dropout", (TOKENS,)),
        (encoder_layer(), "dropout2", (TOKENS,)),
        (decoder_layer(), "multihead_attn", (TOKENS, TOKENS)),
        (decoder_layer(), "dropout3", (TOKENS, TOKENS)),
    ):
        fused = fused_copy(model, ["sequential", "transformer"])
        assert uses_kernels(fused, *inputs)
        handle = HOOKS[hook](fused.get_submodule(name))
        assert_as_torch(model, fused, *inputs)
        (place,) = fd.fuse(fd.unfuse(fused), ["sequential", "transformer"]).left
        assert place.text == f"{name} has hooks"
        handle.remove()
        fd.fuse(fused, ["sequential", "transformer"])
        assert uses_kernels(fused, *inputs)


@pytest.mark.parametrize("hook", GLOBAL_HOOKS)
def test_global_hooks(hook):
    """They see every child."""
    for model, inputs in ((mlp(), (X,)), (encoder_layer(), (TOKENS,))):
        fused = fused_copy(model, ["sequential", "transformer"])
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
def test_a_watched_norm_or_activation_is_called(name):
    """The rest of the layer is fused all the same."""
    layer = encoder_layer(activation=nn.GELU())
    fd.fuse(layer)
    for hook in HOOKS:
        if hook == "old_backward":  # goes with no other
            continue
        handle = HOOKS[hook](layer.get_submodule(name))
        seen = []
        layer.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))  # noqa: B023
        assert uses_kernels(layer, TOKENS) and seen
        handle.remove()


def test_hooks_on_the_fused_module_itself():
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS)):
        seen = []
        fd.fuse(model)
        model.register_forward_hook(lambda module, inputs, output: seen.append(output))  # noqa: B023
        y = model(x)
        assert seen[0] is y and uses_kernels(model, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantised_layers():
    groups = ["sequential", "transformer"]
    for model, x in ((mlp()[::2], X), (encoder_layer(), TOKENS)):
        after, before = (
            torch.ao.quantization.quantize_dynamic(one.eval(), {nn.Linear})
            for one in (fused_copy(model, groups), model)
        )
        if x is X:  # torch's own fast path of transformer layers does not take them
            assert torch.equal(before(x), after(x))
        assert_as_torch(before.train(), after.train(), x)
        (place,) = fd.fuse(before, groups).left
        name = "linear1" if x is TOKENS else "0"
        assert place.text.startswith(f"{name} is torch.ao.nn.quantized.dynamic")


def test_tied_layers_and_weights():
    """There is no reason to leave them alone, and their gradients add up."""
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
    assert [p.name for p in fd.fuse(stack, "transformer").fused] == ["0"]
    assert stack[0] is stack[1] and uses_kernels(stack[1], TOKENS)


class Cubed(nn.Module):
    def forward(self, x):
        return x**3


def test_unknown_activations():
    for act in (Cubed(), nn.Softplus(2), nn.PReLU(), nn.RReLU(), nn.Threshold(0, 0)):
        model = nn.Sequential(nn.Linear(8, 16), act, nn.Dropout(0.4))
        fused = fused_copy(model, "sequential")
        assert_as_torch(model, fused, X)
    model = nn.Sequential(nn.Linear(8, 16), Cubed(), nn.Dropout(0.4))
    (place,) = fd.fuse(model, "sequential").left
    assert place.text == "1 is test_fusion_left_alone.Cubed, an activation that is not known"
    (place,) = fd.fuse(encoder_layer(activation=Cubed()), "transformer").fused
    assert place.text.endswith("activation that is not known and applied as it is")
    (place,) = fd.fuse(nn.Sequential(nn.Softplus(2), nn.Dropout()), "sequential").left
    assert place.text == "0 has options that have no kernel: Softplus(beta=2, threshold=20.0)"


# Methods that were exchanged


def scaled(self, x):
    return F.linear(x, self.weight, self.bias) * 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_exchanged_forward_of_a_childs_class(when):
    """As extensions of other projects do with all linear layers of a process."""
    for model, inputs in (
        (nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.4)), (X,)),
        (encoder_layer(), (TOKENS,)),
    ):
        groups = ["sequential", "transformer"]
        fused = fused_copy(model, groups) if when == "after" else copy.deepcopy(model)
        with patch.object(nn.Linear, "forward", scaled):
            if when == "before":
                (place,) = fd.fuse(fused, groups).left
                assert re.search("is .*Linear, whose forward was exchanged", place.text)
            assert_as_torch(model, fused, *inputs)
        if when == "after":
            assert uses_kernels(fused, *inputs)


def doubled(forward):
    return lambda *args, **kwargs: forward(*args, **kwargs) * 2


EXCHANGED = [
    (nn.Sequential, "forward", mlp, (X,)),
    (nn.Dropout, "forward", lambda: nn.Dropout(0.4), (X,)),
    (nn.TransformerEncoderLayer, "forward", encoder_layer, (TOKENS,)),
    (nn.TransformerEncoderLayer, "_sa_block", encoder_layer, (TOKENS,)),
    (nn.TransformerEncoderLayer, "_ff_block", encoder_layer, (TOKENS,)),
    (nn.TransformerDecoderLayer, "forward", decoder_layer, (TOKENS, TOKENS)),
    (nn.TransformerDecoderLayer, "_mha_block", decoder_layer, (TOKENS, TOKENS)),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("cls, name, build, inputs", EXCHANGED)
def test_exchanged_method_of_the_class(cls, name, build, inputs, when):
    model = build()
    group = {nn.Sequential: "sequential", nn.Dropout: "dropout"}.get(cls, "transformer")
    fused = fused_copy(model, group) if when == "after" else copy.deepcopy(model)
    with patch.object(cls, name, doubled(getattr(cls, name))):
        if when == "before":
            (place,) = fd.fuse(fused, group).left
            assert place.text == f"{cls.__name__}.{name} was exchanged"
        assert_as_torch(model, fused, *inputs)
    if when == "after":
        assert uses_kernels(fused, *inputs)


def test_own_forward_before_fusing():
    """The attribute wins over any class: such a module is not fused, and the report says so."""
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS), (nn.Dropout(0.4), X)):
        exchange_forward(model)
        (place,) = (p for p in fd.fuse(model).places if p.name == "")
        assert not place.fused and place.text == "has a forward of its own"
        model(x)


def test_own_forward_after_fusing_that_calls_the_old_one():
    for model, x in ((mlp(), X), (encoder_layer(), TOKENS)):
        fused = fused_copy(model)
        exchange_forward(fused)
        wanted = seeded(fused_copy(model), x) + 1
        assert torch.equal(seeded(fused, x), wanted)


def test_own_block_after_fusing():
    model = encoder_layer()
    fused = fused_copy(model, "transformer")
    for one in (model, fused):
        one._ff_block = lambda x: x * 3
    assert_as_torch(model, fused, TOKENS)


class Twice(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class OwnBlock(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return super()._ff_block(x) * 2


def test_subclasses_with_a_forward_of_their_own():
    model = Twice(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.4))
    assert not fd.fuse(model, "sequential").places
    layer = OwnBlock(16, 4, 24)
    (place,) = fd.fuse(layer, "transformer").left
    assert place.text == "OwnBlock has a _ff_block of its own"


# Changes after fusing, to which the next call keeps


def test_changed_p_and_training():
    ones = torch.ones(64, 8)
    fused = fused_copy(nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Dropout(0.4)))
    for p in (0.4, 0.9, 0.0, 1.0, torch.tensor(0.25)):
        fused[2].p = p
        share = (fused(ones) == 0).float().mean().item()
        assert abs(share - float(p)) < 0.06
    fused[2].p = 0.5
    fused[2].eval()
    assert (fused(ones) == 0).sum() == 0
    fused[2].train()
    assert (fused(ones) == 0).sum() > 0
    fused[2].p = 1.5
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1.5"):
        fused(ones)


def test_a_child_frozen_in_evaluation():
    layer = fused_copy(encoder_layer(dropout=0.0), "transformer")
    layer.dropout2.p = 0.5
    a, b = layer(TOKENS), layer(TOKENS)
    assert not torch.equal(a, b)
    layer.dropout2.eval()
    assert torch.equal(layer(TOKENS), layer(TOKENS)) and uses_kernels(layer, TOKENS)
    layer.self_attn.dropout = 0.5
    assert not torch.equal(layer(TOKENS), layer(TOKENS))
    layer.self_attn.eval()
    assert torch.equal(layer(TOKENS), layer(TOKENS))


def test_changed_layers_of_a_sequential():
    model = fused_copy(mlp(0.4), "sequential")
    model[1] = nn.Tanh()
    assert torch.allclose(
        seeded(model, X), model[3](FF.dropout(torch.tanh(model[0](X)), 0.4, rng_state=_state()))
    )
    model.append(nn.ReLU())
    model.append(nn.Dropout(1.0))
    assert not model(X).any()
    del model[4:]
    model[2] = nn.Identity()
    assert torch.allclose(model(X), model[3](torch.tanh(model[0](X))))
    model.insert(0, nn.Flatten())
    assert torch.allclose(model(X), model[4](torch.tanh(model[1](X))))


def _state():
    torch.manual_seed(5)
    return fd.new_rng_state()


def test_changed_layers_of_a_transformer_layer():
    model = encoder_layer(dropout=0.0)
    fused = fused_copy(model, "transformer")
    for one in (model, fused):
        torch.manual_seed(0)
        one.linear1 = nn.Linear(16, 40)
        one.linear2 = nn.Linear(40, 16)
        one.activation = F.silu
        one.norm1 = nn.Identity()
        one.norm_first = True
        one.dropout = nn.Identity()
    torch.testing.assert_close(fused(TOKENS), model(TOKENS))
    assert uses_kernels(fused, TOKENS)


def test_parametrisation_removed_again():
    fused = fused_copy(mlp(), "sequential")
    parametrizations.weight_norm(fused[0])
    parametrize.remove_parametrizations(fused[0], "weight")
    assert uses_kernels(fused[:2], X) and type(fused[0]) is nn.Linear


def test_pruning_keeps_its_mask():
    """The layer falls back, as a hook computes its weight."""
    fused = fused_copy(mlp(0.0), "sequential")
    prune.l1_unstructured(fused[0], "weight", 0.5)
    fused(X).sum().backward()
    assert not fused[0].weight_orig.grad[fused[0].weight_mask == 0].any()
