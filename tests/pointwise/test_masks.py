"""Every mask, bit for bit, against the reference.

Masks come from the mask operator, and are recovered from calls: the mask of forward from the output
for ones, the mask of backward from the gradient.
"""

import functools
import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import (
    DTYPES,
    ORDERS,
    SEED,
    backward_mask,
    forward_mask,
    in_order,
    operator,
    reference_mask,
    same_bits,
    state,
    thread_count,
)

# Every tail of every register width, the chunk of 512 and its neighbours, and sizes that two
# threads share.
SIZES = [
    *range(1, 71),
    *(n + d for n in (128, 256, 512) for d in (-1, 0, 1)),
    *(2048 * k + d for k in (1, 2, 33) for d in (1, 2, 3)),
]
WIDTHS = (1, 2, 3, 5, 15, 17, 31, 33, 63, 65, 127, 129, 255, 256, 257, 300)
SUBSETS = [dims for n in range(5) for dims in itertools.combinations(range(4), n)]


def all_masks(x, p, rng_state, shared_dims=()):
    """The masks of the operator, of a forward and of a backward call."""
    yield "mask", FF.dropout_mask(x.shape, p, rng_state, like=x, shared_dims=shared_dims)
    yield "forward", forward_mask(x, rng_state, p, shared_dims=shared_dims)
    yield "backward", backward_mask(x, rng_state, p, shared_dims=shared_dims)


def differing(masks, expected):
    return [name for name, mask in masks if not torch.equal(mask, expected)]


# ---------------------------------------------------------------- sizes, alignment, dtypes


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size(capability, threads, dtype):
    full = reference_mask((max(SIZES),), 0.3)
    wrong = {
        n: names
        for n in SIZES
        if (names := differing(all_masks(torch.empty(n, dtype=dtype), 0.3, state()), full[:n]))
    }
    assert not wrong


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_memory(capability, dtype):
    full = reference_mask((4099,), 0.3)
    wrong = {}
    for n, shift in itertools.product((1, 7, 8, 33, 273, 4099), range(1, 9)):
        x = torch.empty(n + 9, dtype=dtype)[shift : shift + n]
        if names := differing(all_masks(x, 0.3, state()), full[:n]):
            wrong[n, shift] = names
    assert not wrong


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_writes_nothing_beside_its_view(capability, dtype):
    for n, shift in itertools.product((1, 7, 33, 273), range(9)):
        buffer = torch.full((n + 64,), 2.0, dtype=dtype)
        view = buffer[shift : shift + n]
        FF.dropout(view, 0.5, inplace=True, rng_state=state())
        assert torch.equal(view == 4, reference_mask((n,), 0.5))
        assert (buffer[:shift] == 2).all()
        assert (buffer[shift + n :] == 2).all()


@pytest.mark.parametrize("layout", [*ORDERS, "sliced"])
def test_in_place_of_any_layout(capability, layout):
    shape = (3, 20, 5, 33)
    if layout == "sliced":
        buffer = torch.full((4, 21, 5, 40), 2.0)
        x = buffer[1:, :20, :, 7:]
    else:
        buffer = x = in_order(shape, ORDERS[layout]).fill_(2)
    kept = reference.dropout_mask(shape, 0.5, state(), like=x)
    assert FF.dropout(x, 0.5, inplace=True, rng_state=state()) is x
    assert torch.equal(x, kept * 4.0)
    assert (buffer == 2).sum() == buffer.numel() - x.numel()
    # The gradient takes the same mask, though the values that it was drawn for are gone.
    leaf = in_order(shape, ORDERS.get(layout, (0, 1, 2, 3))).fill_(1).requires_grad_()
    FF.dropout(leaf * 1, 0.5, inplace=True, rng_state=state()).sum().backward()
    assert torch.equal(leaf.grad, reference.dropout_mask(shape, 0.5, state(), like=leaf) * 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
def test_results_larger_than_the_cache(capability, dtype, shift):
    """They are stored past it, in aligned registers: 32 MiB and an odd rest."""
    n = (32 << 20) // dtype.itemsize + 259
    kept = FF.dropout_mask((n,), 0.5, state())
    for first in (0, n // 2, n - 3000):
        part = reference.draws(torch.arange(first, first + 3000), state()) < 32768
        assert torch.equal(kept[first : first + 3000], part)
    expected = kept.to(dtype) * 2
    x = torch.ones(n + shift, dtype=dtype)[shift:]
    with thread_count(2):
        assert torch.equal(operator(x, rng_state=state()), expected)
        dx = bias_act_backward(x, [True, False])[0]
        assert torch.equal(dx, expected)
        FF.dropout(x, 0.5, inplace=True, rng_state=state())  # unaligned, if shifted
    assert torch.equal(x, expected)


def bias_act_backward(dy, output_mask):
    """dx and the bias gradient of plain dropout, for a bias along the last dimension."""
    return torch.ops.fused_dropout.bias_act_dropout_backward(
        *(dy, None, None, state(), 0.5, None, "identity", None, None, -1, "inverted", True, []),
        *(None, 0, False, list(dy.stride()), dy.dtype, dy.dtype, output_mask),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_larger_than_the_cache(capability, dtype):
    """Rows are cut into panels; each starts at another address within a register."""
    rows, columns = 3, (11 << 20) // dtype.itemsize + 3
    kept = FF.dropout_mask((rows, columns), 0.5, state())
    dy = torch.ones(rows, columns, dtype=dtype)
    dx, dbias = bias_act_backward(dy, [True, True])
    assert torch.equal(dx, kept.to(dtype) * 2)
    assert torch.equal(dbias, kept.sum(0).to(dtype) * 2)
    dx, dbias = bias_act_backward(dy, [False, True])
    assert dx.numel() == 0
    assert torch.equal(dbias, kept.sum(0).to(dtype) * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_widths_with_a_bias(capability, threads, dtype):
    """The bias and its gradient cut the work elsewhere; the mask does not notice."""
    wrong = []
    for width, rows in [*((width, 7) for width in WIDTHS), (33, 2500), (30000, 3)]:
        kept = reference_mask((max(WIDTHS) * 7 + 90000,), 0.3)[: rows * width].view(rows, width)
        x = torch.ones(rows, width, dtype=dtype, requires_grad=True)
        bias = torch.ones(width, dtype=dtype, requires_grad=True)
        y = operator(x, bias, None, state(), p=0.3)
        dx, _ = torch.autograd.grad(y, (x, bias), torch.ones_like(y))
        if not torch.equal(y != 0, kept) or not torch.equal(dx != 0, kept):
            wrong.append((rows, width))
    assert not wrong


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "squared_relu"])
@pytest.mark.parametrize("residual", [False, True])
def test_kernels_that_draw_alike(capability, activation, residual):
    """Whether backward reads nothing, the output or the input, whether there is a residual."""
    kept = reference_mask((5, 77), 0.4)
    x = torch.ones(5, 77, requires_grad=True)
    added = torch.zeros(5, 77) if residual else None
    y = operator(x, None, added, state(), p=0.4, activation=activation)
    y.sum().backward()
    assert torch.equal(y != 0, kept)
    assert torch.equal(x.grad != 0, kept)


# ---------------------------------------------------------------- layouts and shared dimensions


@pytest.mark.parametrize("shape", [(2, 3, 5, 37), (3, 70, 2, 5), (2, 1, 3, 300)], ids=str)
@pytest.mark.parametrize("layout", [*ORDERS, "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_dimensions(capability, layout, shape, dtype):
    if layout == "sliced":  # not dense: made so first
        x = torch.empty(4, 140, 6, 301, dtype=dtype)[tuple(slice(0, n) for n in shape)]
    else:
        x = in_order(shape, ORDERS[layout], dtype)
    wrong = {}
    for shared in SUBSETS:
        expected = reference.dropout_mask(shape, 0.5, state(), like=x, shared_dims=shared)
        if names := differing(all_masks(x, 0.5, state(), shared), expected):
            wrong[shared] = names
    assert not wrong


def test_shared_dimensions_over_two_threads(capability, threads):
    """Threads start in the middle of a run, and a run is longer than a block."""
    for shape, shared in [((40, 3, 1111), (2,)), ((40, 3, 1111), (1,)), ((3, 50000), (0,))]:
        expected = reference.dropout_mask(shape, 0.5, state(), shared_dims=shared)
        assert not differing(all_masks(torch.empty(shape), 0.5, state(), shared), expected)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (0,), (3, 0, 2), (1, 5, 1, 3)], ids=str)
def test_degenerate_shapes(capability, shape):
    x = torch.empty(shape)
    for n in range(x.dim() + 1):
        for shared in itertools.combinations(range(x.dim()), n):
            expected = reference.dropout_mask(shape, 0.5, state(), shared_dims=shared)
            assert not differing(all_masks(x, 0.5, state(), shared), expected)


# ---------------------------------------------------------------- a part of a larger tensor


def check_part(x, mask_strides, mask_offset, expected, p=0.3):
    """The mask with these strides and this offset is the expected one, seen in three ways."""
    position = {"mask_strides": list(mask_strides), "mask_offset": mask_offset}
    mask = torch.ops.fused_dropout.dropout_mask(
        state(), x.shape, x.stride(), p, [], position["mask_strides"], mask_offset
    )
    assert torch.equal(mask, expected)
    assert torch.equal(forward_mask(x, state(), p, **position), expected)
    assert torch.equal(backward_mask(x, state(), p, **position), expected)


@pytest.mark.parametrize("first, last", [(0, 3), (5, 6), (7, 300), (299, 300)])
def test_shard_of_rows(capability, threads, first, last):
    full = reference_mask((300, 513), 0.3)
    part = full[first:last]
    check_part(torch.empty(part.shape), (513, 1), 513 * first, part)


@pytest.mark.parametrize("first, last", [(0, 1), (3, 260), (256, 513), (512, 513)])
def test_shard_of_columns(capability, threads, first, last):
    full = reference_mask((300, 513), 0.3)
    part = full[:, first:last]
    check_part(torch.empty(part.shape), (513, 1), first, part)
    # Laid out the other way round: memory order and mask order differ.
    check_part(torch.empty(part.shape[::-1]).t(), (513, 1), first, part)


@pytest.mark.parametrize("layout", ORDERS)
def test_shard_of_channels(capability, layout):
    full = in_order((3, 20, 5, 7), ORDERS[layout])
    part = full[1:, 4:15]
    strides = reference.mask_strides(full)
    mask = reference.dropout_mask(full.shape, 0.3, state(), like=full)[1:, 4:15]
    for order in ORDERS.values():
        x = in_order(part.shape, order)
        check_part(x, strides, strides[0] + 4 * strides[1], mask)


# 2^31 and 2^32 end the range of 32-bit indices, 2^35 that of a 32-bit group.
@pytest.mark.parametrize("exponent", [31, 32, 33, 34, 35, 36, 62])
@pytest.mark.parametrize("before", [0, 3, 130, 1001])
def test_large_mask_offset(capability, exponent, before):
    first = 2**exponent - before
    expected = reference.draws(torch.arange(first, first + 1500), state())
    expected = expected < reference.keep_count(0.3)
    check_part(torch.empty(1500), (1,), first, expected)
    check_part(torch.empty(3, 500), (500, 1), first, expected.view(3, 500))


@pytest.mark.parametrize(
    "strides", [(2**32 + 5, 1), (1, 2**33 + 3), (0, 2**35 - 1), (2**35 + 7, 0), (2**40, 2**31 + 1)]
)
def test_index_beyond_32_bits_through_a_stride(capability, strides):
    rows, columns = torch.arange(5)[:, None], torch.arange(300)
    j = 3 + rows * strides[0] + columns * strides[1]
    expected = reference.draws(j, state()) < reference.keep_count(0.3)
    check_part(torch.empty(5, 300), strides, 3, expected)


@pytest.mark.parametrize("strides", [(1000003, 17), (3, 2), (1, 1), (7, 0), (0, 0), (2, 300)])
def test_any_strides(capability, strides):
    rows, columns = torch.arange(9)[:, None], torch.arange(301)
    j = 11 + rows * strides[0] + columns * strides[1]
    expected = reference.draws(j, state()) < reference.keep_count(0.3)
    check_part(torch.empty(9, 301), strides, 11, expected)


def test_a_mask_index_is_not_negative():
    position = {"mask_strides": [1], "mask_offset": -5}
    with pytest.raises(ValueError, match="mask_offset"):
        torch.ops.fused_dropout.dropout_mask(state(), [8], [1], 0.5, [], [1], -5)
    with pytest.raises(ValueError, match="mask_offset"):
        operator(torch.ones(8), None, None, state(), **position)


# ---------------------------------------------------------------- states


@pytest.mark.parametrize("seed", [0, -1, 1, 1 << 32, 2**63 - 1, -(2**63), SEED, -SEED])
def test_seeds_of_64_bits(capability, seed):
    expected = reference.dropout_mask((600,), 0.5, (seed, 0))
    assert not differing(all_masks(torch.empty(600), 0.5, state(seed, 0)), expected)


@pytest.mark.parametrize("block", [1, 2**30, 2**32 - 1, 2**32, 2**32 + 1, 2**61 - 1])
def test_offsets_of_64_bits(capability, block):
    expected = reference.dropout_mask((600,), 0.5, (SEED, 4 * block))
    assert not differing(all_masks(torch.empty(600), 0.5, state(SEED, 4 * block)), expected)


@pytest.mark.parametrize("offset", [-4, -1, 1, 2, 3, 6])
def test_offset_is_a_multiple_of_four(offset):
    with pytest.raises(ValueError, match=f"offset {offset}, but expected a multiple of 4"):
        FF.dropout_mask((8,), 0.5, state(0, offset))
    with pytest.raises(ValueError, match=f"offset {offset}, but expected a multiple of 4"):
        FF.dropout(torch.ones(8), 0.5, rng_state=state(0, offset))


# ---------------------------------------------------------------- the probability


# So many draws that each of the 65536 values occurs: `<=` for `<` is seen, as is an off-by-one.
@pytest.mark.parametrize(
    "p",
    [
        *(0.5 / 65536, 1.5 / 65536, 2.5 / 65536, 0.5000001 / 65536),
        *(1 - 0.5 / 65536, 1 - 1.5 / 65536, 1 - 2.5 / 65536),
        *(1e-4, 1e-3, 0.003, 0.1, 0.33, 0.5, 0.9, 0.999),
    ],
)
def test_keep_count(capability, p):
    draws = many_draws()
    expected = draws < reference.keep_count(p)
    assert torch.equal(FF.dropout_mask(draws.shape, p, state()), expected)
    assert torch.equal(forward_mask(torch.empty(draws.shape), state(), p), expected)
    half = torch.empty(draws.shape, dtype=torch.bfloat16)
    assert torch.equal(backward_mask(half, state(), p), expected)


@functools.cache
def many_draws():
    return reference.draws(torch.arange(8 * 65536), state())


def special_values(dtype):
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    special = [-0.0, 0.0, torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).smallest_normal / 8]
    return torch.cat([values, torch.tensor(special, dtype=dtype).repeat(20)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", FF.MODES)
def test_a_tiny_probability_changes_no_bit(capability, dtype, mode):
    x = special_values(dtype).requires_grad_()
    y = FF.dropout(x, 1e-10, mode=mode, rng_state=state())
    assert same_bits(y, x)
    y.backward(x.detach())
    assert same_bits(x.grad, x.detach())


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_values_keep_sign_and_infinity(capability, dtype):
    x = special_values(dtype)
    kept = reference_mask((len(x),), 0.5)
    y = FF.dropout(x, 0.5, rng_state=state())
    assert same_bits(y, torch.where(kept, 2 * x, torch.zeros_like(x)))
    y = FF.dropout(x, 0.5, mode="classic", rng_state=state())
    assert same_bits(y, torch.where(kept, x, torch.zeros_like(x)))


@pytest.mark.parametrize("p", [1 - 0.5 / 65536, 1 - 1e-9, 1])
@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_keeping_nothing_writes_zeros(capability, dtype, mode, p):
    x = special_values(dtype).requires_grad_()
    bias = torch.ones(len(x), dtype=dtype, requires_grad=True)
    y = FF.bias_act_dropout(x, bias, p, mode=mode, rng_state=state())
    assert (y == 0).all()
    dx, dbias = torch.autograd.grad(y, (x, bias), torch.full_like(y, torch.nan))
    assert (dx == 0).all()
    assert (dbias == 0).all()
    residual = torch.randn(len(x), dtype=dtype)
    assert torch.equal(FF.bias_dropout_add(x, bias, residual, p, mode=mode), residual)
