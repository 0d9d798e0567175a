"""The modules of DropBlock, and the ramp of a probability."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.drop_block.calls import expected_mask, maps
from tests.module_helpers import drawing_nothing, seed_and_state

MODULES = (fd.DropBlock1d, fd.DropBlock2d, fd.DropBlock3d)
every_module = pytest.mark.parametrize("module", MODULES)


def input_of(layer, size=9):
    return maps((2, 3, *(size,) * layer.dims))


@pytest.mark.parametrize("options", [{}, {"shared_channels": True}, {"mode": "classic"}], ids=str)
@every_module
def test_the_function(module, options):
    layer = module(0.3, 5, **options)
    x = input_of(layer)
    rng_state = seed_and_state(1)
    y = layer(x)
    assert torch.equal(y, FF.drop_block(x, 0.3, 5, rng_state=rng_state, **options))
    shared = {"shared_channels": options.get("shared_channels", False)}
    assert torch.equal(y != 0, expected_mask(x, 0.3, 5, rng_state, **shared))


@every_module
def test_evaluation(module):
    layer, classic = module(0.3, 5).eval(), module(0.3, 5, mode="classic").eval()
    x = input_of(layer)
    with drawing_nothing():
        assert layer(x) is x
        rate = FF.drop_block_rate(x.shape[2:], 0.3, 5)
        torch.testing.assert_close(classic(x), x * (1 - rate))
    with torch.no_grad():
        assert not torch.equal(layer.train()(x), x)


@every_module
def test_attributes(module):
    layer = module()
    assert (layer.p, layer.block_size, layer.shared_channels, layer.mode) == (
        0.1, 7, False, "inverted",
    )  # fmt: skip
    assert module.is_dropout is True
    assert not layer.state_dict() and not list(layer.parameters())
    layer.p = 0.0
    x = input_of(layer)
    assert layer(x) is x
    layer.p = 0.5
    assert layer(x) is not x


def test_repr():
    assert repr(fd.DropBlock2d()) == "DropBlock2d(p=0.1, block_size=7)"
    layer = fd.DropBlock1d(0.2, 3, shared_channels=True, mode="classic")
    assert repr(layer) == ("DropBlock1d(p=0.2, block_size=3, shared_channels=True, mode='classic')")


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
@every_module
def test_copies(module, copied):
    layer = module(0.3, 5, shared_channels=True, mode="classic").eval()
    other = copied(layer)
    assert vars(other) == vars(layer)
    other.p = 0.7
    assert layer.p == 0.3


def test_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert FF.drop_block(maps((2, 3, 9, 9), dtype), 0.3).dtype == dtype


def test_in_a_network():
    """It trains, and gradients pass where the mask let values pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), fd.DropBlock2d(0.2, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(8 * 100, 2)).to(memory_format=torch.channels_last)  # fmt: skip
    x = maps((4, 3, 12, 12)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


# ---------------------------------------------------------------- the ramp


def test_ramp():
    blocks = [fd.DropBlock2d(0.2), nn.Dropout(0.5), fd.Dropout(0.1)]
    ramp = fd.LinearRamp(blocks, 4)
    seen = [[block.p for block in blocks]]
    for _ in range(6):
        ramp.step()
        seen.append([block.p for block in blocks])
    assert seen[0] == [0, 0, 0] and seen[4:] == [[0.2, 0.5, 0.1]] * 3
    assert seen[1] == pytest.approx([0.05, 0.125, 0.025])
    assert seen[2] == pytest.approx([0.1, 0.25, 0.05])


def test_ramp_between_given_values():
    block = fd.DropBlock2d(0.9)
    ramp = fd.LinearRamp(block, 2, start=0.3, end=0.1)
    assert block.p == 0.3
    ramp.step()
    assert block.p == pytest.approx(0.2)
    ramp.step()
    assert block.p == 0.1


def test_ramp_of_a_generator_of_modules():
    net = nn.Sequential(fd.DropBlock2d(0.2), nn.ReLU(), fd.DropBlock2d(0.1))
    fd.LinearRamp((m for m in net if getattr(m, "is_dropout", False)), 10).step()
    assert [net[0].p, net[2].p] == pytest.approx([0.02, 0.01])


def test_ramp_of_a_tensor():
    p = torch.tensor(0.2, dtype=torch.float64)
    block = fd.DropBlock2d(p)
    ramp = fd.LinearRamp(block, 2)
    ramp.step()
    assert block.p is p and float(p) == pytest.approx(0.1)


def test_ramp_state():
    block = fd.DropBlock2d(0.2)
    ramp = fd.LinearRamp(block, 4)
    ramp.step()
    state = pickle.loads(pickle.dumps(ramp.state_dict()))
    # A run that is taken up again, with modules that have been through a part of it.
    other = copy.deepcopy(block)
    resumed = fd.LinearRamp(other, 10)
    resumed.load_state_dict(state)
    for _ in range(5):
        assert other.p == block.p
        ramp.step()
        resumed.step()
    assert other.p == 0.2 and resumed.state_dict() == ramp.state_dict()
