"""Bad input of DropBlock: the error names the argument and the number; nothing is drawn."""

import re

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.drop_block.calls import STATE
from tests.module_helpers import drawing_nothing

X = torch.randn(2, 3, 8, 8)
MODULES = (fd.DropBlock1d, fd.DropBlock2d, fd.DropBlock3d)


class Traced(torch.Tensor):
    """Takes the way through torch.ops."""


def check(error, parts, x=X, named=True, **options):
    """The error's type, the function in front, every part in order; either way to the operator, in
    training and in evaluation."""
    for one in (x, x.as_subclass(Traced)):
        with drawing_nothing(), pytest.raises(error) as caught:
            FF.drop_block(one, **options)
        text = str(caught.value).split("\n")[0]
        assert not named or text.startswith("drop_block: "), text
        assert re.search(".*".join(re.escape(str(part)) for part in parts), text), text


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probability(p, training):
    parts = ["dropout probability has to be between 0 and 1, but got", p]
    check(ValueError, parts, named=False, p=p, training=training)
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        FF.drop_block_rate((8, 8), p, 7)
    with pytest.raises(TypeError, match="requires grad"):
        FF.drop_block(X, torch.tensor(0.5, requires_grad=True))
    for module in MODULES:
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            module(p)
        layer = module().train(training)
        layer.p = p
        with drawing_nothing(), pytest.raises(ValueError, match="between 0 and 1, but got"):
            layer(torch.ones(2, 3, *(8,) * layer.dims))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block_size", [0, -1, -7, 2, 4, 100])
def test_block_size(block_size, training):
    parts = [f"block_size is {block_size}", "expected an odd number from 1 on"]
    check(ValueError, parts, block_size=block_size, training=training)
    with pytest.raises(ValueError, match=f"drop_block_rate: block_size is {block_size}"):
        FF.drop_block_rate((8, 8), 0.1, block_size)
    for module in MODULES:
        with pytest.raises(ValueError, match=f"{module.__name__}: block_size is {block_size}"):
            module(0.1, block_size)
        layer = module().train(training)
        layer.block_size = block_size
        with drawing_nothing(), pytest.raises(ValueError, match=f"block_size is {block_size}"):
            layer(torch.ones(2, 3, *(8,) * layer.dims))


@pytest.mark.parametrize("block_size", [7.0, "7", None, (7, 7), True])
def test_block_size_of_another_type(block_size):
    parts = [f"block_size is {block_size!r}", "expected an odd number from 1 on"]
    check(TypeError, parts, block_size=block_size)
    with pytest.raises(TypeError, match="DropBlock2d: block_size is"):
        fd.DropBlock2d(0.1, block_size)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [0, 1, 2, 6])
def test_number_of_dimensions(dims, training):
    x = torch.ones((2,) * dims)
    parts = [f"x has {dims} dimensions", "expected 3 to 5", "(N, C, H, W)"]
    check(RuntimeError, parts, x=x, training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("module", MODULES)
def test_number_of_dimensions_of_modules(module, training):
    layer = module().train(training)
    for dims in range(7):
        if dims == layer.dims + 2:
            continue
        with drawing_nothing(), pytest.raises(RuntimeError) as caught:
            layer(torch.ones((2,) * dims))
        expected = f"{module.__name__}: x has {dims} dimensions, but expected {layer.dims + 2}: "
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("mode", ["alpha", "soft", None])
def test_mode(mode):
    parts = [f"mode is {mode!r}", "expected 'inverted' or 'classic'"]
    for training in (True, False):
        check(ValueError, parts, mode=mode, training=training)
    with pytest.raises(ValueError, match="DropBlock3d: mode is"):
        fd.DropBlock3d(mode=mode)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_dtypes(dtype):
    check(RuntimeError, ["x has dtype", "expected float32"], x=torch.zeros(2, 3, 8, 8, dtype=dtype))


def test_states():
    check(TypeError, ["rng_state has dtype"], rng_state=torch.zeros(2))
    check(RuntimeError, ["rng_state has 3 elements"], rng_state=torch.zeros(3, dtype=torch.int64))
    check(ValueError, ["offset 3", "multiple of 4"], rng_state=torch.tensor([1, 3]))
    check(
        RuntimeError,
        ["rng_state is on meta", "x is on cpu"],
        rng_state=torch.zeros(2, dtype=torch.int64, device="meta"),
    )


@pytest.mark.parametrize("sizes", [(), (1, 2, 3, 4), (0,), (3, -1)], ids=str)
def test_sizes_of_the_rate(sizes):
    with pytest.raises(ValueError, match=r"drop_block_rate: sizes is \(.*one to three"):
        FF.drop_block_rate(sizes, 0.1, 7)


def test_operators_refuse_it_too():
    ops, options = torch.ops.fused_dropout, (0.3, None, 7, False)
    kept = torch.tensor(5)
    for x, state, bad, error, text in [
        (X, None, kept, ValueError, "rng_state is None, but training needs one"),
        (X, STATE, None, ValueError, "kept is None, but the scale is made of it"),
        (X, STATE, kept.int(), TypeError, "kept has dtype Int"),
        (X, STATE, kept[None], TypeError, "kept has dtype Long and 1 dimensions"),
        (X[0, 0], STATE, kept, RuntimeError, "x has 2 dimensions, but expected 3 to 5"),
    ]:
        with pytest.raises(error, match=text):
            ops.drop_block(x, state, bad, None, *options, "inverted", True)
    with pytest.raises(ValueError, match="mode is 'alpha'"):
        ops.drop_block(X, STATE, kept, None, *options, "alpha", True)
    with pytest.raises(ValueError, match="strides is"):
        ops.drop_block(X, STATE, kept, (1, 2, 3, 4), *options, "inverted", True)
    with pytest.raises(ValueError, match="block_size is 4"):
        ops.drop_block_kept(X, STATE, 0.3, None, 4, False)
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        ops.drop_block_kept(X, STATE, 2.0, None, 7, False)
    with pytest.raises(TypeError, match="p has dtype Float"):
        ops.drop_block_kept(X, STATE, 0.3, torch.tensor(0.3), 7, False)


def test_ramp():
    for modules in ([torch.nn.ReLU()], [fd.DropBlock2d(), 3], torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=r"LinearRamp: modules has a .* expected modules with"):
            fd.LinearRamp(modules, 10)
    for steps in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match=f"LinearRamp: steps is {steps!r}"):
            fd.LinearRamp(fd.DropBlock2d(), steps)
    for values in ({"start": -0.1}, {"end": 1.5}):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fd.LinearRamp(fd.DropBlock2d(), 10, **values)
    state = fd.LinearRamp([fd.DropBlock2d(), fd.Dropout()], 3).state_dict()
    with pytest.raises(ValueError, match="state has 2 modules, but expected 1"):
        fd.LinearRamp(fd.DropBlock2d(), 3).load_state_dict(state)
