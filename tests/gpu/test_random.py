"""Where states come from: generators, their states, threads of work and checkpointing."""

import contextlib

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.gpu.on_device import DEVICE, STATE
from tests.noise.calls import DRAWING


def draw(generator=None):
    return FF.dropout(torch.ones(64, 33, device=DEVICE), 0.5, generator=generator)


def test_manual_seed_repeats():
    torch.manual_seed(7)
    first, second = draw(), draw()
    torch.manual_seed(7)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)
    assert not torch.equal(first, second)


def test_generators():
    generators = [torch.Generator(DEVICE).manual_seed(seed) for seed in (3, 3, 4)]
    torch.manual_seed(0)
    default = draw()
    torch.manual_seed(0)
    a, b, c = (draw(generator) for generator in generators)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(draw(), default), "a generator of one's own leaves the default one alone"


def test_a_generator_of_another_device():
    if DEVICE == "cpu":
        pytest.skip("there is no other")
    with pytest.raises(RuntimeError, match="generator is on cpu, but x is on cuda"):
        draw(torch.Generator("cpu"))


def test_states_of_generators():
    module = torch if DEVICE == "cpu" else torch.cuda
    before = module.get_rng_state()
    first = draw()
    module.set_rng_state(before)
    assert torch.equal(draw(), first)
    with torch.random.fork_rng():
        forked = draw()
    assert torch.equal(draw(), forked)


def test_a_call_replays_from_its_state():
    torch.manual_seed(5)
    rng_state = fd.new_rng_state(DEVICE)
    assert rng_state.device.type == DEVICE
    torch.manual_seed(5)
    assert torch.equal(
        draw(), FF.dropout(torch.ones(64, 33, device=DEVICE), 0.5, rng_state=rng_state)
    )


@pytest.mark.parametrize("p, training", [(0.0, True), (1.0, True), (0.5, False)])
def test_no_draw_without_need(p, training):
    torch.manual_seed(9)
    expected = draw()
    torch.manual_seed(9)
    FF.bias_act_dropout(torch.ones(8, 8, device=DEVICE), None, p, "gelu", training)
    FF.dropout(torch.empty(0, device=DEVICE), 0.5)
    assert torch.equal(draw(), expected)


def test_successive_calls_share_no_numbers():
    """Whatever the shift between them, the masks of two calls are independent."""
    first, second = (draw().flatten() != 0 for _ in range(2))
    for shift in range(-64, 65):
        share = (first.roll(shift) == second).float().mean()
        assert abs(share - 0.5) < 5 * 0.5 / first.numel() ** 0.5


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    def block(x):
        return FF.bias_act_dropout(FF.dropout(x, 0.3), None, 0.4, "gelu").sin()

    x = torch.randn(33, 40, device=DEVICE, requires_grad=True)
    gradients = []
    for run in (block, lambda one: checkpoint(block, one, use_reentrant=reentrant)):
        torch.manual_seed(11)
        y, x.grad = run(x), None
        y.sum().backward()
        gradients.append((y.detach(), x.grad))
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_code_draws_what_eager_code_draws(backend):
    def function(x, bias):
        return FF.dropout(FF.bias_act_dropout(x, bias, 0.3, "gelu"), 0.5)

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    results = []
    for run in (function, compiled):
        x = torch.ones(24, 40, device=DEVICE, requires_grad=True)
        bias = torch.zeros(40, device=DEVICE, requires_grad=True)
        torch.manual_seed(13)
        y = run(x, bias)
        y.sum().backward()
        results.append((y.detach(), x.grad, bias.grad))
    assert all(map(torch.equal, *results))


def test_autocast():
    layer = fd.LinearActDropout(16, 16, p=0.5).to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = layer(torch.randn(8, 16, device=DEVICE))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.bias.grad.dtype == torch.float32


def test_the_offset_is_checked_where_it_can_be_read():
    with pytest.raises(ValueError, match="offset 3, but expected a multiple of 4"):
        FF.dropout(torch.ones(3), 0.5, rng_state=torch.tensor([1, 3]))
    assert FF.dropout(torch.ones(3, device=DEVICE), 0.5, rng_state=STATE.to(DEVICE)).numel() == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x, state: FF.bias_act_dropout(x, None, 0.5, "gelu", rng_state=state),
        lambda x, state: FF.bias_glu_dropout(x, None, 0.5, rng_state=state),
        lambda x, state: FF.dropout_add_layer_norm(x, x, p=0.5, rng_state=state),
        lambda x, state: FF.drop_block(x, 0.5, 3, rng_state=state),
        *(lambda x, state, call=call: call.of_x(x, rng_state=state) for call in DRAWING.values()),
    ],
    ids=["pointwise", "gated", "norm", "drop_block", *DRAWING],
)
def test_a_state_on_the_cpu_gives_the_mask_of_one_on_the_device(function):
    x = torch.randn(4, 6, 9, 16, device=DEVICE, requires_grad=True)
    results = []
    for state in (STATE, STATE.to(DEVICE)):
        y = function(x, state)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    assert all(map(torch.equal, *results))


def test_the_composition_takes_a_state_on_the_cpu():
    x = torch.randn(64, 33, device=DEVICE)
    results = []
    for state in (STATE, STATE.to(DEVICE)):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            y = FF.dropout(dual, 0.5, rng_state=state)
            results.append(torch.autograd.forward_ad.unpack_dual(y))
    assert all(map(torch.equal, *results))


def test_an_eager_call_keeps_its_state_on_the_cpu():
    """The host knows seed and offset: no kernel has to write them, or to wait for them."""
    x = torch.randn(64, 33, device=DEVICE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda x: x):
        saved = []
        FF.dropout(x, 0.5)
    assert [tensor.device.type for tensor in saved if tensor.dtype == torch.int64] == ["cpu"]


def test_compiled_autograd_of_an_eager_call():
    """The saved state is on the CPU, and the compiled backward has it on the device."""
    x = torch.randn(64, 33, device=DEVICE)
    gradients = []
    for compiled in (False, True):
        torch._dynamo.reset()
        leaf = x.clone().requires_grad_()
        torch.manual_seed(3)
        y = FF.bias_act_dropout(leaf, None, 0.5, "gelu").sum()
        with (
            torch._dynamo.compiled_autograd._enable(
                torch.compile(backend="aot_eager", fullgraph=True)
            )
            if compiled
            else contextlib.nullcontext()
        ):
            y.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_compiled_code_takes_a_state_on_the_cpu():
    x = torch.randn(64, 33, device=DEVICE)
    call = torch.compile(FF.dropout, backend="aot_eager", fullgraph=True)
    expected = FF.dropout(x, 0.5, rng_state=STATE)
    assert torch.equal(call(x, 0.5, rng_state=STATE), expected)
