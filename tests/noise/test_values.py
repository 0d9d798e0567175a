"""Values and gradients against the reference in float64, for every dtype, size and layout."""

import pytest
import torch

from tests.helpers import DTYPES, ORDERS, in_order, same_bits, thread_count
from tests.noise.calls import (
    CALLS,
    DIFFERENTIABLE,
    DRAWING,
    check_values,
    every_call,
    every_drawing_call,
    gradients_of,
    operator,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

# Below, at and beyond a register, a step of normal numbers, a block; a tail of each.
SHAPES = [
    (), (1,), (2,), (3,), (7,), (8,), (31,), (33,), (64,), (65,), (3, 5), (2, 3, 5, 7), (511,),
    (512,), (513,), (1025,), (70001,),
]  # fmt: skip


def call_and_check(name, tensors, **options):
    result = ours(name, tensors, **options)
    gradients = gradients_of(name, result, tensors, upstream_of(result))
    assert result.dtype == tensors["x"].dtype
    for key, value in gradients.items():
        assert value.dtype == tensors[key].dtype
        assert value.shape == tensors[key].shape
    check_values(name, tensors, result, gradients, **options)
    return result, gradients


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(name, shape):
    for dtype in DTYPES:
        call_and_check(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_call
def test_every_instruction_set(name, dtype, capability):
    call_and_check(name, tensors_of(name, (37, 111), dtype))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_logit_of_another_dtype(dtype):
    call_and_check("concrete", tensors_of("concrete", (33, 7), dtype, logit_dtype=torch.float32))
    tensors = tensors_of("concrete", (33, 7), torch.float32, logit_dtype=dtype)
    assert ours("concrete", tensors).dtype == torch.float32


@pytest.mark.parametrize("order", ORDERS, ids=str)
@every_call
def test_layouts(name, order):
    """The output lies as the input does, and the noise follows memory order."""
    tensors = tensors_of(name, (2, 3, 4, 5))
    for key in ("x", "z"):
        if key in tensors:
            moved = in_order((2, 3, 4, 5), ORDERS[order]).copy_(tensors[key].detach())
            tensors[key] = moved.requires_grad_()
    result, gradients = call_and_check(name, tensors)
    assert result.stride() == tensors["x"].stride()
    assert gradients["x"].stride() == tensors["x"].stride()


@every_call
def test_views(name):
    """What is not dense is taken as `empty_like` lays it out; so are gradients."""
    tensors = tensors_of(name, (6, 40))
    stepped = {key: t if key == "logit" else t[::2, 1:] for key, t in tensors.items()}
    dense = {
        key: t if key == "logit" else t.detach().contiguous().requires_grad_()
        for key, t in stepped.items()
    }
    result, expected = ours(name, stepped), ours(name, dense)
    assert torch.equal(result, expected) and result.is_contiguous()
    upstream = upstream_of(result)
    # An upstream gradient in another layout, and an expanded one.
    transposed = upstream.t().contiguous().t()
    for dy in (upstream, transposed):
        found = gradients_of(name, result, stepped, dy)
        wanted = gradients_of(name, expected, dense, upstream)
        for key in wanted:
            assert torch.equal(found[key], wanted[key])
    expanded = gradients_of(name, expected, dense, torch.ones(()).expand(result.shape))
    for key, value in gradients_of(name, expected, dense, torch.ones(result.shape)).items():
        assert torch.equal(value, expanded[key])


@every_call
def test_unaligned(name):
    """Tensors that start one element behind an aligned address."""
    tensors = tensors_of(name, (1000,))
    moved = {
        key: t if key == "logit" else torch.cat([t.detach()[:1], t.detach()])[1:].requires_grad_()
        for key, t in tensors.items()
    }
    assert torch.equal(ours(name, tensors), ours(name, moved))


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@every_drawing_call
def test_shared_dims(name, shared):
    for shape in [(3, 4, 70), (2, 5, 3), (4, 1, 9)]:
        call_and_check(name, tensors_of(name, shape), shared_dims=shared)


@every_drawing_call
def test_noise_shape(name):
    tensors = tensors_of(name, (3, 4, 5))
    spelled = ours(name, tensors, noise_shape=(None, 1, 5))
    assert torch.equal(spelled, ours(name, tensors, shared_dims=(1,)))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 5, 2**32 - 3, 2**40 + 7])
@every_drawing_call
def test_mask_offset(name, offset):
    tensors = tensors_of(name, (77,))
    expected = theirs(name, {k: t.double() for k, t in tensors.items()}, mask_offset=offset)
    result = operator(name, tensors, mask_offset=offset)
    assert (result - expected).abs().max() < 1e-4
    gradient = gradients_of(name, result, tensors, torch.ones(77))["x"]
    assert torch.allclose(gradient * tensors["x"], result, rtol=1e-5, atol=1e-6)
    if offset == 0:
        return
    full = tensors_of(name, (77 + 5,))
    part = {k: t if k == "logit" else t[5:] for k, t in full.items()}
    assert torch.equal(operator(name, full)[5:], operator(name, part, mask_offset=5))


@every_drawing_call
def test_mask_strides_and_offset(name):
    """Mask strides that are neither one nor zero."""
    tensors = tensors_of(name, (5, 9))
    result = operator(name, tensors, mask_strides=[100, 3], mask_offset=2)
    wide = {k: t if k == "logit" else torch.ones(5, 100) for k, t in tensors.items()}
    for key in ("x", "z"):
        if key in tensors:
            wide[key] = torch.zeros(5, 100)
            wide[key][:, 0:27:3] = tensors[key].detach()
    expected = operator(name, wide, mask_offset=2)[:, 0:27:3]
    assert torch.allclose(result, expected, rtol=1e-6, atol=0)


@every_call
def test_bits_do_not_depend_on_threads(name, capability):
    tensors = tensors_of(name, (300, 700))
    found = []
    for count in (1, 2):
        with thread_count(count):
            result = ours(name, tensors)
            found.append(
                [result, *gradients_of(name, result, tensors, upstream_of(result)).values()]
            )
    for one, two in zip(*found, strict=True):
        assert same_bits(one, two)


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_gradient_by_the_logit_of_many_elements(rows):
    """In bf16 every term is rounded by nothing, and the sum in fp32 and fp64."""
    tensors = tensors_of("concrete", (rows, 257), torch.bfloat16, logit_dtype=torch.float32)
    call_and_check("concrete", tensors)


@pytest.mark.parametrize("name", DRAWING)
def test_only_the_gradients_that_are_wanted(name):
    for wanted in DIFFERENTIABLE[name]:
        tensors = tensors_of(name, (40,))
        for key, value in tensors.items():
            value.requires_grad_(key == wanted)
        result = ours(name, tensors)
        gradient = torch.autograd.grad(result, tensors[wanted], upstream_of(result))[0]
        everything = tensors_of(name, (40,))
        full = gradients_of(name, ours(name, everything), everything, upstream_of(result))
        assert torch.equal(gradient, full[wanted])


def test_standout_has_no_gradient_by_z_in_training():
    tensors = tensors_of("standout", (40,))
    (gradient,) = torch.autograd.grad(
        ours("standout", tensors).sum(), tensors["z"], allow_unused=True
    )
    assert gradient is None


@every_drawing_call
def test_states_and_offsets_differ(name):
    tensors = tensors_of(name, (1000,))
    first = ours(name, tensors, rng_state=torch.tensor([1, 0]))
    for other in ([2, 0], [1 << 32 | 1, 0], [1, 4], [1, 1 << 40]):
        assert not torch.equal(first, ours(name, tensors, rng_state=torch.tensor(other)))
    for seed in (-1, 2**63 - 1, -(2**63)):
        state = torch.tensor([seed, 12])
        call_and_check(name, tensors, rng_state=state)


@every_drawing_call
def test_generators(name):
    tensors = tensors_of(name, (100,))
    torch.manual_seed(5)
    default = ours(name, tensors, rng_state=None)
    torch.manual_seed(5)
    own = ours(name, tensors, rng_state=None, generator=torch.default_generator)
    assert torch.equal(default, own)
    again = ours(name, tensors, rng_state=None, generator=torch.Generator().manual_seed(5))
    assert torch.equal(default, again)
    assert not torch.equal(default, ours(name, tensors, rng_state=None))


@pytest.mark.parametrize("name", CALLS)
def test_identity_and_empty(name):
    tensors = tensors_of(name, (3, 4))
    x, before = tensors["x"], torch.get_rng_state()
    if name in ("gaussian", "concrete"):
        assert ours(name, tensors, rng_state=None, training=False) is x
    if name == "gaussian":
        assert ours(name, tensors, rng_state=None, p=0.0) is x
    empty = tensors_of(name, (0, 4))
    assert ours(name, empty, rng_state=None).shape == (0, 4)
    if name == "standout":
        result = ours(name, empty, rng_state=None)
        gradients_of(name, result, empty, torch.ones(0, 4))
        ours(name, tensors, rng_state=None, training=False)
    assert torch.equal(torch.get_rng_state(), before)
