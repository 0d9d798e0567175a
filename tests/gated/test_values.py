"""Results and gradients of the gated operators against the reference in fp64."""

import itertools

import pytest
import torch

from tests.helpers import in_order
from tests.row_operators.calls import (
    CALLS,
    gradients_of,
    is_norm,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)
from tests.row_operators.values import *  # noqa: F403


@pytest.mark.parametrize("name", [name for name in CALLS if not is_norm(name)])
@pytest.mark.parametrize("width", [1, 2])
def test_gradients_in_every_order_of_the_dimensions(name, width, capability):
    """A gated unit of one element is a row; the two that it is made of need not be."""
    for shape in ((3, width), (3, 2, width), (3, 2, 4, width)):
        for order in itertools.permutations(range(len(shape))):
            tensors = tensors_of(name, shape)
            x = tensors["x"].detach()
            tensors["x"] = in_order(x.shape, order).copy_(x).requires_grad_()
            results, expected = ours(name, tensors), theirs(name, tensors)
            upstream = upstream_of(results)
            found = gradients_of(results, tensors, upstream)
            for key, gradient in gradients_of(expected, tensors, upstream).items():
                torch.testing.assert_close(found[key], gradient, msg=f"{key} {shape} {order}")


def test_glu_is_torchs():
    x = torch.randn(4, 12)
    y = ours("glu", {"x": x}, p=0.0)[0]
    torch.testing.assert_close(y, torch.nn.functional.glu(x))
