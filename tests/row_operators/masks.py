"""The masks of the row operators: in forward and backward, in any layout.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import itertools

import torch

from tests.helpers import state, thread_count
from tests.row_operators.calls import (
    STATE,
    gradients_of,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

P = 0.3
SHAPES = [(4, 8), (3, 7), (33, 3), (5, 513), (2, 1300), (3, 5, 100), (700, 1)]


def layouts(shape):
    """Tensors of one shape that lie in memory in every way, dense and not."""
    for order in itertools.permutations(range(len(shape))):
        inverse = sorted(range(len(order)), key=order.__getitem__)
        yield torch.empty([shape[dim] for dim in order]).permute(inverse)
    yield torch.empty(shape[0] * 2, *shape[1:])[::2]
    yield torch.empty(*shape[:-1], shape[-1] + 3)[..., 1:-2]


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


def test_all_64_bits_of_the_state(name):
    tensors = tensors_of(name, (4, 30))
    usual = ours(name, tensors)[0]
    for changed in (state(seed=STATE[0].item() ^ 1 << 40), state(offset=2**34)):
        y = ours(name, tensors, rng_state=changed)[0]
        assert not torch.equal(y, usual)
        torch.testing.assert_close(y, theirs(name, tensors, rng_state=changed)[0])
