"""``scaled_dot_product_attention`` against that of torch, and against explicit masks."""

import math

import pytest
import torch
import torch.nn.functional as F

import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing, fixed_state, seed_and_state

STATE = fixed_state()
sdpa = FF.scaled_dot_product_attention


def tensor(*shape, seed=0, dtype=torch.float64, grad=False):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_(grad)


def qkv(length=5, keys=7, heads=4, dtype=torch.float64, grad=True, key_heads=None):
    key_heads = key_heads or heads
    return (
        tensor(2, heads, length, 6, dtype=dtype, grad=grad),
        tensor(2, key_heads, keys, 6, seed=1, dtype=dtype, grad=grad),
        tensor(2, key_heads, keys, 3, seed=2, dtype=dtype, grad=grad),
    )


def by_hand(q, k, v, mask=None, p=0.0, causal=False, scale=None, state=STATE):
    """Attention in plain PyTorch operators, with the dropout mask of the contract."""
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    empty = scores.isneginf().all(-1, keepdim=True)
    kept = FF.dropout_mask(scores.shape, p, state)
    probabilities = torch.where(empty, 0, scores.masked_fill(empty, 0).softmax(-1))
    return torch.where(kept, probabilities / (1 - p), 0) @ v


def bool_mask(*shape):
    return tensor(*shape, seed=4) > -0.5


def with_empty_row(mask):
    mask = mask.clone()
    mask[..., -1, :] = False if mask.dtype == torch.bool else -torch.inf
    return mask


# {name: function of the number of queries and of keys that returns the options of a call}
CASES = {
    "none": lambda q, k: {},
    "causal": lambda q, k: {"is_causal": True},
    "bool": lambda q, k: {"attn_mask": bool_mask(q, k)},
    "bool_of_each_head": lambda q, k: {"attn_mask": bool_mask(2, 4, q, k)},
    "bool_of_keys": lambda q, k: {"attn_mask": bool_mask(2, 1, 1, k)},
    "float": lambda q, k: {"attn_mask": tensor(q, k)},
    "float_of_each_example": lambda q, k: {"attn_mask": tensor(2, 1, q, k)},
    "empty_rows": lambda q, k: {"attn_mask": with_empty_row(bool_mask(q, k))},
    "float_empty_rows": lambda q, k: {"attn_mask": with_empty_row(tensor(2, 1, q, k))},
    "all_empty": lambda q, k: {"attn_mask": torch.zeros(q, k, dtype=torch.bool)},
    "scale": lambda q, k: {"scale": 0.3},
    "scale_of_zero": lambda q, k: {"scale": 0.0},
}


def gradients(y, *inputs):
    return torch.autograd.grad(y, inputs, tensor(*y.shape, seed=9, dtype=y.dtype))


def assert_same(ours, theirs, inputs, **tolerance):
    torch.testing.assert_close(ours, theirs, **tolerance)
    for one, other in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length, keys", [(5, 7), (7, 5), (1, 1)])
def test_values(name, length, keys):
    """Values and gradients: without dropout those of torch, with dropout those of `by_hand`."""
    options = CASES[name](length, keys)
    inputs = qkv(length, keys)
    theirs = F.scaled_dot_product_attention(*inputs, **options)
    assert_same(sdpa(*inputs, **options), theirs, inputs)
    mask, causal, scale = (options.get(key) for key in ("attn_mask", "is_causal", "scale"))
    assert_same(
        sdpa(*inputs, dropout_p=0.25, rng_state=STATE, **options),
        by_hand(*inputs, mask, 0.25, causal, scale),
        inputs,
    )


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_groups_of_heads(key_heads):
    inputs = qkv(key_heads=key_heads)
    theirs = F.scaled_dot_product_attention(*inputs, enable_gqa=True)
    assert_same(sdpa(*inputs, enable_gqa=True), theirs, inputs)
    q, k, v = inputs
    repeated = (x.repeat_interleave(4 // key_heads, 1) for x in (k, v))
    assert_same(
        sdpa(*inputs, dropout_p=0.25, rng_state=STATE, enable_gqa=True),
        by_hand(q, *repeated, p=0.25),
        inputs,
    )


def test_no_and_several_batch_dimensions():
    for shape in ((), (3,), (2, 1, 3)):
        inputs = [tensor(*shape, size, 6, seed=size, grad=True) for size in (4, 5)]
        inputs.append(tensor(*shape, 5, 2, grad=True))
        assert_same(
            sdpa(*inputs, dropout_p=0.25, rng_state=STATE), by_hand(*inputs, p=0.25), inputs
        )


def test_gradient_of_the_mask():
    """The mask is a learned bias of the scores; no row is empty."""
    inputs, mask = qkv(), tensor(4, 5, 7, seed=8, grad=True)
    assert_same(
        sdpa(*inputs, mask, 0.25, rng_state=STATE), by_hand(*inputs, mask, 0.25), (*inputs, mask)
    )


def test_rows_without_keys_give_zeros_and_no_nan():
    inputs = qkv()
    for mask in (torch.zeros(5, 7, dtype=torch.bool), torch.full((5, 7), -torch.inf).double()):
        y = sdpa(*inputs, mask, 0.25)
        assert not y.any()
        assert not any(gradient.any() for gradient in gradients(y, *inputs))
    no_keys = sdpa(inputs[0], inputs[1][..., :0, :], inputs[2][..., :0, :], None, 0.25)
    assert no_keys.shape == (2, 4, 5, 3) and not no_keys.any()


def test_a_large_negative_number_is_not_minus_infinity():
    inputs, mask = qkv(), torch.full((5, 7), -1e300, dtype=torch.float64)
    y = sdpa(*inputs, mask, 0.25, rng_state=STATE)
    torch.testing.assert_close(y, by_hand(*inputs, mask, 0.25))
    assert y.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    inputs = qkv(dtype=dtype)
    exact = by_hand(*(x.detach().double() for x in inputs), tensor(5, 7), 0.25)
    for mask in (tensor(5, 7, dtype=dtype), tensor(5, 7, dtype=torch.float32)):
        y = sdpa(*inputs, mask, 0.25, rng_state=STATE)
        assert y.dtype == dtype and gradients(y, *inputs)[0].dtype == dtype
        tolerance = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)


def test_a_float_mask_that_overflows_in_half_precision():
    q, k, v = qkv(dtype=torch.float16, grad=False)
    mask = torch.zeros(5, 7)
    mask[2] = -1e30
    assert sdpa(q, k, v, mask, 0.25).isfinite().all()


def test_state_and_generator():
    inputs = qkv(grad=False)
    state = seed_and_state(3)
    wanted = by_hand(*inputs, p=0.25, state=state)
    torch.testing.assert_close(sdpa(*inputs, dropout_p=0.25), wanted)
    generator = torch.Generator().manual_seed(3)
    torch.testing.assert_close(sdpa(*inputs, dropout_p=0.25, generator=generator), wanted)
    assert not torch.equal(sdpa(*inputs, dropout_p=0.25, generator=generator), wanted)
    with drawing_nothing():
        sdpa(*inputs)
        sdpa(*inputs, dropout_p=0.25, rng_state=STATE)


def test_everything_dropped():
    assert not sdpa(*qkv(), dropout_p=1.0).any()


def test_gradcheck():
    inputs = [tensor(1, 2, size, 2, seed=size, grad=True) for size in (2, 3, 3)]
    mask = with_empty_row(bool_mask(2, 3))
    mask[0, 0] = True

    def call(q, k, v):
        return sdpa(q, k, v, mask, 0.25, rng_state=STATE)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize(
    "p", [0.25, torch.tensor(0.25, dtype=torch.float64)], ids=["p", "tensor_p"]
)
def test_compiled(p):
    inputs, mask = qkv(dtype=torch.float32), with_empty_row(bool_mask(5, 7))

    def call(q, k, v, p):
        return sdpa(q, k, v, mask, p) + sdpa(q, k, v, None, p, is_causal=True)

    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    results = []
    for function in (compiled, call):
        torch.manual_seed(1)
        results.append(function(*inputs, p))
    assert_same(*results, inputs)


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((), {"dropout_p": 1.5}, ValueError, "between 0 and 1, but got 1.5"),
        (
            (bool_mask(5, 7),),
            {"is_causal": True},
            RuntimeError,
            "is_causal is True and attn_mask is given",
        ),
        (
            (torch.zeros(5, 7, dtype=torch.int64),),
            {},
            RuntimeError,
            r"attn_mask has dtype torch.int64, but expected one of \(torch.bool",
        ),
        ((tensor(5, 7),), {}, RuntimeError, "attn_mask has dtype torch.float64"),
        ((bool_mask(4, 7),), {}, RuntimeError, "does not broadcast"),
    ],
)
def test_errors(arguments, options, error, text):
    inputs = qkv(dtype=torch.float32)
    with drawing_nothing(), pytest.raises(error, match=text):
        sdpa(*inputs, *arguments, **{"dropout_p": 0.25, **options})


def test_errors_of_shapes():
    q, k, v = qkv(grad=False)
    for inputs, options, text in (
        ((q, k, v[..., :6, :]), {}, "value has 6 positions, but expected 7 as in key"),
        ((q, k, v[:, :3]), {}, "broadcast|Shape mismatch"),
        ((q[..., :5], k, v), {}, "expected|mat|size"),
        ((q, k[:, :3], v[:, :3]), {"enable_gqa": True}, "key has 3 heads, but expected a divisor"),
        ((q, k, v[:, :3]), {"enable_gqa": True}, "value has 3 heads, but expected a divisor"),
    ):
        with drawing_nothing(), pytest.raises(RuntimeError, match=text):
            sdpa(*inputs, dropout_p=0.25, **options)
