"""The random-number contract, version 1.

It defines which elements a dropout call keeps, as a function of seed, offset and the index of an
element.
"""

import math

import torch

__all__ = [
    "ALPHA_PRIME",
    "MODES",
    "constants",
    "draws",
    "dropout_mask",
    "keep_count",
    "mask_index",
    "mask_strides",
    "memory_order",
    "normal",
    "philox4x32_10",
    "scale",
    "shard_index",
    "shared_dims_from_noise_shape",
    "uniform",
]

MODES = ("inverted", "classic", "alpha")

# The infimum of SELU, -scale * alpha (Klambauer et al. 2017, "Self-Normalizing Neural Networks",
# section 3, "New dropout technique").
ALPHA_PRIME = -1.7580993408473766

_WORD = 0xFFFFFFFF


def dimension(dim, rank):
    if not -rank <= dim < rank:
        raise IndexError(f"dimension {dim} is out of range for a tensor of rank {rank}")
    return dim % rank


def philox4x32_10(key, counter):
    """Computes 4 random words from 2 key words and 4 counter words: Philox4x32 with 10 rounds.

    A word is an int in [0, 2**32), or an int64 tensor of such numbers. Tensors broadcast.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011
    (Random123).
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        # An int64 product overflows, but its 64 bits are still correct. The mask after the
        # arithmetic shift removes the copies of the sign bit.
        product0, product2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (product2 >> 32 & _WORD) ^ c1 ^ k0, product2 & _WORD
        c2, c3 = (product0 >> 32 & _WORD) ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def _words(group, rng_state):
    """Returns the four words of each group: int64 `group` of any shape to int64 (*group, 4)."""
    seed, offset = (int(value) for value in rng_state)
    if offset < 0 or offset % 4:
        raise ValueError(
            f"rng_state: the offset is {offset}, but expected a non-negative multiple of 4"
        )
    step = offset // 4
    key = (seed & _WORD, seed >> 32 & _WORD)
    counter = (step & _WORD, step >> 32 & _WORD, group & _WORD, group >> 32 & _WORD)
    return torch.stack(philox4x32_10(key, counter), -1)


def _pick(values_of, slots, j, rng_state):
    """Returns the value of each index `j`: slot `j % slots` of group `j // slots`.

    `values_of` maps groups of shape (n,) to values of shape (n, slots). Consecutive indices of one
    group compute it once.
    """
    groups, position = torch.unique_consecutive(j // slots, return_inverse=True)
    return values_of(groups, rng_state).flatten()[position * slots + j % slots]


def _eight_draws(group, rng_state):
    words = _words(group, rng_state)
    return torch.stack((words & 0xFFFF, words >> 16), -1).flatten(-2)


def draws(j, rng_state):
    """Returns the 16-bit draw of each mask index: int64 `j` >= 0 to int64 in [0, 65536).

    Index `j` uses slot `j % 8` of group `j // 8`. The slots of a group are the halves of its four
    words, in order, low half first. The result has the shape and device of `j`.
    """
    return _pick(_eight_draws, 8, j, rng_state)


def keep_count(p):
    """Returns how many of the 65536 values of a draw keep an element.

    An element is kept if and only if `draw < keep_count(p)`, so `p` acts in steps of 2**-16. The
    count is computed in double precision and rounded to the nearest integer, ties to even.
    """
    p = float(p)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return round((1 - p) * 65536)


def scale(p):
    """Returns the factor of kept elements in inverted mode, 0.0 if `keep_count(p)` is 0."""
    count = keep_count(p)
    return 65536 / count if count else 0.0


def constants(p, mode="inverted"):
    """Returns `(a, c, d)` of training: a kept value `v` becomes `a * v + c`, a dropped one `d`.

    The constants are computed from the probability that is really applied, `keep_count(p) / 65536`,
    and not from `1 - p`. So `E[y] = x` is exact. If `keep_count(p)` is 0, all three are 0.
    """
    if mode not in MODES:
        raise ValueError(f"constants: mode is {mode!r}, but expected one of {', '.join(MODES)}")
    q = keep_count(p) / 65536
    if q == 0:
        return 0.0, 0.0, 0.0
    if mode == "inverted":
        return scale(p), 0.0, 0.0
    if mode == "classic":
        return 1.0, 0.0, 0.0
    a = (q * (1 + (1 - q) * ALPHA_PRIME**2)) ** -0.5
    c = -a * ALPHA_PRIME * (1 - q)
    return a, c, a * ALPHA_PRIME + c


# ---------------------------------------------------------------- the index of an element


def memory_order(x):
    """Returns the dimensions of `x` by descending stride, ties in dimension order: a tuple of ints.

    The strides of a tensor that is not dense are those of `torch.empty_like`.
    """
    strides = torch.empty_like(x, device="meta").stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: -strides[dim]))


def mask_strides(x, shared_dims=()):
    """Returns the stride of the mask index along each dimension of `x`, 0 along shared dimensions.

    The index is row-major over `memory_order(x)`, without the shared dimensions. `x` is a tensor,
    or the shape of a contiguous one. The result is a tuple of `x.dim()` ints.
    """
    if isinstance(x, torch.Tensor):
        shape, order = x.shape, memory_order(x)
    else:
        shape, order = tuple(x), range(len(x))
    return _strides_in(order, shape, shared_dims)


def _strides_in(order, shape, shared_dims):
    shared = {dimension(dim, len(shape)) for dim in shared_dims}
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        if dim not in shared:
            strides[dim] = step
            step *= shape[dim]
    return tuple(strides)


def mask_index(x, shared_dims=(), mask_offset=0, *, device=None):
    """Returns the mask index `j` of every element of `x`: int64, in the logical shape of `x`.

    `x` is a tensor, or the shape of a contiguous one. `mask_offset` is the index of its first
    element, for a tensor that is part of a larger one.
    """
    if mask_offset < 0:
        raise ValueError(
            f"mask_index: mask_offset is {mask_offset}, but expected a non-negative integer"
        )
    if isinstance(x, torch.Tensor):
        shape, device = x.shape, device or x.device
    else:
        shape = tuple(x)
    return _index(shape, mask_strides(x, shared_dims), mask_offset, device)


def _index(shape, strides, first, device):
    j = torch.tensor(first, device=device)
    for dim, stride in enumerate(strides):
        steps = torch.arange(shape[dim], device=device) * stride
        j = j + steps.view(-1, *[1] * (len(shape) - 1 - dim))
    return j


def shard_index(shape, whole, offsets, shared_dims=(), *, order=None, device=None):
    """Returns the mask index of every element of a shard: int64, of the given shape.

    It equals `mask_index(full)[offsets[0] : offsets[0] + shape[0], ...]` for a global tensor `full`
    with the shape `whole`, which does not have to exist. `order` lists the dimensions of the global
    tensor in memory order, outermost first. By default it is contiguous.
    """
    for start, size, total in zip(offsets, shape, whole, strict=True):
        if start < 0 or start + size > total:
            raise ValueError(
                f"shard_index: a shard of shape {tuple(shape)} at offsets {tuple(offsets)} does "
                f"not fit into a global tensor of shape {tuple(whole)}"
            )
    strides = _strides_in(range(len(whole)) if order is None else order, whole, shared_dims)
    first = sum(start * stride for start, stride in zip(offsets, strides, strict=True))
    return _index(shape, strides, first, device)


def shared_dims_from_noise_shape(shape, noise_shape):
    """Converts `noise_shape`, the notation of Keras, to `shared_dims`: a tuple of dimensions.

    `noise_shape` has one entry for each dimension. 1 means that all elements along the dimension
    are kept or dropped together. `None` or the size of the dimension means that they are not.
    """
    shape, noise_shape = tuple(shape), tuple(noise_shape)
    if len(noise_shape) != len(shape) or any(
        noise not in (None, 1, size) for noise, size in zip(noise_shape, shape, strict=True)
    ):
        raise ValueError(
            f"noise_shape is {noise_shape}, but expected 1, None or the size for each dimension "
            f"of {shape}"
        )
    pairs = zip(noise_shape, shape, strict=True)
    return tuple(dim for dim, (noise, size) in enumerate(pairs) if noise == 1 and size != 1)


def dropout_mask(shape, p, rng_state, *, like=None, shared_dims=(), mask_offset=0):
    """Returns the mask, bool of the given shape: True where an element is kept.

    `like` is a tensor of this shape with the memory layout to use. By default the layout is
    contiguous. The result is on the device of `like`, or of `rng_state` if `like` is None.
    """
    shape = tuple(shape)
    if like is not None and like.shape != shape:
        raise ValueError(f"dropout_mask: like has shape {tuple(like.shape)}, but expected {shape}")
    device = getattr(rng_state, "device", None) if like is None else like.device
    index = mask_index(shape if like is None else like, shared_dims, mask_offset, device=device)
    count = keep_count(p)
    if count in (0, 65536):  # the mask is constant, and no state is needed
        return torch.full(shape, count > 0, device=device)
    return draws(index, rng_state) < count


# ---------------------------------------------------------------- continuous draws


def uniform(j, rng_state, dtype=torch.float64):
    """Returns a uniform draw for each index `j`, from word `j % 4` of group `j // 4`.

    `u = ((word >> 8) + 0.5) * 2**-24` is in [2**-25, 1 - 2**-25] and exact in float64. In float32
    the largest value is rounded to 1.0, which has probability 2**-24.
    """
    word = _pick(_words, 4, j, rng_state)
    return (((word >> 8).double() + 0.5) * 2.0**-24).to(dtype)


def normal(j, rng_state, dtype=torch.float64):
    """Returns a standard normal draw for each index `j`, by the Box-Muller transform.

    With the uniform draws `u`, radius `sqrt(-2 ln u(2k))` and angle `2 pi u(2k + 1)`, index `2k`
    gets the radius times the cosine of the angle, and index `2k + 1` the radius times the sine.

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    first = j - j % 2
    radius = (-2 * uniform(first, rng_state, dtype).log()).sqrt()
    angle = 2 * math.pi * uniform(first + 1, rng_state, dtype)
    return radius * torch.where(j == first, angle.cos(), angle.sin())
