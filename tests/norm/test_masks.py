"""The masks of the row operators: the contract's, in forward and backward, whatever the layout."""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import DTYPES, state, thread_count
from tests.row_calls import STATE, every_call, gradients_of, ours, tensors_of, theirs, upstream_of

P = 0.3
SHAPES = [(4, 8), (3, 7), (33, 3), (5, 513), (2, 1300), (3, 5, 100), (700, 1)]


def norm_masks(x, prenorm, p=P, rng_state=STATE, **options):
    """What forward keeps, seen in h, and what backward does, seen in dx.

    The gradient by h is 1, but for what comes through the normalisation, which a zero weight stops.
    """
    x = torch.ones_like(x).requires_grad_()
    weight = torch.zeros(x.shape[-1], dtype=x.dtype)
    residual = torch.zeros_like(x)
    y, h = FF.dropout_add_layer_norm(
        x, residual, weight, p=p, prenorm=True, rng_state=rng_state, **options
    )
    if prenorm:
        (dx,) = torch.autograd.grad((y, h), x, (torch.ones_like(y), torch.ones_like(h)))
        return h != 0, dx != 0
    # After the norm: a branch of rows that differ from each other, and the gradient of one place.
    ones = torch.ones_like(x).requires_grad_()
    y = FF.dropout_add_layer_norm(
        ones, torch.randn(x.shape).to(x.dtype), p=p, rng_state=rng_state, **options
    )
    generator = torch.Generator().manual_seed(3)
    dy = torch.randn(y.shape, generator=generator).to(y.dtype)
    (dx,) = torch.autograd.grad(y, ones, dy)
    return h != 0, dx != 0


def glu_masks(x, p=P, rng_state=STATE, **options):
    """The same of a gated call with ones on both sides; `x` has the shape of the result."""
    both = torch.cat((x, x), -1).fill_(1).requires_grad_()
    y = FF.bias_glu_dropout(both, None, p, "identity", rng_state=rng_state, **options)
    (dx,) = torch.autograd.grad(y, both, torch.ones_like(y))
    gate, value = dx.chunk(2, -1)
    assert torch.equal(gate, value)
    return y != 0, gate != 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_contract(shape, dtype, capability, threads):
    expected = reference.dropout_mask(shape, P, STATE)
    x = torch.empty(shape, dtype=dtype)
    for found in (*norm_masks(x, prenorm=True), *glu_masks(x)):
        assert torch.equal(found, expected)
    if shape[-1] > 2:  # rows of one or two have no gradient to see
        forward, backward = norm_masks(x, prenorm=False)
        assert torch.equal(forward, expected)
        # A gradient may be zero by itself, where 16 bits round.
        assert not (backward & ~expected).any()
        assert (backward == expected).double().mean() > 0.99


@pytest.mark.parametrize("shape", [(1000, 1100), (30, 40000), (50000, 24)], ids=str)
def test_many_elements(shape):
    """Enough of them that some draws lie on the threshold, and that a period would show."""
    expected = reference.dropout_mask(shape, P, STATE)
    x = torch.empty(shape)
    for found in (*norm_masks(x, prenorm=True), *glu_masks(x)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_shared_dimensions(shared, capability):
    x = torch.empty(5, 6, 70)
    expected = reference.dropout_mask(x.shape, P, STATE, shared_dims=shared)
    for found in (
        *norm_masks(x, prenorm=True, shared_dims=shared),
        *glu_masks(x, shared_dims=shared),
    ):
        assert torch.equal(found, expected)
    noise_shape = tuple(1 if dim in shared else None for dim in range(3))
    assert torch.equal(glu_masks(x, noise_shape=noise_shape)[0], expected)


def layouts(shape):
    """Tensors of one shape that lie in memory in every way, dense and not."""
    for order in itertools.permutations(range(len(shape))):
        inverse = sorted(range(len(order)), key=order.__getitem__)
        yield torch.empty([shape[dim] for dim in order]).permute(inverse)
    yield torch.empty(shape[0] * 2, *shape[1:])[::2]
    yield torch.empty(*shape[:-1], shape[-1] + 3)[..., 1:-2]


@pytest.mark.parametrize("index", range(26))
def test_layouts(index, capability):
    """The mask and the strides are those of dropout alone."""
    x = next(iter(itertools.islice(layouts((3, 4, 5, 6)), index, index + 1)))
    expected = reference.dropout_mask(x.shape, P, STATE, like=x)
    forward, backward = norm_masks(x, prenorm=True)
    assert torch.equal(forward, expected)
    assert torch.equal(backward, expected)
    values = x.detach().normal_().requires_grad_()
    y, h = FF.dropout_add_layer_norm(values, None, p=P, prenorm=True, rng_state=STATE)
    assert y.stride() == h.stride() == torch.empty_like(x).stride()
    plain = FF.dropout(values, P, rng_state=STATE)
    assert torch.equal(h, plain)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(plain, (6,)))
    (dx,) = torch.autograd.grad((y, h), values, (torch.ones_like(y), torch.ones_like(h)))
    assert dx.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("index", range(26))
def test_layouts_of_gated(index, capability):
    x = next(iter(itertools.islice(layouts((3, 4, 5, 6)), index, index + 1)))
    x = x.detach().normal_().requires_grad_()
    bias = torch.randn(6)
    y = FF.bias_glu_dropout(x, bias, P, rng_state=STATE)
    expected = reference.bias_glu_dropout(x, bias, P, "silu", STATE)
    torch.testing.assert_close(y, expected)
    order = reference.memory_order(x)
    assert sorted(range(4), key=lambda dim: -y.stride(dim)) == list(order)
    like = torch.empty_like(x).chunk(2, -1)[0]
    assert y.stride() == torch.empty_like(like).stride()
    dy = torch.randn(y.shape)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(dx, torch.autograd.grad(expected, x, dy)[0])


@every_call
def test_a_permuted_residual_and_gradient(name):
    """Operands in other layouts than x's."""
    tensors = tensors_of(name, (4, 5, 6), torch.float64)
    results = ours(name, tensors)
    upstream = upstream_of(results)
    expected = gradients_of(results, tensors, upstream)
    if "residual" in tensors:
        moved = tensors["residual"].detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
        tensors["residual"] = moved.requires_grad_()
    again = ours(name, tensors)
    for one, other in zip(again, results, strict=True):
        assert torch.equal(one, other)
    upstream = [dy.permute(2, 0, 1).contiguous().permute(1, 2, 0) for dy in upstream]
    for key, gradient in gradients_of(again, tensors, upstream).items():
        assert torch.equal(gradient, expected[key]), key


@pytest.mark.parametrize("offset", [0, 5, 8, 2**35 + 3])
def test_the_place_in_a_whole(offset):
    """Strides and an offset of the mask, which only the operators take."""
    x, strides = torch.ones(3, 20), [40, 1]
    index = offset + torch.arange(3)[:, None] * 40 + torch.arange(20)
    expected = reference.draws(index.flatten(), STATE).view(3, 20) < reference.keep_count(P)
    options = [P, None, "identity", None, None, "inverted", True, [], strides, offset]
    _, h, _ = torch.ops.fused_dropout.dropout_add_norm(
        x, None, None, None, None, None, None, STATE, "rms_norm", 1e-5, True, *options
    )
    assert torch.equal(h != 0, expected)
    y = torch.ops.fused_dropout.bias_glu_dropout(torch.ones(3, 40), None, STATE, True, *options)
    assert torch.equal(y != 0, expected)


@every_call
def test_threads_change_nothing(name):
    """Not a bit, in results and gradients."""
    tensors = tensors_of(name, (300, 257))
    found = []
    for count in (1, 2, 2):
        with thread_count(count):
            results = ours(name, tensors)
            gradients = gradients_of(results, tensors, upstream_of(results))
        found.append((*results, *gradients.values()))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@every_call
def test_fresh_masks(name):
    """Two calls differ; a seed repeats them, with a generator of one's own too."""
    tensors = tensors_of(name, (20, 30))

    def twice(**options):
        return [ours(name, tensors, rng_state=None, **options)[0] for _ in range(2)]

    torch.manual_seed(5)
    first = twice()
    torch.manual_seed(5)
    second = twice()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    one, other = (twice(generator=generator)[0] for generator in generators)
    assert torch.equal(one, other)


@every_call
def test_all_64_bits_of_the_state(name):
    tensors = tensors_of(name, (4, 30))
    usual = ours(name, tensors)[0]
    for changed in (state(seed=STATE[0].item() ^ 1 << 40), state(offset=2**34)):
        y = ours(name, tensors, rng_state=changed)[0]
        assert not torch.equal(y, usual)
        torch.testing.assert_close(y, theirs(name, tensors, rng_state=changed)[0])
