"""Values and gradients against the reference in float64, for every dtype, size and layout."""

import pytest
import torch

from tests.helpers import DTYPES, ORDERS, in_order, same_bits, thread_count
from tests.module_helpers import drawing_nothing
from tests.noise.calls import every_call, every_call_with_a_scalar, every_drawing_call
from tests.noise.noise_call import upstream_of

# Below, at and beyond a register, a step of normal numbers, a block; a tail of each.
SHAPES = [
    (), (1,), (2,), (3,), (7,), (8,), (31,), (33,), (64,), (65,), (3, 5), (2, 3, 5, 7), (511,),
    (512,), (513,), (1025,), (70001,),
]  # fmt: skip


def call_and_check(call, tensors, **options):
    result = call.ours(tensors, **options)
    gradients = call.gradients_of(result, tensors, upstream_of(result))
    assert result.dtype == tensors["x"].dtype
    for key, value in gradients.items():
        assert value.dtype == tensors[key].dtype
        assert value.shape == tensors[key].shape
    call.check_values(tensors, result, gradients, **options)
    return result, gradients


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(call, shape):
    for dtype in DTYPES:
        call_and_check(call, call.tensors_of(shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_call
def test_every_instruction_set(call, dtype, capability):
    call_and_check(call, call.tensors_of((37, 111), dtype))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@every_call_with_a_scalar
def test_scalar_of_another_dtype(call, dtype):
    call_and_check(call, call.tensors_of((33, 7), dtype, scalar_dtype=torch.float32))
    tensors = call.tensors_of((33, 7), torch.float32, scalar_dtype=dtype)
    assert call.ours(tensors).dtype == torch.float32


@pytest.mark.parametrize("rows", [1, 3, 1024])
@every_call_with_a_scalar
def test_gradient_by_a_scalar_of_many_elements(call, rows):
    """In bf16 every term is rounded by nothing, and the sum in fp32 and fp64."""
    call_and_check(call, call.tensors_of((rows, 257), torch.bfloat16, scalar_dtype=torch.float32))


def tensors_in_order(call, order):
    def in_this_order(tensor):
        return in_order(tensor.shape, ORDERS[order]).copy_(tensor.detach()).requires_grad_()

    return call.map_elementwise(in_this_order, call.tensors_of((2, 3, 4, 5)))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@every_call
def test_layouts(call, order):
    """The output lies as the input does, and the noise follows memory order."""
    tensors = tensors_in_order(call, order)
    result, gradients = call_and_check(call, tensors)
    assert result.stride() == tensors["x"].stride()
    assert gradients["x"].stride() == tensors["x"].stride()


@every_call
def test_views(call):
    """What is not dense is taken as `empty_like` lays it out; so are gradients."""
    tensors = call.tensors_of((6, 40))
    stepped = call.map_elementwise(lambda t: t[::2, 1:], tensors)
    dense = call.map_elementwise(lambda t: t.detach().contiguous().requires_grad_(), stepped)
    result, expected = call.ours(stepped), call.ours(dense)
    assert torch.equal(result, expected) and result.is_contiguous()
    upstream = upstream_of(result)
    # An upstream gradient in another layout, and an expanded one.
    transposed = upstream.t().contiguous().t()
    for dy in (upstream, transposed):
        found = call.gradients_of(result, stepped, dy)
        wanted = call.gradients_of(expected, dense, upstream)
        for key in wanted:
            assert torch.equal(found[key], wanted[key])
    expanded = call.gradients_of(expected, dense, torch.ones(()).expand(result.shape))
    for key, value in call.gradients_of(expected, dense, torch.ones(result.shape)).items():
        assert torch.equal(value, expanded[key])


@every_call
def test_unaligned(call):
    """Tensors that start one element behind an aligned address."""
    tensors = call.tensors_of((1000,))
    moved = call.map_elementwise(lambda t: torch.cat([t[:1], t])[1:], tensors)
    assert torch.equal(call.ours(tensors), call.ours(moved))


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@every_drawing_call
def test_shared_dims(call, shared):
    for shape in [(3, 4, 70), (2, 5, 3), (4, 1, 9)]:
        call_and_check(call, call.tensors_of(shape), shared_dims=shared)


@pytest.mark.parametrize("shared", [(0,), (1,), (0, 2)], ids=str)
@every_drawing_call
def test_shared_dims_in_any_layout(call, shared):
    for order in ORDERS:
        call_and_check(call, tensors_in_order(call, order), shared_dims=shared)


@every_drawing_call
def test_noise_shape(call):
    tensors = call.tensors_of((3, 4, 5))
    spelled = call.ours(tensors, noise_shape=(None, 1, 5))
    assert torch.equal(spelled, call.ours(tensors, shared_dims=(1,)))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 5, 2**32 - 3, 2**40 + 7])
@every_drawing_call
def test_mask_offset(call, offset):
    tensors = call.tensors_of((77,))
    expected = call.theirs({k: t.double() for k, t in tensors.items()}, mask_offset=offset)
    result = call.operator(tensors, mask_offset=offset)
    assert (result - expected).abs().max() < 1e-4
    gradient = call.gradients_of(result, tensors, torch.ones(77))["x"]
    assert torch.allclose(gradient * tensors["x"], result, rtol=1e-5, atol=1e-6)
    if offset == 0:
        return
    full = call.tensors_of((77 + 5,))
    part = call.map_elementwise(lambda t: t[5:], full)
    assert torch.equal(call.operator(full)[5:], call.operator(part, mask_offset=5))


@every_drawing_call
def test_mask_strides_and_offset(call):
    """Mask strides that are neither one nor zero."""
    tensors = call.tensors_of((5, 9))
    result = call.operator(tensors, mask_strides=[100, 3], mask_offset=2)

    def spread(tensor):
        wide = torch.zeros(5, 100)
        wide[:, 0:27:3] = tensor.detach()
        return wide

    wide = call.map_elementwise(spread, tensors)
    expected = call.operator(wide, mask_offset=2)[:, 0:27:3]
    assert torch.allclose(result, expected, rtol=1e-6, atol=0)


@every_call
def test_bits_do_not_depend_on_threads(call, capability):
    tensors = call.tensors_of((300, 700))
    found = []
    for count in (1, 2):
        with thread_count(count):
            result = call.ours(tensors)
            found.append(
                [result, *call.gradients_of(result, tensors, upstream_of(result)).values()]
            )
    for one, two in zip(*found, strict=True):
        assert same_bits(one, two)


@every_call
def test_only_the_gradients_that_are_wanted(call):
    everything = call.tensors_of((40,))
    result = call.ours(everything)
    upstream = upstream_of(result)
    found = torch.autograd.grad(result, list(everything.values()), upstream, allow_unused=True)
    full = dict(zip(everything, found, strict=True))
    assert {key for key in full if full[key] is not None} == set(call.differentiable)
    for wanted in call.differentiable:
        tensors = call.tensors_of((40,))
        for key, value in tensors.items():
            value.requires_grad_(key == wanted)
        (gradient,) = torch.autograd.grad(call.ours(tensors), tensors[wanted], upstream)
        assert torch.equal(gradient, full[wanted])


@every_drawing_call
def test_states_and_offsets_differ(call):
    tensors = call.tensors_of((1000,))
    first = call.ours(tensors, rng_state=torch.tensor([1, 0]))
    for other in ([2, 0], [1 << 32 | 1, 0], [1, 4], [1, 1 << 40]):
        assert not torch.equal(first, call.ours(tensors, rng_state=torch.tensor(other)))
    for seed in (-1, 2**63 - 1, -(2**63)):
        state = torch.tensor([seed, 12])
        call_and_check(call, tensors, rng_state=state)


@every_drawing_call
def test_generators(call):
    tensors = call.tensors_of((100,))
    torch.manual_seed(5)
    default = call(tensors)
    torch.manual_seed(5)
    own = call(tensors, generator=torch.default_generator)
    assert torch.equal(default, own)
    again = call(tensors, generator=torch.Generator().manual_seed(5))
    assert torch.equal(default, again)
    assert not torch.equal(default, call(tensors))


@every_call
def test_identity_and_empty(call):
    tensors, empty = call.tensors_of((3, 4)), call.tensors_of((0, 4))
    with drawing_nothing():
        result = call(tensors, training=False)
        assert (result is tensors["x"]) == (call.evaluation is None)
        result = call(empty)
        (gradient,) = torch.autograd.grad(result, empty["x"], torch.ones(0, 4))
    assert result.shape == gradient.shape == (0, 4)
