"""A module around :func:`fused_dropout.functional.embedding_dropout`."""

from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._options import mode_repr


class EmbeddingDropout(nn.Embedding):
    """An embedding that drops whole words: all occurrences of one in a call, or none.

    A ``torch.nn.Embedding`` with its parameter, initialisation and state-dict key (weight).

    Args:
        num_embeddings, embedding_dim: as in ``torch.nn.Embedding``.
        p: probability to drop a word, in steps of 2^-16.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.
        options: the other arguments of ``torch.nn.Embedding``, by name: ``padding_idx``,
            ``max_norm``, ``norm_type``, ``scale_grad_by_freq``, ``sparse``, ``device``, ``dtype``.
            With ``max_norm`` each call changes the table in place, as in torch: threads must not
            call such a module at once.

    Shape: indices (*) to (*, embedding_dim).

    Equivalent: ``F.embedding(input, F.dropout(torch.ones(num_embeddings, 1), p, training) *
    weight)``, without the second table. When to use it, and its source: see
    :func:`fused_dropout.functional.embedding_dropout`.
    """

    is_dropout = True

    def __init__(self, num_embeddings, embedding_dim, p=0.1, *, mode="inverted", **options):
        check_p(p)
        check_mode(type(self).__name__, mode)
        super().__init__(num_embeddings, embedding_dim, **options)
        self.p = p
        self.mode = mode

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, *, p=0.1, mode="inverted", **options):
        """As ``torch.nn.Embedding.from_pretrained``, with ``p`` and ``mode``."""
        module = super().from_pretrained(embeddings, freeze, **options)
        module.p = check_p(p)
        module.mode = check_mode(cls.__name__, mode)
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
        return f"{super().extra_repr()}, p={self.p}{mode_repr(self.mode)}"
