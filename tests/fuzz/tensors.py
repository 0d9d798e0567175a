"""Tensors as data: what a generated call is made of, whose `repr` is a program that makes it again.

Their memory is allocated to the element, so that AddressSanitizer sees a step beyond it.
"""

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st

DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = (
    "contiguous",
    "permuted",
    "channels_last",
    "sliced",
    "stepped",
    "expanded",
    "offset",
    "flipped",
)
VALUES = ("normal", "large", "special")
SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, -6e-8, 1e38, 65504.0, 5e-324, -1.0)

# Around what kernels work on at once: registers of 4 to 32 elements, blocks of 512.
_WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 511, 512, 513, 1025)
_EDGE_NUMBERS = (0, 1, -1, 2**32 - 1, 2**32, 2**63 - 1, -(2**63))
_EDGE_OFFSETS = (0, 4, 8, 2**32 - 4, 2**32, 2**62, 2**63 - 4)


class Spec(NamedTuple):
    """A tensor."""

    shape: tuple
    dtype: str = "float32"
    layout: str = "contiguous"
    values: str = "normal"
    seed: int = 0
    device: str = "cpu"

    def build(self):
        dtype, shape = getattr(torch, self.dtype), tuple(self.shape)
        if self.device == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        return _laid_out(self._values(shape, dtype), self.layout, self.seed)

    def _values(self, shape, dtype):
        generator = torch.Generator().manual_seed(self.seed)
        if not dtype.is_floating_point:
            return torch.randint(0, 2, shape, generator=generator).to(dtype)
        x = torch.randn(shape, generator=generator)
        if self.values == "unit":
            x = torch.rand(shape, generator=generator)
        if self.values == "large":
            x = x * 1e4
        if self.values == "special":
            chosen = torch.randint(0, 2 * len(SPECIAL), shape, generator=generator)
            table = torch.tensor(SPECIAL + (1.5,) * len(SPECIAL), dtype=torch.float64)
            x = table[chosen]
        return x.to(dtype)


class Ints(NamedTuple):
    """An int64 tensor of these values, or of this one value."""

    numbers: tuple | int

    def build(self):
        return torch.tensor(self.numbers, dtype=torch.int64)


def _laid_out(x, layout, seed):
    dims = list(range(x.dim()))
    if layout == "permuted" and dims:
        order = torch.randperm(x.dim(), generator=torch.Generator().manual_seed(seed)).tolist()
        inverse = sorted(dims, key=order.__getitem__)
        return x.permute(order).contiguous().permute(inverse)
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced" and dims:
        larger = x.new_empty([size + 1 + dim % 2 for dim, size in enumerate(x.shape)])
        part = larger[tuple(slice(1, 1 + size) for size in x.shape)]
        return part.copy_(x)
    if layout == "stepped" and dims:
        return x.new_empty([*x.shape[:-1], 2 * x.shape[-1]])[..., ::2].copy_(x)
    if layout == "expanded" and dims and x.numel():
        return x[(slice(0, 1),) * (1 + seed % x.dim())].expand(x.shape)
    if layout == "offset":
        return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)
    if layout == "flipped" and dims:
        return x.flip(seed % x.dim())
    return x


# ---------------------------------------------------------------- strategies


def sizes():
    return st.one_of(st.integers(0, 5), st.sampled_from(_WIDTHS))


@st.composite
def shapes(draw, least=0, most=5, elements=6000):
    """Of few elements in all, with at most one long dimension but where others are short."""
    shape = []
    for _ in range(draw(st.integers(least, most))):
        size = draw(sizes())
        shape.append(size if math.prod(shape) * size <= elements else draw(st.integers(1, 2)))
    return tuple(draw(st.permutations(shape)))


@st.composite
def specs(draw, shape, dtypes=DTYPES, values=VALUES):
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return Spec(
        tuple(shape),
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(values)),
        draw(st.integers(0, 99)),
    )


def seeds():
    return st.one_of(st.sampled_from(_EDGE_NUMBERS), st.integers(-(2**63), 2**63 - 1))


def states():
    offsets = st.one_of(st.sampled_from(_EDGE_OFFSETS), st.integers(0, 2**60).map(lambda n: 4 * n))
    return st.builds(lambda seed, offset: Ints((seed, offset)), seeds(), offsets)


def probabilities():
    return st.one_of(
        st.sampled_from((0.0, 1e-10, 2.0**-17, 2.0**-16, 0.1, 0.5, 1 - 2.0**-16, 1 - 1e-10, 1.0)),
        st.floats(0, 1),
    )


def shared(ndim):
    return st.lists(st.integers(0, ndim - 1), unique=True).map(tuple) if ndim else st.just(())
