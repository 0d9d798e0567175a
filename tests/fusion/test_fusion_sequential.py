"""Runs of layers in ``nn.Sequential``: fused against unfused."""

import copy

import pytest
import torch
from torch import nn

import fused_dropout as fd
from fused_dropout.fusion import activations
from tests.fusion.fusing import assert_as_torch, fused_copy, seeded, uses_kernels
from tests.fusion.parity import assert_parity, with_inputs

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.ReLU6(inplace=True),
    nn.LeakyReLU(),
    nn.LeakyReLU(-0.3),
    nn.LeakyReLU(1.5),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ELU(),
    nn.ELU(0.3),
    nn.ELU(-0.7),
    nn.SELU(),
    nn.SELU(inplace=True),
    nn.Softplus(),
    nn.Mish(),
    nn.Hardswish(),
]

# {name: (linear layer or convolution, shape of an input, batched or unbatched)}
LINEAR_AND_CONV = {
    "linear": (nn.Linear(6, 8), (3, 4, 6)),
    "linear_vector": (nn.Linear(6, 8), (6,)),
    "linear_no_bias": (nn.Linear(6, 8, bias=False), (2, 3, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3, padding="same", padding_mode="circular"), (2, 3, 7)),
    "conv1d_unbatched": (nn.Conv1d(3, 4, 3, stride=2), (3, 9)),
    "conv2d": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 6)),
    "conv2d_groups": (nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 7, 8)),
    "conv2d_unbatched": (nn.Conv2d(3, 4, (2, 3), padding_mode="zeros"), (3, 5, 6)),
    "conv2d_no_bias": (nn.Conv2d(3, 4, 3, bias=False), (2, 3, 5, 6)),
    "conv3d": (nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 2, 4, 3, 5)),
    "conv3d_unbatched": (nn.Conv3d(2, 3, 2), (2, 4, 3, 5)),
}
DROPS = {
    "linear": [nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout()],
    "conv1d": [nn.Dropout(inplace=True), nn.Dropout1d(), nn.AlphaDropout()],
    "conv2d": [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()],
    "conv3d": [nn.Dropout(), nn.Dropout3d(inplace=True), nn.AlphaDropout()],
}


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parity(model, *inputs, run, **options):
    """Checks a model whose runs are described by ``run``."""
    (site,) = (p for p in fd.fuse(copy.deepcopy(model)).sites if p.group == "sequential")
    assert site.text == run
    return assert_parity(
        model, with_inputs(*inputs), fused_classes=["Sequential"], in_memory_order=True, **options
    )


def test_the_list_of_activations_is_complete():
    assert {type(act) for act in ACTIVATIONS} == {
        cls for cls in activations._MODULES if cls.__module__.startswith("torch.nn")
    }


@pytest.mark.parametrize("act", ACTIVATIONS, ids=repr)
def test_activations(act):
    name = type(act).__name__
    model = nn.Sequential(nn.Linear(6, 8), act, nn.Dropout())
    parity(model, tensor(5, 6), run=f"Linear, {name}, Dropout (0 to 2)")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Dropout2d())
    x = tensor(2, 3, 5, 6).to(memory_format=torch.channels_last)
    parity(model, x, run=f"Conv2d, {name}, Dropout2d (0 to 2)")


@pytest.mark.parametrize("name", LINEAR_AND_CONV)
def test_linear_layers_and_dropouts(name):
    layer, shape = LINEAR_AND_CONV[name]
    kind = name.partition("_")[0]
    for drop in DROPS[kind]:
        if "unbatched" in name and isinstance(drop, nn.Dropout2d):
            continue  # torch warns, because the shape of such an input is ambiguous
        if isinstance(drop, nn.Dropout1d) and len(shape) not in (2, 3):
            continue
        run = f"{type(layer).__name__}, SiLU, {type(drop).__name__} (0 to 2)"
        model = nn.Sequential(layer, nn.SiLU(), drop)
        # For unbatched input the dropout layer itself is called; its mask is laid out differently.
        channels = isinstance(drop, nn.Dropout1d | nn.Dropout3d) and "unbatched" in name
        parity(model, tensor(*shape), run=run, masks=not channels)


@pytest.mark.parametrize(
    "layers, run",
    [
        ([nn.Linear(6, 8), nn.GELU()], "Linear, GELU (0 to 1)"),
        ([nn.Linear(6, 8), nn.Dropout()], "Linear, Dropout (0 to 1)"),
        ([nn.Flatten(), nn.Tanh(), nn.Dropout(), nn.Linear(6, 8)], "Tanh, Dropout (1 to 2)"),
        ([nn.Tanh(), nn.AlphaDropout(), nn.Linear(6, 8)], "Tanh, AlphaDropout (0 to 1)"),
        (
            [nn.Linear(6, 8), nn.Linear(8, 8), nn.Tanh(), nn.Tanh(), nn.Dropout(), nn.Dropout()],
            "Linear, Tanh (1 to 2); Tanh, Dropout (3 to 4)",
        ),
        (
            [nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 5), nn.LayerNorm(5), nn.ReLU()],
            "Linear, Dropout (0 to 1)",
        ),
        ([nn.Linear(6, 8), nn.GELU(), fd.Dropout(0.2)], "Linear, GELU, Dropout (0 to 2)"),
    ],
)
def test_runs(layers, run):
    parity(nn.Sequential(*layers), tensor(3, 6), run=run)


def test_classic_dropout_of_this_package():
    """It is the only layer at the end of a run that scales in evaluation."""
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), fd.Dropout(0.2, mode="classic"))
    fused = fused_copy(model)
    x = tensor(3, 6)
    torch.testing.assert_close(seeded(fused, x), seeded(model, x))
    model[2].eval()
    fused[2].eval()
    torch.testing.assert_close(fused(x), model(x))
    assert torch.equal(fused.eval()(x), model.eval()(x))


@pytest.mark.parametrize("drop", [fd.AlphaDropout(), fd.Dropout2d(), nn.FeatureAlphaDropout()])
def test_dropouts_that_end_no_run(drop):
    (site,) = fd.fuse(nn.Sequential(nn.Linear(6, 8), drop), "sequential").skipped
    assert site.text.startswith("1 is ") and type(drop).__name__ in site.text
    # With an activation there is a run without the dropout layer.
    (site,) = fd.fuse(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), drop), "sequential").fused
    assert site.text.startswith("Linear, ReLU (0 to 1); not fused: 2 is ")


class Stack(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 6))


def test_subclasses_and_nesting():
    model = Stack()
    fused = assert_parity(model, with_inputs(tensor(4, 6)), fused_classes=["Stack"])
    assert isinstance(fused, Stack) and repr(fused).startswith("FusedStack(")
    nested = nn.Sequential(Stack(), nn.Sequential(nn.ReLU(), nn.Dropout(), Stack()), nn.Tanh())
    fused = assert_parity(nested, with_inputs(tensor(4, 6)), fused_classes=["Stack", "Sequential"])
    assert fused[1][2](tensor(4, 6)).shape == (4, 6)


def test_slices_are_fused_and_sums_are_not():
    fused = fused_copy(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout()))
    assert type(fused[:2]) is type(fused) and uses_kernels(fused[:2], tensor(4, 6))
    assert type(nn.Sequential(*fused)) is nn.Sequential


def test_named_layers():
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(6, 8))
    model.add_module("act", nn.ReLU())
    (site,) = fd.fuse(model).fused
    assert site.text == "Linear, ReLU (fc to act)"


def test_empty_and_single():
    model = nn.ModuleList(
        [nn.Sequential(), nn.Sequential(nn.Linear(6, 8)), nn.Sequential(nn.ReLU())]
    )
    assert not fd.fuse(model).sites


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv3d"])
def test_views_and_empty_batches(name):
    layer, shape = LINEAR_AND_CONV[name]
    model = nn.Sequential(layer, nn.ReLU(), nn.Dropout(0.3))
    fused = fused_copy(model)
    x = tensor(*(2 * size for size in shape))
    views = [
        x[tuple(slice(1, 2 * size, 2) for size in shape)],
        tensor(*shape[::-1]).permute(*range(len(shape))[::-1]),
        tensor(1, *shape[1:]).expand(*shape),
    ]
    fused[2].p = model[2].p = 0.0
    for view in views:
        assert view.shape == shape and not view.is_contiguous()
        torch.testing.assert_close(fused(view), model(view))
    fused[2].p = 0.3
    empty = torch.empty(0, *shape[1:], requires_grad=True)
    y = fused(empty)
    y.sum().backward()
    assert y.shape == model(empty).shape and empty.grad.shape == empty.shape
    assert not fused[0].weight.grad.any() and not fused[0].bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.0)).to(dtype)
    fused, x = fused_copy(model), tensor(5, 6).to(dtype)
    # The fused result is rounded once less than the unfused one.
    torch.testing.assert_close(fused(x), model(x), rtol=4 * torch.finfo(dtype).eps, atol=1e-3)
    assert fused(x).dtype == dtype


# Input that the kernels do not accept


def test_nested_tensors():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4))
    fused = fused_copy(model)
    parts = [tensor(2, 6), tensor(3, 6)]
    for layout in (torch.jagged, torch.strided):
        x = torch.nested.nested_tensor(parts, layout=layout)
        a, b = seeded(model, x), seeded(fused, x)
        assert all(torch.equal(one, other) for one, other in zip(a.unbind(), b.unbind()))  # noqa: B905
        drop, fused_drop = nn.Dropout(0.4), fused_copy(nn.Dropout(0.4))
        a, b = seeded(drop, x), seeded(fused_drop, x)
        assert all(torch.equal(one, other) for one, other in zip(a.unbind(), b.unbind()))  # noqa: B905


def test_complex_tensors():
    model = nn.Sequential(nn.Linear(6, 8, dtype=torch.complex64), nn.Tanh())
    assert_as_torch(model, fused_copy(model), torch.complex(tensor(3, 6), tensor(3, 6)))


def test_integers_raise_the_error_of_torch():
    model = nn.Sequential(nn.ReLU(), nn.Dropout())
    for one in (model, fused_copy(model)):
        with pytest.raises(RuntimeError, match="result type Float can't be cast to"):
            one(torch.ones(3, dtype=torch.int64))


def test_an_activation_in_place_changes_the_input():
    """The block around it may rely on that, such as x + block(x) in a pre-activation network."""
    for act in (nn.ReLU(inplace=True), nn.ELU(inplace=True)):
        for layers in ([act, nn.Dropout(0.4)], [nn.Identity(), act, nn.Dropout(0.4)]):
            model = nn.Sequential(*layers)
            for one in (model, fused_copy(model)):
                x = tensor(4, 6)
                wanted = act(x.clone())
                one(x)
                assert torch.equal(x, wanted)


def test_inplace_on_a_leaf_is_an_error():
    x = tensor(4, 6).requires_grad_()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout())
    for one in (model, fused_copy(model)):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            one(x)


# Flags and probabilities


def test_mixed_flags():
    """Only the dropout layer is in training mode: it drops, and nothing else changes."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.5))
    fused = fused_copy(model)
    x = tensor(64, 6)
    with fd.mc_mode(fused), fd.mc_mode(model):
        assert uses_kernels(fused, x)
        y = fused(x)
        assert 0.3 < (y == 0).float().mean() < 0.7
        kept = y[y != 0]
        torch.testing.assert_close(kept, 2 * torch.sigmoid(fused[1](fused[0](x)))[y != 0])
    assert all(module.training for module in fused.modules())
    assert torch.equal(fused.eval()(x), model.eval()(x))


def test_layers_in_evaluation_are_called():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 6), nn.Tanh())
    fused, x = fused_copy(model), tensor(4, 6)
    for one in (model, fused):
        for layer in one[:3]:
            layer.eval()
    assert torch.equal(fused[:3](x), model[:3](x))
    assert uses_kernels(fused, x)
    fused[3].eval()
    fused[4].eval()
    assert torch.equal(fused(x), model(x)) and fused.training


def test_p_is_a_tensor():
    p = torch.tensor(0.25, dtype=torch.float64)
    for drop in (nn.Dropout(p), nn.Dropout2d(p), nn.AlphaDropout(p)):
        model = fused_copy(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Sigmoid(), drop))
        number = copy.deepcopy(model)
        number[2].p = 0.25
        x = tensor(2, 3, 8, 8)
        assert torch.equal(seeded(model, x), seeded(number, x))
        model[2].p = torch.tensor(1.0)
        assert len(model(x).unique()) == 1
    model[2].p = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(TypeError, match="p is a constant, but got a tensor that requires grad"):
        model(x)


def test_second_derivatives():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3)).double()
    fd.fuse(model)
    x = tensor(2, 3).double().requires_grad_()

    def call(x):
        return seeded(model, x)

    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)
    assert torch.autograd.gradcheck(call, x, check_forward_ad=True)
