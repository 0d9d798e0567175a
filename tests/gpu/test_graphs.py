"""Streams, CUDA graphs and what is built on them.

On a GPU: a graph's replays draw new masks, forward and backward the same, and read a given state
anew; kernels run on the current stream and device, one a call. In the rehearsal a replay is a call.
"""

import itertools

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.gpu.on_device import DEVICE, STATE, captured, graphed, needs_gpu


def masks_of(y, x):
    return (y != 0), (x.grad != 0)


def test_replays_differ_and_agree_within():
    x = torch.ones(64, 200, device=DEVICE, requires_grad=True)

    def step():
        x.grad = None
        y = FF.bias_act_dropout(x, None, 0.5, "identity")
        y.backward(torch.ones_like(y))
        return (y,)

    (y,), replay = captured(step)
    seen = []
    for _ in range(4):
        replay()
        forward, backward = masks_of(y, x)
        assert torch.equal(forward, backward)
        seen.append(forward.clone())
    assert not any(torch.equal(seen[i], seen[j]) for i in range(4) for j in range(i))


def test_a_replay_draws_what_an_eager_call_draws():
    x = torch.ones(64, 200, device=DEVICE)
    (first, second), replay = captured(lambda: (FF.dropout(x, 0.5), FF.dropout(x, 0.5)))
    torch.manual_seed(17)
    replay()
    torch.manual_seed(17)
    assert torch.equal(first, FF.dropout(x, 0.5))
    assert torch.equal(second, FF.dropout(x, 0.5))


def test_a_given_state_is_read_at_every_replay():
    x, rng_state = torch.ones(64, 200, device=DEVICE), STATE.clone().to(DEVICE)
    (y,), replay = captured(lambda: (FF.dropout(x, 0.5, rng_state=rng_state),))
    for seed in (1, 2**40):
        rng_state[0] = seed
        replay()
        expected = FF.dropout_mask(x.shape, 0.5, torch.tensor([seed, int(STATE[1])]))
        assert torch.equal((y != 0).cpu(), expected)


def test_make_graphed_callables():
    torch.manual_seed(0)
    model = fd.MLP(32, 64, 32, p=0.5).to(DEVICE)
    x = torch.randn(16, 32, device=DEVICE, requires_grad=True)
    call = graphed(model, x)
    outputs = []
    for _ in range(3):
        y = call(x)
        y.sum().backward()
        outputs.append(y.detach().clone())
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])


def test_reduce_overhead():
    torch._dynamo.reset()
    layer = fd.LinearActDropout(40, 40, p=0.5).to(DEVICE)
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    x = torch.randn(24, 40, device=DEVICE)
    outputs = []
    for _ in range(6):
        torch.compiler.cudagraph_mark_step_begin()
        y = compiled(x)
        y.sum().backward()
        outputs.append((y.detach() != 0).clone())
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))


@needs_gpu
def test_runs_on_the_current_stream():
    """On a stream that waits, so does the kernel: it sees what was written meanwhile."""
    # A copy from the CPU would wait for the stream, and so would whatever is called after it.
    x, rng_state = torch.zeros(1 << 20, device="cuda"), STATE.cuda()
    FF.dropout(x, 0.5)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        y = FF.dropout(x, 0.5, rng_state=rng_state)
    side.synchronize()
    assert torch.equal((y != 0).cpu(), FF.dropout_mask(x.shape, 0.5, STATE))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_on_another_device_than_the_current_one():
    x = torch.ones(64, 200, device="cuda:1")
    y = FF.dropout(x, 0.5, rng_state=STATE.to("cuda:1"))
    assert y.device == x.device
    assert torch.equal((y != 0).cpu(), FF.dropout_mask(x.shape, 0.5, STATE))


ONE_KERNEL = {
    "dropout": lambda x: FF.dropout(x, 0.5),
    "layer_norm": lambda x: FF.dropout_add_layer_norm(x, x, p=0.5),
    "swiglu": lambda x: FF.bias_glu_dropout(x, p=0.5),
}


@needs_gpu
@pytest.mark.parametrize("name", ONE_KERNEL)
def test_one_kernel_forward(name):
    """A call launches one kernel: the state is drawn on the way."""
    call, x = ONE_KERNEL[name], torch.ones(64, 200, device="cuda")
    call(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(x)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if "fused_dropout::cuda::" in event.name]
    assert len(kernels) == 1, kernels
