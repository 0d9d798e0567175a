"""Embedding dropout: a module that calls `fused_dropout.functional.embedding_dropout`."""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import mode_repr

__all__ = ["EmbeddingDropout"]


class EmbeddingDropout(Leaf, nn.Module):
    """An embedding that drops whole words: a call drops all occurrences of a word or none.

    Parameter, initialisation, attributes and state-dict key (weight) are those of
    `torch.nn.Embedding`. It is not a subclass of `torch.nn.Embedding`, so tools that replace
    embeddings do not replace it. Their embeddings would not drop.

    `fused_dropout.functional.embedding_dropout` says when to use it.

    Shape: indices `(*)`; output `(*, embedding_dim)`.

    Equivalent PyTorch code, which needs a second table:

        mask = F.dropout(torch.ones(num_embeddings, 1), p, training)
        F.embedding(input, mask * weight)

    Source: see `fused_dropout.functional.embedding_dropout`.

    Args:
        num_embeddings: number of words.
        embedding_dim: size of an embedding.
        p: probability to drop a word, in steps of 2^-16.
        mode: "inverted" scales by `1 / (1 - p)` in training. "classic" scales by `1 - p` in
            evaluation instead.
        padding_idx: index of the padding word, as in `torch.nn.Embedding`.
        max_norm: largest norm of an embedding, as in `torch.nn.Embedding`. If it is given, each
            call changes the table in place. Threads must not call such a module at the same time.
        norm_type: the p of the p-norm for `max_norm`.
        scale_grad_by_freq: whether gradients are divided by the frequency of a word in the batch.
        sparse: whether the gradient of `weight` is a sparse tensor.
        device: device of the parameter.
        dtype: dtype of the parameter.
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
        """Creates a module from a table of embeddings, as `torch.nn.Embedding.from_pretrained`.

        Args:
            embeddings: table of shape (num_embeddings, embedding_dim).
            freeze: whether the table gets no gradient.
            **options: further arguments of the constructor.

        Returns:
            EmbeddingDropout: the module, whose parameter shares memory with `embeddings`.
        """
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
