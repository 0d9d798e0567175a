"""What every kernel must compute, in a few lines of plain torch.

The first half is the random-number contract, version 1: which elements a dropout call keeps, as a
function of `(seed, offset, element)` alone. The second half is dropout itself with the activations
that precede it. Nothing here calls the compiled extension, so the two can be checked against each
other.

An `rng_state` is `[seed, offset]`: an int64 tensor of shape (2,), or two Python ints. The offset is
a non-negative multiple of 4. Wherever nothing is drawn `rng_state` may be `None`.
"""

import math

import torch
import torch.nn.functional as F

MODES = ("inverted", "classic", "alpha")

# The least value of SELU, -scale * alpha (Klambauer et al. 2017, "Self-Normalizing Neural
# Networks", section 3, "New dropout technique").
ALPHA_PRIME = -1.7580993408473766

_WORD = 0xFFFFFFFF


# ---------------------------------------------------------------- the random-number contract


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
    shared = {_dimension(dim, len(shape)) for dim in shared_dims}
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
    j = torch.tensor(mask_offset, device=device)
    for dim, stride in enumerate(mask_strides(x, shared_dims)):
        steps = torch.arange(shape[dim], device=device) * stride
        j = j + steps.view(-1, *[1] * (len(shape) - 1 - dim))
    return j


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


# ---------------------------------------------------------------- the operation


ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "squared_relu": lambda x: F.relu(x).square(),
}


def activation(name, x, negative_slope=None, alpha=None):
    """The activation `name` of `x`, elementwise, in the dtype of `x`.

    `negative_slope` (0.01 unless given) is for leaky_relu and `alpha` (1 unless given) for elu; the
    others take no notice of them.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    if name == "leaky_relu" and negative_slope is not None:
        return F.leaky_relu(x, negative_slope)
    if name == "elu" and alpha is not None:
        return F.elu(x, alpha)
    return ACTIVATIONS[name](x)


_activation = activation  # bias_act_dropout has an argument of that name


def bias_act_dropout(
    x,
    bias,
    p,
    activation,
    rng_state,
    *,
    training=True,
    residual=None,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """`residual + drop(activation(x + bias))`, differentiable in `x`, `bias` and `residual`.

    In training `drop(v)` is `a * v + c` where kept and `d` where dropped, see `constants`. In
    evaluation it is `v`, in classic mode `v * keep_count(p) / 65536`. Where `keep_count(p)` is 0
    the classic evaluation too is zero, whatever `v`.

    `x` and `residual` have one shape; `bias` (or None) is as long as dimension `bias_dim`. The
    branch is computed in the dtype of `x` and at least float32, the sum in no less than that and
    the dtype of the residual. One rounding makes it `x.dtype`, or
    `torch.promote_types(x.dtype, residual.dtype)`.
    """
    v = _branch(
        x,
        bias,
        p,
        activation,
        rng_state,
        training,
        bias_dim,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        mask_offset,
    )
    if residual is None:
        return v.to(x.dtype)
    v = residual.to(torch.promote_types(v.dtype, residual.dtype)) + v
    return v.to(torch.promote_types(x.dtype, residual.dtype))


def _branch(
    x,
    bias,
    p,
    activation,
    rng_state,
    training,
    bias_dim,
    negative_slope,
    alpha,
    shared_dims,
    noise_shape,
    mode,
    mask_offset,
):
    """`drop(activation(x + bias))` in the dtype of `x` and at least float32."""
    if noise_shape is not None:
        if shared_dims:
            raise ValueError("shared_dims and noise_shape cannot both be given")
        shared_dims = shared_dims_from_noise_shape(x.shape, noise_shape)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        dim = _dimension(bias_dim, x.dim())
        if bias.shape != (x.shape[dim],):
            raise ValueError(
                f"bias has shape {tuple(bias.shape)}, but x has {x.shape[dim]} elements along "
                f"dimension {bias_dim}"
            )
        v = v + bias.to(v.dtype).view(-1, *[1] * (x.dim() - 1 - dim))
    keep = None
    if _masks(p, training, mode):
        keep = dropout_mask(
            x.shape, p, rng_state, like=x, shared_dims=shared_dims, mask_offset=mask_offset
        )
        # Selected before the activation too: the gradient of a dropped NaN or Inf is then 0 and
        # not 0 * NaN. Every activation has a finite derivative at 0.
        v = torch.where(keep, v, 0.0)
    return _drop(_activation(activation, v, negative_slope, alpha), keep, p, training, mode)


def _masks(p, training, mode):
    """Whether anything is dropped."""
    count = keep_count(p)
    return count < 65536 if training else mode == "classic" and count == 0


def _drop(v, keep, p, training, mode):
    """What becomes of a value; `keep` is None where nothing is dropped."""
    a, c, d = constants(p, mode)
    if keep is None:
        return v * (keep_count(p) / 65536) if mode == "classic" and not training else v
    v = a * v
    if mode == "alpha":  # adding a zero would turn a -0.0 into 0.0
        v = v + c
    return torch.where(keep, v, d)


def bias_glu_dropout(
    x,
    bias,
    p,
    activation,
    rng_state,
    *,
    training=True,
    gate_first=True,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    mode="inverted",
    mask_offset=0,
):
    """`drop(activation(x1 + b1) * (x2 + b2))` with `x = [x1 | x2]` along the last dimension.

    With `gate_first=False` the activation is applied to the second half. The mask is that of the
    result, whose dimensions lie in memory in the order of those of `x`.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"the last dimension of x has to be even, but is {x.shape[-1]}")
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        v = v + bias.to(v.dtype)
    gate, value = v.chunk(2, -1) if gate_first else reversed(v.chunk(2, -1))
    keep = None
    if _masks(p, training, mode):
        like = torch.empty_like(x).chunk(2, -1)[0]
        keep = dropout_mask(
            like.shape, p, rng_state, like=like, shared_dims=shared_dims, mask_offset=mask_offset
        )
        gate, value = torch.where(keep, gate, 0.0), torch.where(keep, value, 0.0)
    v = _activation(activation, gate, negative_slope, alpha) * value
    return _drop(v, keep, p, training, mode).to(x.dtype)


def dropout_add_norm(
    x,
    residual,
    weight,
    norm_bias,
    p,
    rng_state,
    *,
    norm="layer_norm",
    bias=None,
    eps=1e-5,
    activation="identity",
    prenorm=False,
    training=True,
    row_scale=None,
    layer_scale=None,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """`h = residual + row_scale * layer_scale * branch`, normalised over the last dimension.

    The branch is `drop(activation(x + bias))`. `norm` is "layer_norm" or "rms_norm". Returns `y`,
    or with `prenorm` `(y, h)`. The dtype of `h` is that of `x` and `residual` promoted, that of `y`
    is `x.dtype` with `prenorm` and else that of `h`. With `prenorm` the rounded `h` is normalised,
    else nothing is rounded in between.
    """
    h = _branch(
        x,
        bias,
        p,
        activation,
        rng_state,
        training,
        -1,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        mask_offset,
    )
    if layer_scale is not None:
        h = h * layer_scale.to(h.dtype)
    if row_scale is not None:
        h = h * row_scale.to(h.dtype)[..., None]
    h_dtype = x.dtype
    if residual is not None:
        h = residual.to(torch.promote_types(h.dtype, residual.dtype)) + h
        h_dtype = torch.promote_types(x.dtype, residual.dtype)
    if prenorm:
        h = h.to(h_dtype).to(h.dtype)
    centered = h - h.mean(-1, keepdim=True) if norm == "layer_norm" else h
    y = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    if weight is not None:
        y = y * weight.to(y.dtype)
    if norm_bias is not None:
        y = y + norm_bias.to(y.dtype)
    return (y.to(x.dtype), h.to(h_dtype)) if prenorm else y.to(h_dtype)


def dropout(
    x,
    p,
    rng_state,
    *,
    training=True,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """Dropout alone: `bias_act_dropout` without bias, activation and residual."""
    return bias_act_dropout(
        x,
        None,
        p,
        "identity",
        rng_state,
        training=training,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        mask_offset=mask_offset,
    )


def _dimension(dim, rank):
    if not -rank <= dim < rank:
        raise IndexError(f"dimension {dim} is out of range for a tensor of rank {rank}")
    return dim % rank


# ---------------------------------------------------------------- words and weights


def embedding_dropout(input, weight, p, rng_state, *, training=True, mode="inverted"):
    """`weight[input]` without the words that are dropped: one decision for each row of `weight`.

    The decision about word `i` is that about element `i` of a vector as long as the vocabulary.
    """
    v = weight[input].to(torch.promote_types(weight.dtype, torch.float32))
    keep = None
    if _masks(p, training, mode):
        keep = dropout_mask((len(weight),), p, rng_state)[input][..., None]
        v = torch.where(keep, v, 0.0)
    return _drop(v, keep, p, training, mode).to(weight.dtype)


def drop_connect_moments(x, weight, bias, p, mode="inverted"):
    """Mean and variance over all masks of `dropout(weight) @ x + bias`, for each example.

    The terms of the sum are independent: each has the mean of its factor of 0 or `a` and, as the
    variance, `q * (1 - q) * (a * weight * x) ** 2`.
    """
    q = keep_count(p) / 65536
    a, _, _ = constants(p, mode)
    terms = a * weight * x[..., None, :]
    mean = q * terms.sum(-1)
    return mean if bias is None else mean + bias, q * (1 - q) * terms.square().sum(-1)


# ---------------------------------------------------------------- DropBlock


def _clamped_blocks(sizes, block_size):
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size has to be odd and at least 1, but got {block_size}")
    return [min(size, block_size) for size in sizes]


def drop_block_keep_count(sizes, p, block_size):
    """How many of the 65536 values of a draw leave a place without a seed.

    `gamma = p * prod(sizes) / prod(k * (size - k + 1))` takes the place of `p`, where `k` is the
    block size, clamped to each of the `sizes` of the spatial dimensions. Source: Ghiasi, Lin and
    Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018, equation 1.
    """
    blocks = _clamped_blocks(sizes, block_size)
    pairs = zip(sizes, blocks, strict=True)
    return keep_count(p * math.prod(sizes) / math.prod(k * (size - k + 1) for size, k in pairs))


def drop_block_mask(x, p, block_size, rng_state, *, shared_channels=False):
    """Which elements of `x` (N, C, spatial...) are kept: bool, of its shape.

    There is a place for a seed wherever a whole block fits. The index of a place is row-major over
    the dimensions of `x` in memory order, without the channels where they share. It is a seed
    unless its draw is below `drop_block_keep_count`; a block begins at each seed.
    """
    sizes = x.shape[2:]
    blocks = _clamped_blocks(sizes, block_size)
    grid = [*x.shape[:2], *(size - k + 1 for size, k in zip(sizes, blocks, strict=True))]
    if shared_channels:
        grid[1] = 1
    j, step = torch.zeros((), dtype=torch.int64, device=x.device), 1
    for dim in reversed(memory_order(x)):
        steps = torch.arange(grid[dim], device=x.device) * step
        j = j + steps.view(-1, *[1] * (len(grid) - 1 - dim))
        step *= grid[dim]
    seeds = draws(j, rng_state) >= drop_block_keep_count(sizes, p, block_size)
    kept = torch.ones(grid[0], grid[1], *sizes, dtype=torch.bool, device=x.device)
    for batch, channel, *place in seeds.nonzero().tolist():
        block = [slice(first, first + k) for first, k in zip(place, blocks, strict=True)]
        kept[(batch, channel, *block)] = False
    return kept.expand(x.shape)


def drop_block_rate(sizes, p, block_size):
    """The mean of `1 - (1 - gamma) ** n` over a map, where `n` blocks can hold a place."""
    holding = torch.ones((), dtype=torch.float64)
    for size, k in zip(sizes, _clamped_blocks(sizes, block_size), strict=True):
        first = torch.arange(size - k + 1).unsqueeze(1)
        place = torch.arange(size)
        holding = holding.unsqueeze(-1) * ((first <= place) & (place < first + k)).sum(0)
    no_seed = drop_block_keep_count(sizes, p, block_size) / 65536
    return float((1 - no_seed**holding).mean())


def drop_block(
    x, p, block_size, rng_state, *, training=True, shared_channels=False, mode="inverted"
):
    """Zeros in blocks, differentiable in `x`.

    In training, inverted mode scales by the share of elements of `x` that are kept; in evaluation,
    classic mode multiplies by the expected share.
    """
    if not training:
        return x * (1 - drop_block_rate(x.shape[2:], p, block_size)) if mode == "classic" else x
    kept = drop_block_mask(x, p, block_size, rng_state, shared_channels=shared_channels)
    count = int(kept.sum())
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if mode == "inverted":
        v = v * (x.numel() / count if count else 0.0)
    return torch.where(kept, v, 0.0).to(x.dtype)


# ---------------------------------------------------------------- noise


def gaussian_dropout(x, p, rng_state, *, shared_dims=(), mask_offset=0):
    """`x * (1 + sigma * z)`, `sigma = sqrt(p / (1 - p))`, `z` standard normal: see `normal`."""
    j = mask_index(x, shared_dims, mask_offset)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    return (v * (1 + math.sqrt(p / (1 - p)) * normal(j, rng_state).to(v.dtype))).to(x.dtype)


def concrete_dropout(x, logit, temperature, rng_state, *, shared_dims=(), mask_offset=0):
    """`x * (1 - d) / (1 - p)`, `d = sigmoid((logit + log(u / (1 - u))) / temperature)`.

    Differentiable in `x` and `logit`, the logit of `p`.
    """
    j = mask_index(x, shared_dims, mask_offset)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    logit = logit.to(v.dtype).reshape(())
    u = uniform(j, rng_state)
    d = torch.sigmoid((logit + (u.log() - (-u).log1p()).to(v.dtype)) / temperature)
    return (v * (1 - d) / (1 - torch.sigmoid(logit))).to(x.dtype)


def standout_threshold(z, alpha=1.0, beta=0.0):
    """Of the 65536 values of a draw, how many keep a unit, before rounding to an integer."""
    return 65536 * torch.sigmoid(alpha * z.detach().double() + beta)


def standout(x, z, alpha, beta, rng_state=None, *, training=True, shared_dims=(), mask_offset=0):
    """`x` where `draw < rint(65536 * q)`, else 0; in evaluation `x * q`.

    `q = sigmoid(alpha * z + beta)`. In training only `x` has a gradient, as the mask is a constant.
    Kernels compute the threshold in fp32: its distance from this one is at most 1, and 0 unless the
    number before rounding is within 0.01 of half an integer.
    """
    if not training:
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) * torch.sigmoid(alpha * z.to(wide) + beta)).to(x.dtype)
    draw = draws(mask_index(x, shared_dims, mask_offset), rng_state)
    return torch.where(draw < standout_threshold(z, alpha, beta).round(), x, 0.0)
