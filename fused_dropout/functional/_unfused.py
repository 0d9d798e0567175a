"""The operators as chains of torch's functions, with torch's masks, for devices without kernels.

Each function takes the tensors and the options of its operator, and the dimensions that share a
draw. Where it is possible, the mask is made and applied by ``torch.nn.functional.dropout``.
"""

import math

import torch
import torch.nn.functional as F

from fused_dropout.functional._arguments import inverted_scale, keep_probability
from fused_dropout.reference.activations import activation as activate
from fused_dropout.reference.contract import ALPHA_PRIME, constants


def bias_act_dropout(tensors, options, shared_dims):
    x, bias, residual = tensors
    p, p_tensor, activation, negative_slope, alpha, bias_dim, mode, training = options
    y = activate(activation, _add_bias(x, bias, bias_dim), negative_slope, alpha)
    y = _drop(y, p, p_tensor, mode, training, shared_dims)
    return y if residual is None else residual + y


def dropout_(tensors, options, shared_dims):
    (x,) = tensors
    p, p_tensor, mode, training = options
    if mode == "inverted" and training and p_tensor is None and not shared_dims:
        F.dropout(x, p, inplace=True)
    else:
        x.copy_(_drop(x, p, p_tensor, mode, training, shared_dims))


def bias_glu_dropout(tensors, options, shared_dims):
    x, bias = tensors
    gate_first, p, p_tensor, activation, negative_slope, alpha, mode, training = options
    first, second = _add_bias(x, bias, -1).chunk(2, -1)
    gate, value = (first, second) if gate_first else (second, first)
    y = activate(activation, gate, negative_slope, alpha) * value
    return _drop(y, p, p_tensor, mode, training, shared_dims)


def dropout_add_norm(tensors, options, shared_dims):
    """Returns ``y, h``."""
    x, residual, bias, row_scale, layer_scale, weight, norm_bias = tensors
    kind, eps, prenorm, *branch_options = options
    p, p_tensor, activation, negative_slope, alpha, mode, training = branch_options
    h = bias_act_dropout(
        (x, bias, None),
        (p, p_tensor, activation, negative_slope, alpha, -1, mode, training),
        shared_dims,
    )
    if layer_scale is not None:
        h = h * layer_scale.to(h.dtype)
    if row_scale is not None:
        h = h * row_scale.to(h.dtype).unsqueeze(-1)
    if residual is not None:
        h = residual + h
    weight, norm_bias = (v if v is None else v.to(h.dtype) for v in (weight, norm_bias))
    if kind == "layer_norm":
        y = F.layer_norm(h, h.shape[-1:], weight, norm_bias, eps)
    else:
        y = F.rms_norm(h, h.shape[-1:], weight, eps)
    return y.to(x.dtype if prenorm else h.dtype), h


def gaussian_dropout(tensors, options, shared_dims):
    (x,) = tensors
    p, p_tensor = options
    p = p if p_tensor is None else p_tensor
    normal = torch.randn(_sizes(x, shared_dims), dtype=x.dtype, device=x.device)
    return x * (1 + (p / (1 - p)) ** 0.5 * normal)


def concrete_dropout(tensors, options, shared_dims):
    x, logit = tensors
    (temperature,) = options
    dtype = torch.promote_types(x.dtype, torch.float32)
    logit = logit.to(dtype).reshape(())
    u = torch.rand(_sizes(x, shared_dims), dtype=dtype, device=x.device)
    kept = torch.sigmoid((logit + torch.logit(u, eps=2**-25)) / -temperature)
    most = 709.0 if dtype == torch.float64 else 88.0  # the exponential is finite
    return (x * (kept * (1 + logit.clamp_max(most).exp()))).to(x.dtype)


def standout(tensors, options, shared_dims):
    x, z = tensors
    alpha, beta, training = options
    q = torch.sigmoid(alpha * z.to(x.dtype) + beta)
    if not training:
        return x * q
    return x.masked_fill(_uniform(x, shared_dims) >= q.detach(), 0)


def drop_block(tensors, options, _):
    (x,) = tensors
    *_, p, p_tensor, block_size, shared_channels, mode, training = options
    if not training:  # a product with a number
        return torch.ops.fused_dropout.drop_block(x, None, *options)
    blocks = [min(size, block_size) for size in x.shape[2:]]
    seeds = [size - block + 1 for size, block in zip(x.shape[2:], blocks, strict=True)]
    gamma = math.prod(x.shape[2:]) / math.prod(blocks) / math.prod(seeds)
    gamma = gamma * (p if p_tensor is None else p_tensor)
    grid = x.new_empty((x.shape[0], 1 if shared_channels else x.shape[1], *seeds))
    is_seed = _uniform(grid, ()) < 1 - keep_probability(gamma)
    around = [block - 1 for block in reversed(blocks) for _ in range(2)]
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(blocks) - 1]
    dropped = pool(F.pad(is_seed.float(), around), blocks, stride=1) > 0
    if mode == "inverted":
        x = x * (dropped.numel() / (dropped.numel() - dropped.sum()).clamp_min(1))
    return x.masked_fill(dropped, 0)


def _add_bias(x, bias, dim):
    if bias is None:
        return x
    sizes = [1] * x.dim()
    sizes[dim] = -1
    return x + bias.to(x.dtype).view(sizes)


def _drop(value, p, p_tensor, mode, training, shared_dims):
    p = p if p_tensor is None else p_tensor
    if not training:
        return value * keep_probability(p) if mode == "classic" else value
    if mode == "inverted" and p_tensor is None:
        if not shared_dims:
            return F.dropout(value, p)
        return value * F.dropout(value.new_ones(_sizes(value, shared_dims)), p)
    scale, shift, fill = _constants(p, p_tensor, mode)
    dropped = _uniform(value, shared_dims) >= keep_probability(p)
    if mode == "alpha":
        value = value * scale + shift
    elif mode == "inverted":
        value = value * scale
    return value.masked_fill(dropped, fill)


def _constants(p, p_tensor, mode):
    """Scale and shift of a kept value, and the value of a dropped element."""
    if p_tensor is None:
        return constants(p, mode)
    if mode != "alpha":
        return inverted_scale(p), 0.0, 0.0
    q = keep_probability(p)
    scale = torch.where(q > 0, (q * (1 + (1 - q) * ALPHA_PRIME**2)) ** -0.5, 0)
    shift = -scale * ALPHA_PRIME * (1 - q)
    return scale, shift, scale * ALPHA_PRIME + shift


def _uniform(x, shared_dims):
    return torch.rand(_sizes(x, shared_dims), dtype=torch.float32, device=x.device)


def _sizes(x, shared_dims):
    """The sizes of a mask."""
    sizes = list(x.shape)
    for dim in shared_dims:
        sizes[dim] = 1
    return sizes
