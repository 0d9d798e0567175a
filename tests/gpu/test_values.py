"""Values and gradients on the device against the CPU kernels, which round the same formulas."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.activation_oracle import HALVES, bound_of_share, check_sixteen_bits, numbers, wrong_share
from tests.gpu.on_device import DEVICE, STATE, here_and_there, random, results, there
from tests.helpers import ACTIVATIONS, DTYPES, ORDERS, SEED, in_order, operator, ordinals, same_bits


def close(ours, theirs):
    if ours.dtype in HALVES:
        near = (ours.float() - theirs.float()).abs() < 1e-6
        return bool((((ordinals(ours) - ordinals(theirs)).abs() <= 1) | near).all())
    unit = torch.finfo(ours.dtype).eps
    return torch.allclose(ours, theirs, rtol=16 * unit, atol=16 * unit)


def sums_close(ours, theirs, terms):
    """Sums in another order of about the same terms."""
    return torch.allclose(ours.double(), theirs.double(), rtol=1e-2, atol=1e-4 * terms**0.5)


def assert_same(here, device, rows):
    assert close(device[0], here[0])
    assert close(device[1], here[1])
    assert [one.stride() for one in device] == [one.stride() for one in here]
    if len(here) == 3:
        assert sums_close(device[2], here[2], rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(9, 200), (33, 1001), (257, 3)])
def test_every_activation(activation, dtype, shape):
    x, dy = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    bias = random(shape[1], dtype=dtype, seed=2)
    assert_same(*here_and_there(x, bias, dy=dy, p=0.3, activation=activation), shape[0])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_sixteen_bit_number(activation, dtype, record_property):
    """On a GPU: what its approximate exponential and reciprocal add to the formulas' errors."""
    x = there(numbers(dtype))
    y, dx = results(x, activation=activation, p=0.0, training=False)
    found = y.cpu(), dx.cpu()
    value, derivative = wrong_share(found, activation)
    record_property(
        "share",
        f"{activation} {str(dtype).removeprefix('torch.')} {value:.4f} {derivative:.4f} of at most "
        f"{bound_of_share(activation, dtype)} percent",
    )
    check_sixteen_bits(found, activation)


@pytest.mark.parametrize("mode", ["classic", "alpha"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_modes(mode, training, dtype):
    x, dy = random(17, 264, dtype=dtype), random(17, 264, dtype=dtype, seed=1)
    options = {"p": 0.3, "mode": mode, "training": training, "activation": "selu"}
    assert_same(*here_and_there(x, dy=dy, **options), 17)


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-10])
@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
def test_probabilities_at_the_ends(p, mode):
    x, residual = random(5, 40), random(5, 40, seed=3)
    assert_same(*here_and_there(x, None, residual, p=p, mode=mode), 5)


@pytest.mark.parametrize("dtype", HALVES)
def test_mixed_dtypes(dtype):
    x, bias = random(12, 136, dtype=dtype), random(136, seed=2)
    residual, dy = random(12, 136, seed=3), random(12, 136, seed=1)
    here, device = here_and_there(x, bias, residual, dy, p=0.3, activation="silu")
    assert device[0].dtype == torch.float32 and device[2].dtype == torch.float32
    assert torch.allclose(device[0], here[0], rtol=1e-5, atol=1e-5)
    assert close(device[1], here[1])
    assert torch.allclose(device[2], here[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias_dim", range(4))
def test_bias_along_every_dimension(order, bias_dim):
    x = in_order((4, 6, 5, 7), ORDERS[order]).copy_(random(4, 6, 5, 7))
    dy = in_order((4, 6, 5, 7), ORDERS["contiguous"]).copy_(random(4, 6, 5, 7, seed=1))
    bias = random(x.shape[bias_dim], seed=2)
    options = {"p": 0.3, "activation": "gelu", "bias_dim": bias_dim}
    assert_same(*here_and_there(x, bias, dy=dy, **options), 840 // bias.numel())


@pytest.mark.parametrize("shape", [(3, 1), (1, 31), (65536, 33), (7, 8191), (4096, 2048)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_bias_gradient(shape, dtype, p):
    """Of the masked gradient, in fp32, with the same bits on every run."""
    x, dy = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    bias = random(shape[1], seed=2)
    moved = there(x, bias, None, dy)
    runs = [results(*moved, p=p, activation="gelu")[2] for _ in range(3)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
    terms = results(x.double(), bias.double(), None, dy.double(), p=p, activation="gelu")[1]
    unit = torch.finfo(torch.float32).eps
    bound = terms.abs().sum(0) * 64 * unit + 1e-5 * dy.double().abs().sum(0)  # the formula's error
    assert bool(((runs[0].cpu().double() - terms.sum(0)).abs() <= bound).all())


def test_many_rows_accumulate_in_fp32():
    """65,536 rows of bf16 ones: 16-bit sums would stop at 256."""
    dy = torch.ones(65536, 8, dtype=torch.bfloat16, device=DEVICE)
    dbias = results(dy, torch.zeros(8, device=DEVICE))[2]
    kept = FF.dropout_mask(dy.shape, 0.5, STATE).sum(0)
    assert torch.equal(dbias.cpu(), kept * 2.0)


def test_in_place():
    x = random(17, 48)
    expected = FF.dropout(x, 0.3, rng_state=STATE)
    moved = there(x)
    assert FF.dropout(moved, 0.3, inplace=True, rng_state=STATE.to(DEVICE)) is moved
    assert same_bits(moved.cpu(), expected)


def test_frozen_inputs_get_no_gradient():
    x, bias = there(random(20, 24), random(24, seed=2))
    for needs_x, needs_bias in ((True, False), (False, True)):
        inputs = [x.clone().requires_grad_(needs_x), bias.clone().requires_grad_(needs_bias)]
        y = FF.bias_act_dropout(*inputs, 0.3, "gelu", rng_state=STATE.to(DEVICE))
        y.sum().backward()
        assert [one.grad is not None for one in inputs] == [needs_x, needs_bias]


def test_empty_tensors():
    for shape in ((0,), (0, 5), (3, 0)):
        x = torch.empty(shape, device=DEVICE, requires_grad=True)
        y = FF.bias_act_dropout(x, torch.zeros(shape[-1:], device=DEVICE), 0.5, "gelu")
        y.sum().backward()
        assert y.shape == x.grad.shape == shape


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_memory_kept_for_backward(activation):
    x = torch.randn(64, 128, device=DEVICE, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = FF.bias_act_dropout(x, None, 0.5, activation)
    own = {one.untyped_storage().data_ptr() for one in (x, y)}
    extra = [one for one in kept if one.untyped_storage().data_ptr() not in own]
    assert sum(one.nbytes for one in extra) == 16


def test_double_backward_and_vmap():
    """What has no kernel is composed of torch operators, with the same mask."""
    x = torch.randn(4, 6, device=DEVICE, dtype=torch.float64, requires_grad=True)
    options = {"rng_state": STATE.to(DEVICE)}
    torch.autograd.gradgradcheck(
        lambda one: FF.bias_act_dropout(one, None, 0.4, "gelu", **options), (x,)
    )
    rows = torch.func.vmap(lambda one: FF.dropout(one, 0.4), randomness="different")(x.detach())
    assert rows.shape == x.shape


def test_device_mismatch_names_both():
    x = torch.ones(3, 4, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"bias_act_dropout: bias is on meta, but x is on"):
        FF.bias_act_dropout(x, torch.ones(4, device="meta"))


def test_module_trains():
    torch.manual_seed(0)
    model = fd.MLP(16, 64, 4, p=0.2).to(DEVICE)
    x, target = there(random(32, 16), random(32, 4, seed=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.9 * losses[0]


def test_operator_equals_function():
    x = there(random(9, 40))
    torch.manual_seed(SEED % 2**32)
    rng_state = fd.new_rng_state(DEVICE)
    torch.manual_seed(SEED % 2**32)
    assert torch.equal(FF.dropout(x, 0.5), operator(x, None, None, rng_state, p=0.5))
