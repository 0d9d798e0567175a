"""Stand-ins for torch's dropout functions: same signatures, no stored mask.

Redirected code (see ``redirect.py``) calls them instead of torch's functions.
"""

import torch
import torch.nn.functional as F

from fused_dropout import functional as FF
from fused_dropout.fusion.eligibility import is_supported_tensor
from fused_dropout.modules import dropout as layers


def dropout(input, p=0.5, training=True, inplace=False):
    if not training or not is_supported_tensor(input):
        return F.dropout(input, p, training, inplace)
    return FF.dropout(input, p, training, inplace)


def dropout1d(input, p=0.5, training=True, inplace=False):
    if not is_supported_tensor(input):
        return F.dropout1d(input, p, training, inplace)
    return layers._dropout1d(input, p, training, inplace, "inverted")


def dropout2d(input, p=0.5, training=True, inplace=False):
    if not is_supported_tensor(input):
        return F.dropout2d(input, p, training, inplace)
    return layers._dropout2d(input, p, training, inplace, "inverted")


def dropout3d(input, p=0.5, training=True, inplace=False):
    if not is_supported_tensor(input):
        return F.dropout3d(input, p, training, inplace)
    return layers._dropout3d(input, p, training, inplace, "inverted")


def alpha_dropout(input, p=0.5, training=False, inplace=False):
    if not is_supported_tensor(input):
        return F.alpha_dropout(input, p, training, inplace)
    return FF.dropout(input, p, training, inplace, mode="alpha")


def feature_alpha_dropout(input, p=0.5, training=False, inplace=False):
    if inplace or not is_supported_tensor(input):
        return F.feature_alpha_dropout(input, p, training, inplace)
    return layers._feature_alpha_dropout(input, p, training)


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    ours = dropout_p != 0 and all(map(is_supported_tensor, (query, key, value)))
    function = FF.scaled_dot_product_attention if ours else F.scaled_dot_product_attention
    return function(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def torch_dropout(input, p, train):
    """For ``torch.dropout``."""
    return dropout(input, p, train)


def torch_dropout_(input, p, train):
    """For ``torch.dropout_``."""
    return dropout(input, p, train, inplace=True)


def torch_alpha_dropout(input, p, train):
    """For ``torch.alpha_dropout``."""
    return alpha_dropout(input, p, train)


def torch_feature_dropout(input, p, train):
    """For ``torch.feature_dropout``, which drops channels of inputs of shape (N, C, ...)."""
    if not train or not is_supported_tensor(input) or input.dim() < 2:
        return torch.feature_dropout(input, p, train)
    return FF.dropout(input, p, train, shared_dims=tuple(range(2, input.dim())))


#: {function of torch: its stand-in}
STAND_INS = {
    F.dropout: dropout,
    F.dropout1d: dropout1d,
    F.dropout2d: dropout2d,
    F.dropout3d: dropout3d,
    F.alpha_dropout: alpha_dropout,
    F.feature_alpha_dropout: feature_alpha_dropout,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    torch.dropout: torch_dropout,
    torch.dropout_: torch_dropout_,
    torch.alpha_dropout: torch_alpha_dropout,
    torch.feature_dropout: torch_feature_dropout,
}


def function_name(function):
    """The name of a function of torch in reports, such as "F.dropout"."""
    name = function.__name__
    return f"F.{name}" if getattr(F, name, None) is function else f"torch.{name}"
