"""WeightDrop of torch's recurrent layers, which keep extra lists of their weights."""

import weakref

import torch
from torch import nn

# {a WeightDrop of a recurrent layer: a weak reference to the layer}
_WRAPPED = weakref.WeakKeyDictionary()


def remember_wrapped(weight_drop, module):
    """Clears the lists copied from the wrapped layer, and remembers the layer."""
    weight_drop.__dict__.pop("_flat_weights", None)
    weight_drop._flat_weight_refs = []
    _WRAPPED[weight_drop] = weakref.ref(module)


class FlatWeights:
    """Mixin that computes the weight lists of `nn.RNNBase` from the current weights.

    The wrapped layer and the WeightDrop share their parameters, and a conversion such as `.to()`
    can replace the parameters of either. Stored lists of the other one would then be out of date.
    Their weak references would also prevent `torch.utils.swap_tensors` from swapping a parameter.
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
        self.__dict__["_flat_weight_refs"] = []  # nn.RNNBase deletes this entry when it is pickled

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
    """Copies the weights to one storage, at the offsets that the raw weights have in theirs.

    cuDNN reads all weights from one buffer. If they are elsewhere, it warns and copies them in each
    call. Returns `weights` unchanged if the raw weights are not in one storage.
    """
    storage = raw[0].untyped_storage()
    size = storage.nbytes() // raw[0].element_size()
    pieces, piece_of, end = [], {}, 0
    for i in sorted(range(len(raw)), key=lambda i: raw[i].storage_offset()):
        offset = raw[i].storage_offset()
        is_separate = raw[i].untyped_storage().data_ptr() != storage.data_ptr()
        if is_separate or offset < end or not raw[i].is_contiguous():
            return weights
        if offset > end:
            pieces.append(raw[0].new_zeros(offset - end))
        piece_of[i] = len(pieces)
        pieces.append(weights[i].reshape(-1))
        end = offset + raw[i].numel()
    if size > end:
        pieces.append(raw[0].new_zeros(size - end))
    parts = torch.cat(pieces).split([piece.numel() for piece in pieces])
    return [parts[piece_of[i]].view(raw[i].shape) for i in range(len(raw))]
