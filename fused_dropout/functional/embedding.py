"""Dropout of words."""

import functools

import torch
import torch.nn.functional as F

from fused_dropout.functional._arguments import (
    check_generator,
    check_kind,
    check_layout,
    check_mode,
    check_tensor,
    inverted_scale,
    is_zero,
    keep_probability,
    probability,
)
from fused_dropout.functional._call import check
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._shard_layout import has_no_elements
from fused_dropout.functional.pointwise import BIAS_ACT_DROPOUT, dropout

__all__ = ["embedding_dropout"]


def embedding_dropout(
    input,
    weight,
    p=0.1,
    training=True,
    *,
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    """An embedding that drops words: in one call either all occurrences of a word or none.

    Equivalent PyTorch code, where ``kept = dropout_mask((len(weight),), p, rng_state)`` and ``q``
    is the keep probability::

        torch.where(kept[input, None], F.embedding(input, weight) / q, 0)

    This is ``F.embedding(input, F.dropout(torch.ones(len(weight), 1), p) * weight)`` without the
    second table: the mask has one element for each row of the table.

    Args:
        input: indices of any shape; int64 or int32. Or a nested tensor of them.
        weight: the table, one row a word; float32, float64, float16 or bfloat16.
        p: probability to drop a word, in steps of 2^-16.
        training: if False, nothing is dropped (and classic mode multiplies by the keep
            probability).
        padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as in
            ``torch.nn.functional.embedding``. ``max_norm`` limits the rows of the table before
            they are scaled; ``scale_grad_by_freq`` counts all words of ``input``, dropped or not.
        mode: "inverted" or "classic".
        generator, rng_state: see `fused_dropout.functional.dropout`.

    Returns:
        Tensor: shape ``(*input.shape, weight.shape[1])``, in the dtype of ``weight``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given. Nothing has been computed, and no random number drawn.

    Source: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NeurIPS 2016, section 4.2; Merity, Keskar and Socher, "Regularizing and optimizing
    LSTM language models", ICLR 2018, section 4.3.
    """
    p = probability(p, "embedding_dropout")
    check_mode("embedding_dropout", mode)
    check_tensor("embedding_dropout", "input", input)
    check_tensor("embedding_dropout", "weight", weight)
    check_generator("embedding_dropout", generator)
    if weight.dim() != 2:
        raise ValueError(f"embedding_dropout: weight has {weight.dim()} dimensions, but expected 2")
    if input.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"embedding_dropout: input is {input.dtype}, but expected torch.int64 or torch.int32"
        )
    if input.is_nested:
        call = functools.partial(
            embedding_dropout,
            weight=weight,
            p=p,
            training=training,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            mode=mode,
            generator=generator,
            rng_state=rng_state,
        )
        return on_values("embedding_dropout", call, input, argument="input")
    check_layout("embedding_dropout", "input", input)
    drops = not is_zero(p) and (training or mode == "classic")
    if drops and not torch.compiler.is_compiling():
        # Before a state is drawn, and before max_norm changes the table.
        check_kind("embedding_dropout", "weight", weight)
        unused = None
        check(
            BIAS_ACT_DROPOUT,
            "embedding_dropout",
            (weight, unused, unused),
            (p, unused, "identity", unused, unused, -1, mode, True, (), unused, 0),
            rng_state,
            generator,
        )
    y = F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if not drops or has_no_elements(y):
        return y
    q = keep_probability(p)
    if not training and isinstance(q, torch.Tensor):
        return torch.where(q > 0, y * q, 0)
    if not training and q:
        return y * q
    # One factor for each word, from one pass over the vocabulary.
    kept = dropout(
        torch.ones(weight.shape[0], device=weight.device),
        p,
        mode="classic",
        generator=generator,
        rng_state=rng_state,
    )
    if mode == "inverted":
        y = y * inverted_scale(p)
    dropped = F.embedding(input, kept[:, None]) == 0
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return y.masked_fill(dropped, 0)  # under vmap one y may have many masks
    return y.masked_fill_(dropped, 0)
