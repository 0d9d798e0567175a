"""Attention on the device: torch's own without a state, the contract's masks with one.

On a GPU: the call without a state is torch's bit for bit and writes no scores down, and queries
without keys get zeros from torch's kernels.
"""

import pytest
import torch
import torch.nn.functional as F

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.gpu.on_device import DEVICE, STATE, needs_gpu, random, there

P = 0.25


def qkv(dtype=torch.float32, heads=4, length=40, keys=56, width=64):
    shapes = (4, length), (heads, keys), (heads, keys)
    tensors = (random(2, h, n, width, dtype=dtype, seed=seed) for seed, (h, n) in enumerate(shapes))
    return [x.to(DEVICE).requires_grad_() for x in tensors]


CASES = {
    "none": lambda dtype: {},
    "causal": lambda dtype: {"is_causal": True},
    "bool": lambda dtype: {"attn_mask": there(random(40, 56) > -0.5)},
    "float": lambda dtype: {"attn_mask": there(random(2, 1, 40, 56, dtype=dtype))},
    "scale": lambda dtype: {"scale": 0.3},
}


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_without_a_state_it_is_torchs(name, dtype):
    """Bit for bit; gradients nearly, as torch's kernels sum them in any order."""
    options = CASES[name](dtype)
    results = []
    for function in (FF.scaled_dot_product_attention, F.scaled_dot_product_attention):
        inputs = qkv(dtype)
        torch.manual_seed(5)
        y = function(*inputs, dropout_p=P, **options)
        results.append((y, *torch.autograd.grad(y, inputs, torch.ones_like(y))))
    assert torch.equal(results[0][0], results[1][0])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_gpu
def test_groups_of_heads_are_torchs():
    inputs = qkv(torch.bfloat16, heads=2)
    results = []
    for function in (FF.scaled_dot_product_attention, F.scaled_dot_product_attention):
        torch.manual_seed(5)
        results.append(function(*inputs, dropout_p=P, enable_gqa=True))
    assert torch.equal(*results)


@needs_gpu
def test_no_scores_in_memory():
    inputs = qkv(torch.bfloat16, length=4096, keys=4096)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    FF.scaled_dot_product_attention(*inputs, dropout_p=P, is_causal=True).sum().backward()
    scores = 2 * 4 * 4096 * 4096 * 2
    assert torch.cuda.max_memory_allocated() - before < scores / 2


def test_with_a_state_the_mask_is_the_contracts():
    """Values that are the identity show the probabilities."""
    q, k, _ = qkv(length=33, keys=40)
    identity = torch.eye(40, device=DEVICE).expand(2, 4, 40, 40)
    state = STATE.to(DEVICE)
    y = FF.scaled_dot_product_attention(q * 0.1, k, identity, dropout_p=P, rng_state=state)
    assert torch.equal((y != 0).cpu(), FF.dropout_mask(y.shape, P, STATE))


def test_a_generator_draws_a_state():
    inputs = qkv()
    generator = torch.Generator(DEVICE)
    state = fd.new_rng_state(DEVICE, generator.manual_seed(3))
    expected = FF.scaled_dot_product_attention(*inputs, dropout_p=P, rng_state=state)
    generator.manual_seed(3)
    y = FF.scaled_dot_product_attention(*inputs, dropout_p=P, generator=generator)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_queries_without_keys(kind, dtype):
    inputs = qkv(dtype)
    kept = torch.ones(40, 56, dtype=torch.bool, device=DEVICE)
    kept[7] = False
    mask = kept if kind == torch.bool else torch.where(kept, 0.0, -torch.inf)
    y = FF.scaled_dot_product_attention(*inputs, mask, P)
    gradients = torch.autograd.grad(y, inputs, torch.ones_like(y))
    assert not y[..., 7, :].any() and y[..., 8, :].any()
    assert not any(one.isnan().any() for one in gradients)


def test_everything_dropped():
    assert not FF.scaled_dot_product_attention(*qkv(), dropout_p=1.0).any()


def test_compiled():
    inputs = qkv()
    torch._dynamo.reset()
    call = torch.compile(
        lambda *inputs: FF.scaled_dot_product_attention(*inputs, dropout_p=P, is_causal=True),
        backend="aot_eager", fullgraph=True,
    )  # fmt: skip
    y = call(*inputs)
    y.sum().backward()
    assert y.shape == inputs[0].shape and all(x.grad.isfinite().all() for x in inputs)
