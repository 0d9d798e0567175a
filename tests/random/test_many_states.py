"""The operator dropout_mask for several states at once."""

import pytest
import torch
from torch.func import vmap

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import fixed_state

OPERATOR = torch.ops.fused_dropout.dropout_mask.default
STATES = torch.stack([fixed_state(seed, 4 * seed) for seed in range(6)])
COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd


def kernel(*args):
    return OPERATOR(*args)


def composition(*args):
    return OPERATOR._op_dk(COMPOSITE, *args)


@pytest.mark.parametrize("implementation", [kernel, composition])
@pytest.mark.parametrize("batch", [(6,), (2, 3), (6, 1), (0,)])
@pytest.mark.parametrize(
    "strides, shared", [((21, 7, 1), ()), ((1, 10, 2), ()), ((21, 7, 1), (1,))]
)
def test_each_state_has_the_mask_of_a_call_of_its_own(implementation, batch, strides, shared):
    states = STATES[: torch.Size(batch).numel()].reshape(*batch, 2)
    sizes = (2, 3, 7) if strides[2] == 1 else (2, 3, 5)
    masks = implementation(states, sizes, strides, 0.4, shared, None, 3)
    assert masks.shape == (*batch, *sizes)
    for state, mask in zip(states.reshape(-1, 2), masks.reshape(-1, *sizes), strict=True):
        assert torch.equal(mask, OPERATOR(state, sizes, strides, 0.4, shared, None, 3))
    fake = OPERATOR(states.to("meta"), sizes, strides, 0.4, shared, None, 3)
    assert (fake.shape, fake.stride()) == (masks.shape, masks.stride())


def test_vmap_over_states():
    masks = vmap(lambda state: FF.dropout_mask((4, 5), 0.4, state))(STATES)
    for state, mask in zip(STATES, masks, strict=True):
        assert torch.equal(mask, reference.dropout_mask((4, 5), 0.4, state))


def test_errors():
    with pytest.raises(TypeError, match="dropout_mask: rng_state has dtype Int"):
        OPERATOR(STATES.int(), [4], [1], 0.5, [], None, 0)
    with pytest.raises(RuntimeError, match=r"dropout_mask: rng_state has shape \[2, 6\]"):
        OPERATOR(STATES.t(), [4], [1], 0.5, [], None, 0)
