"""Where torch's recurrent layers keep their weights, and what that asks of a WeightDrop of one."""

import weakref

import torch
from torch import nn

# A WeightDrop of a recurrent layer: a reference to the layer.
_WRAPPED = weakref.WeakKeyDictionary()


def note_wrapped(dropping, module):
    """Empties the lists that were taken over from the wrapped layer, and remembers the layer."""
    dropping.__dict__.pop("_flat_weights", None)
    dropping._flat_weight_refs = []
    _WRAPPED[dropping] = weakref.ref(module)


class FlatWeights:
    """The lists in which ``nn.RNNBase`` keeps its weights, always those of the present weights.

    The wrapped layer and the WeightDrop share their parameters, and either of them can get others
    by a conversion. Lists of the other's own would be stale then. Their weak references would even
    keep ``torch.utils.swap_tensors`` from exchanging a parameter.
    """

    @property
    def _flat_weights(self):
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights):
        pass

    @property
    def _flat_weight_refs(self):
        return [None] * len(self._flat_weights_names)

    @_flat_weight_refs.setter
    def _flat_weight_refs(self, references):
        self.__dict__["_flat_weight_refs"] = []  # nn.RNNBase takes it out of its state

    def _apply(self, fn, recurse=True):
        reference = _WRAPPED.get(self)
        wrapped = None if reference is None else reference()
        if wrapped is None:
            return super()._apply(fn, recurse)
        wrapped._flat_weight_refs = []
        try:
            return super()._apply(fn, recurse)
        finally:
            nn.RNNBase._init_flat_weights(wrapped)


def laid_out_like(raw, weights):
    """The weights at the places that the raw ones have in the one storage of all of them.

    cuDNN reads weights from one piece of memory; it warns, and copies them at each call, if they
    lie elsewhere. Weights that have not been flattened stay where they are.
    """
    storage = raw[0].untyped_storage()
    whole = storage.nbytes() // raw[0].element_size()
    pieces, places, end = [], {}, 0
    for i in sorted(range(len(raw)), key=lambda i: raw[i].storage_offset()):
        offset = raw[i].storage_offset()
        elsewhere = raw[i].untyped_storage().data_ptr() != storage.data_ptr()
        if elsewhere or offset < end or not raw[i].is_contiguous():
            return weights
        if offset > end:
            pieces.append(raw[0].new_zeros(offset - end))
        places[i] = len(pieces)
        pieces.append(weights[i].reshape(-1))
        end = offset + raw[i].numel()
    if whole > end:
        pieces.append(raw[0].new_zeros(whole - end))
    parts = torch.cat(pieces).split([piece.numel() for piece in pieces])
    return [parts[places[i]].view(raw[i].shape) for i in range(len(raw))]
