"""An eager call draws a state, unless it is given one, and then calls one operator."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import called, drawing_nothing, seed_and_state


class Names(TorchDispatchMode):
    """Records the names of our operators that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fused_dropout":
            self.seen.append(function._schema.name.split("::")[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias, residual", [(False, False), (True, False), (True, True)])
def test_the_drawn_state_replays_the_call(bias, residual):
    x = torch.randn(7, 40, requires_grad=True)
    bias = torch.randn(40, requires_grad=True) if bias else None
    residual = torch.randn(7, 40, requires_grad=True) if residual else None
    given = [one for one in (x, bias, residual) if one is not None]
    state = seed_and_state(3)
    y = FF.bias_act_dropout(x, bias, residual=residual)
    expected = FF.bias_act_dropout(x, bias, residual=residual, rng_state=state)
    assert torch.equal(y, expected)
    dy = torch.randn(7, 40)
    for ours, theirs in zip(
        torch.autograd.grad(y, given, dy), torch.autograd.grad(expected, given, dy), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("needs_grad", [True, False])
def test_in_place(needs_grad):
    x = torch.randn(7, 40, requires_grad=needs_grad)
    state = seed_and_state(3)
    y = x * 1
    version = y._version
    FF.dropout(y, 0.5, inplace=True)
    assert y._version == version + 1
    expected = FF.dropout(x, 0.5, rng_state=state)
    assert torch.equal(y, expected)
    if needs_grad:
        gradients = (torch.autograd.grad(one.sin().sum(), x)[0] for one in (y, expected))
        assert torch.equal(*gradients)


def test_a_generator_of_its_own():
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    x = torch.ones(7, 40)
    with drawing_nothing():
        first, second = (FF.bias_act_dropout(x, generator=one) for one in generators)
        assert torch.equal(first, second)
        assert not torch.equal(first, FF.bias_act_dropout(x, generator=generators[0]))


def test_the_operators_of_a_call():
    x, state = torch.ones(3, 8), torch.tensor([1, 8])
    assert called(lambda: FF.dropout(x, 0.5)) == {"draw_rng_state", "bias_act_dropout"}
    inplace = called(lambda: FF.dropout(x.clone(), 0.5, inplace=True))
    assert inplace == {"draw_rng_state", "dropout_"}
    assert called(lambda: FF.dropout(x, 0.5, rng_state=state)) == {"bias_act_dropout"}
    assert called(lambda: FF.bias_act_dropout(x, training=False)) == {"bias_act_dropout"}


def test_a_mode_sees_the_same_operators():
    with Names() as names:
        FF.dropout(torch.ones(3, 8), 0.5)
        FF.dropout(torch.ones(3, 8), 0.5, inplace=True)
    assert names.seen == ["draw_rng_state", "bias_act_dropout", "draw_rng_state", "dropout_"]


def test_forward_mode_draws_a_state_too():
    x, tangent = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    state = seed_and_state(3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        y = FF.bias_act_dropout(dual, None, 0.5, "gelu")
        replay = FF.bias_act_dropout(dual, None, 0.5, "gelu", rng_state=state)
        ours, theirs = map(torch.autograd.forward_ad.unpack_dual, (y, replay))
        assert torch.equal(ours.primal, theirs.primal)
        assert torch.equal(ours.tangent, theirs.tangent)


def test_a_state_with_a_negative_bit():
    negative = torch._neg_view(torch.tensor([7, -8]))  # its memory holds no valid offset
    assert negative.is_neg()
    x = torch.ones(7, 40)
    expected = FF.dropout(x, 0.5, rng_state=torch.tensor([-7, 8]))
    assert torch.equal(FF.dropout(x, 0.5, rng_state=negative), expected)
    with pytest.raises(ValueError, match="rng_state has offset -8"):
        FF.dropout(x, 0.5, rng_state=torch._neg_view(torch.tensor([7, 8])))


@pytest.mark.filterwarnings("ignore:fused_dropout. this build has no kernels for cuda")
@pytest.mark.parametrize("function", [FF.dropout, FF.gaussian_dropout])
def test_a_state_on_the_cpu_for_a_traced_cuda_tensor(function):
    with FakeTensorMode():
        x = torch.empty(7, 40, device="cuda")
        state = torch.empty(2, dtype=torch.int64)
        y = function(x, 0.5, rng_state=state)
    assert y.device.type == "cuda" and y.shape == x.shape


class Wrapped(torch.Tensor):
    """A tensor subclass, whose calls go through torch.ops."""


@pytest.mark.parametrize("options", [{}, {"training": False}, {"rng_state": torch.tensor([1, 8])}])
def test_a_generator_of_a_wrong_type_beside_a_subclass(options):
    with drawing_nothing(), pytest.raises(TypeError, match="generator is of type str"):
        FF.bias_act_dropout(torch.ones(7, 40).as_subclass(Wrapped), generator="cpu", **options)


def test_shared_dims_of_the_mask_operator():
    state = torch.tensor([1, 8])

    def mask(*shared_dims):
        strides = (5, 1)
        return torch.ops.fused_dropout.dropout_mask(
            state, (4, 5), strides, 0.5, shared_dims, None, 0
        )

    assert torch.equal(mask(-1), mask(1))
    with pytest.raises(IndexError, match="dropout_mask: shared_dims has 2, but x has 2"):
        mask(2)
    with pytest.raises(ValueError, match="dropout_mask: shared_dims has dimension 1 twice"):
        mask(-1, 1)


def test_types_of_states_and_masks():
    with pytest.raises(TypeError, match="dropout_mask: rng_state is of type int"):
        FF.dropout_mask((4, 5), 0.5, 3)
    with pytest.raises(TypeError, match="dropout_mask: like is of type list"):
        FF.dropout_mask((4, 5), 0.5, torch.tensor([1, 8]), like=[4, 5])
    with pytest.raises(TypeError, match="new_rng_state: generator is of type int"):
        fd.new_rng_state(generator=3)
