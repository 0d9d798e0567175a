"""A module around :func:`fused_dropout.functional.embedding_dropout`."""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import mode_repr

__all__ = ["EmbeddingDropout"]


class EmbeddingDropout(Leaf, nn.Module):
    """An embedding that drops whole words: all occurrences of one in a call, or none.

    Parameter, initialisation, attributes and state-dict key (weight) are those of a
    ``torch.nn.Embedding``. It is no subclass of that class, so that tools which replace embeddings
    leave it alone: what they put in its place would not drop.

    Args:
        num_embeddings, embedding_dim: as in ``torch.nn.Embedding``.
        p: probability to drop a word, in steps of 2^-16.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.
        padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as in ``torch.nn.Embedding``.
            With ``max_norm`` each call changes the table in place, as in torch: threads must not
            call such a module at once.

    Shape: indices (*) to (*, embedding_dim).

    Equivalent: ``F.embedding(input, F.dropout(torch.ones(num_embeddings, 1), p, training) *
    weight)``, without the second table. When to use it, and its source: see
    :func:`fused_dropout.functional.embedding_dropout`.
    """

    is_dropout = True

    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        p=0.1,
        *,
        mode="inverted",
        padding_idx=None,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        name = type(self).__name__
        self.p = check_p(self, p)
        self.mode = check_mode(name, mode)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"{name}: padding_idx is {padding_idx}, but there are {num_embeddings} embeddings"
            )
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        shape = num_embeddings, embedding_dim
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    reset_parameters = nn.Embedding.reset_parameters
    _fill_padding_idx_with_zero = nn.Embedding._fill_padding_idx_with_zero

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, **options):
        """As ``torch.nn.Embedding.from_pretrained``; the options are those of the constructor."""
        if embeddings.dim() != 2:
            raise ValueError(
                f"{cls.__name__}: embeddings has {embeddings.dim()} dimensions, but expected 2"
            )
        module = cls(*embeddings.shape, device="meta", **options)
        module.weight = nn.Parameter(embeddings, requires_grad=not freeze)
        return module

    def forward(self, input):
        return FF.embedding_dropout(
            input,
            self.weight,
            self.p,
            self.training,
            padding_idx=self.padding_idx,
            max_norm=self.max_norm,
            norm_type=self.norm_type,
            scale_grad_by_freq=self.scale_grad_by_freq,
            sparse=self.sparse,
            mode=self.mode,
        )

    def extra_repr(self):
        return f"{nn.Embedding.extra_repr(self)}, p={self.p}{mode_repr(self.mode)}"
