"""The random-number contract, version 1.

Which elements a dropout call keeps, as a function of `(seed, offset, element)` alone.
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

# The least value of SELU, -scale * alpha (Klambauer et al. 2017, "Self-Normalizing Neural
# Networks", section 3, "New dropout technique").
ALPHA_PRIME = -1.7580993408473766

_WORD = 0xFFFFFFFF


def dimension(dim, rank):
    if not -rank <= dim < rank:
        raise IndexError(f"dimension {dim} is out of range for a tensor of rank {rank}")
    return dim % rank


def philox4x32_10(key, counter):
    """Philox4x32 with 10 rounds: 2 key words and 4 counter words to 4 random words.

    A word is an int in [0, 2**32), or an int64 tensor of such; tensors broadcast. Source: Salmon,
    Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Random123).
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        # In int64 a product wraps. Its 64 bits are right all the same, and the mask after the
        # arithmetic shift removes the copies of the sign.
        product0, product2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (product2 >> 32 & _WORD) ^ c1 ^ k0, product2 & _WORD
        c2, c3 = (product0 >> 32 & _WORD) ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def _words(group, rng_state):
    """The four words of each group: int64 `group` of any shape to int64 of shape (*group, 4)."""
    seed, offset = (int(value) for value in rng_state)
    if offset < 0 or offset % 4:
        raise ValueError(f"rng_state: the offset must be a multiple of 4 from 0, but is {offset}")
    block = offset // 4
    key = (seed & _WORD, seed >> 32 & _WORD)
    counter = (block & _WORD, block >> 32 & _WORD, group & _WORD, group >> 32 & _WORD)
    return torch.stack(philox4x32_10(key, counter), -1)


def _pick(words, lanes, j, rng_state):
    """Element `j` of the sequence in which group `g` holds elements `lanes * g` and on.

    `words` maps groups of shape (n,) to values of shape (n, lanes). The draws of a group are often
    wanted together, and then it is computed once.
    """
    groups, position = torch.unique_consecutive(j // lanes, return_inverse=True)
    return words(groups, rng_state).flatten()[position * lanes + j % lanes]


def _eight_draws(group, rng_state):
    words = _words(group, rng_state)
    return torch.stack((words & 0xFFFF, words >> 16), -1).flatten(-2)


def draws(j, rng_state):
    """The 16-bit draw that decides each mask index: int64 `j` >= 0 to int64 in [0, 65536).

    Index `j` takes lane `j % 8` of group `j // 8`. The lanes are the halves of the four words, in
    order, low half first. Same shape and device as `j`.
    """
    return _pick(_eight_draws, 8, j, rng_state)


def keep_count(p):
    """How many of the 65536 values of a draw keep an element: `p` acts in steps of 2**-16.

    In double precision, ties to even. An element is kept iff `draw < keep_count(p)`.
    """
    p = float(p)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return round((1 - p) * 65536)


def scale(p):
    """What a kept element is multiplied by in inverted mode; 0.0 where nothing is kept."""
    count = keep_count(p)
    return 65536 / count if count else 0.0


def constants(p, mode="inverted"):
    """`(a, c, d)` of training: a kept value `v` becomes `a * v + c`, a dropped one `d`.

    Every constant is made from the probability that is really applied, `keep_count(p) / 65536`,
    not from `1 - p`: this is what makes `E[y] = x` exact. Where nothing is kept all are 0.
    """
    if mode not in MODES:
        raise ValueError(f"mode has to be one of {', '.join(MODES)}, but got {mode!r}")
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


# ---------------------------------------------------------------- which index an element has


def memory_order(x):
    """The dimensions of `x` by descending stride, ties in dimension order: a tuple of ints.

    A tensor that is not dense is taken as `torch.empty_like` would lay it out.
    """
    strides = torch.empty_like(x, device="meta").stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: -strides[dim]))


def mask_strides(x, shared_dims=()):
    """How much the mask index grows along each dimension of `x`, 0 along the shared ones.

    The index is row-major over `memory_order(x)` with the shared dimensions left out. `x` is a
    tensor, or the shape of a contiguous one. Returns a tuple of `x.dim()` ints.
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
    """The mask index `j` of every element of `x`: int64, in the logical shape of `x`.

    `x` is a tensor, or the shape of a contiguous one. `mask_offset` is the index of its first
    element, for a tensor that is a part of a larger one.
    """
    if mask_offset < 0:
        raise ValueError(f"mask_offset must not be negative, but got {mask_offset}")
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
    """The mask index of every element of a part of a tensor: int64, in the part's shape.

    It is `mask_index(whole)[offsets[0] : offsets[0] + shape[0], ...]` for a whole that need not
    exist. `order` names its dimensions as they lie in memory, outermost first; by default it is
    contiguous.
    """
    for start, size, total in zip(offsets, shape, whole, strict=True):
        if start < 0 or start + size > total:
            raise ValueError(f"{tuple(shape)} from {tuple(offsets)} is not in {tuple(whole)}")
    strides = _strides_in(range(len(whole)) if order is None else order, whole, shared_dims)
    first = sum(start * stride for start, stride in zip(offsets, strides, strict=True))
    return _index(shape, strides, first, device)


def shared_dims_from_noise_shape(shape, noise_shape):
    """The `shared_dims` that the Keras spelling means: a tuple of dimensions.

    `noise_shape` has one entry for each dimension: 1 shares one decision along it, `None` or the
    size of the dimension does not.
    """
    shape, noise_shape = tuple(shape), tuple(noise_shape)
    if len(noise_shape) != len(shape) or any(
        noise not in (None, 1, size) for noise, size in zip(noise_shape, shape, strict=True)
    ):
        raise ValueError(
            f"noise_shape must hold 1, None or the size for each dimension of {shape}, "
            f"but got {noise_shape}"
        )
    pairs = zip(noise_shape, shape, strict=True)
    return tuple(dim for dim, (noise, size) in enumerate(pairs) if noise == 1 and size != 1)


def dropout_mask(shape, p, rng_state, *, like=None, shared_dims=(), mask_offset=0):
    """Which elements are kept: bool, True = kept, of the given shape.

    `like` is a tensor of this shape whose layout counts; without it the layout is contiguous.
    The result is on the device of `like`, else on that of `rng_state`.
    """
    shape = tuple(shape)
    if like is not None and like.shape != shape:
        raise ValueError(f"dropout_mask: like has shape {tuple(like.shape)}, expected {shape}")
    device = getattr(rng_state, "device", None) if like is None else like.device
    index = mask_index(shape if like is None else like, shared_dims, mask_offset, device=device)
    count = keep_count(p)
    if count in (0, 65536):  # the same as below, without a need for a state
        return torch.full(shape, count > 0, device=device)
    return draws(index, rng_state) < count


# ---------------------------------------------------------------- continuous draws


def uniform(j, rng_state, dtype=torch.float64):
    """A uniform draw for each index `j`, of its shape: word `j % 4` of group `j // 4`.

    `u = ((word >> 8) + 0.5) * 2**-24` lies in [2**-25, 1 - 2**-25] and is exact in float64. Rounded
    to float32 the largest value becomes 1.0, with probability 2**-24.
    """
    word = _pick(_words, 4, j, rng_state)
    return (((word >> 8).double() + 0.5) * 2.0**-24).to(dtype)


def normal(j, rng_state, dtype=torch.float64):
    """A standard normal draw for each index `j`, of its shape.

    Box and Muller (1958) on the uniforms of `j` and its neighbour: indices `2k` and `2k + 1` are
    the cosine and the sine at radius `sqrt(-2 ln u(2k))` and angle `2 pi u(2k + 1)`.
    """
    first = j - j % 2
    radius = (-2 * uniform(first, rng_state, dtype).log()).sqrt()
    angle = 2 * math.pi * uniform(first + 1, rng_state, dtype)
    return radius * torch.where(j == first, angle.cos(), angle.sin())
