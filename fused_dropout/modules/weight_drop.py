"""Dropout of the weights of any module."""

import copyreg
import functools
import weakref

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import check_mode, is_zero, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._options import mode_repr


class WeightDrop(nn.Module):
    """A module whose weights are dropped, element by element, anew in each call in training.

    The result is a module of the wrapped one's class (``WeightDrop(nn.LSTM(...), ...)`` is an
    ``nn.LSTM``) which shares all of its state: parameters, buffers and submodules are the same
    objects under the same names, so that state dicts, optimisers and attributes are those of the
    wrapped module, which itself stays as it was. Within a call the named parameters are replaced by
    dropped copies of them, and gradients reach the parameters through the masks. In evaluation
    nothing is replaced.

    A parameter that is tied, known under several names, is dropped under those that are given, with
    one mask for all of them.

    Args:
        module: any module, ``nn.LSTM`` and ``nn.GRU`` among them.
        weights: name of a parameter, or several, as in ``module.named_parameters()``: dotted in
            submodules, such as ``"weight_hh_l0"`` or ``"decoder.weight"``.
        p: probability to drop an element of a weight, in steps of 2^-16.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.

    Attributes:
        weight_names, weight_p, weight_mode: the arguments; ``weight_p`` may be set later.

    Raises:
        ValueError: for a name that is no parameter of the module, with those that are.

    Equivalent: ``torch.func.functional_call(module, {name: F.dropout(weight, p, training)}, x)``.
    It regularises recurrent weights without a change of the recurrence itself, which dropout
    between the steps would hurt. Source: Merity, Keskar and Socher, "Regularizing and optimizing
    LSTM language models", ICLR 2018, section 2; Wan et al., "Regularization of neural networks
    using DropConnect", ICML 2013.
    """

    is_dropout = True
    independent_rows = False  # whatever the wrapped module says

    def __new__(cls, module=None, *args, **kwargs):
        return super().__new__(_dropping(module) if cls is WeightDrop else cls)

    def __init__(self, module, weights, p=0.5, *, mode="inverted"):
        # All of the wrapped module is shared, the dictionaries of parameters and submodules too.
        self.__dict__.update(module.__dict__)
        self.weight_names = (weights,) if isinstance(weights, str) else tuple(weights)
        self.weight_p = check_p(p)
        self.weight_mode = check_mode(type(self).__name__, mode)
        known = [name for name, _ in module.named_parameters(remove_duplicate=False)]
        for name in self.weight_names:
            if name not in known:
                raise ValueError(
                    f"WeightDrop: {type(module).__name__} has no parameter {name!r}; it has "
                    + (", ".join(known) or "none")
                )
        if not weights or len(set(self.weight_names)) != len(self.weight_names):
            raise ValueError(
                f"WeightDrop: weights is {weights!r}, but expected at least one name, each once"
            )

    def forward(self, *args, **kwargs):
        p = probability(self.weight_p)
        drops = self.training or self.weight_mode == "classic"
        if is_zero(p) or not drops:
            return super().forward(*args, **kwargs)
        replacements = self._replacements(p)
        originals = [(place, key, place[key]) for place, key, _ in replacements]
        try:
            for place, key, value in replacements:
                place[key] = value
            return super().forward(*args, **kwargs)
        finally:
            for place, key, value in originals:
                place[key] = value

    def _replacements(self, p):
        """What to put where during a call: (dictionary, key, value)."""
        pairs = []  # of a parameter and its dropped copy
        owners = {}  # by path: a module and its dropped weights by name
        for name in self.weight_names:
            path, _, key = name.rpartition(".")
            if path not in owners:
                owners[path] = (self.get_submodule(path), {})
            owner, dropped = owners[path]
            weight = getattr(owner, key)
            known = [copy for other, copy in pairs if other is weight]
            if known:
                dropped[key] = known[0]
            else:
                dropped[key] = FF.dropout(weight, p, self.training, mode=self.weight_mode)
                pairs.append((weight, dropped[key]))
        result = []
        for owner, dropped in owners.values():
            if isinstance(owner, nn.RNNBase):
                result += _recurrent_weights(owner, dropped)
            for key, value in dropped.items():
                # Replicas of DataParallel hold their weights as plain attributes.
                place = owner._parameters if key in owner._parameters else owner.__dict__
                result.append((place, key, value))
        return result

    def extra_repr(self):
        text = super().extra_repr()
        names = ", ".join(self.weight_names)
        text += f"{', ' if text else ''}weights=[{names}], p={self.weight_p}"
        return text + mode_repr(self.weight_mode)

    def __reduce_ex__(self, protocol):
        # Copies and pickles know the class by the one that it is made from.
        make, (cls,), *state = super().__reduce_ex__(max(protocol, 2))
        if make is not copyreg.__newobj__:
            raise TypeError(f"WeightDrop: {cls.__name__} cannot be copied or pickled")
        return _new, (cls.wrapped_class,), *state


@functools.cache
def _dropping_class(wrapped):
    # Tools that know torch's own layers by their module, as torch.fx does, know this one.
    names = {"wrapped_class": wrapped, "__module__": wrapped.__module__}
    return type(f"WeightDrop{wrapped.__name__}", (WeightDrop, wrapped), names)


def _dropping(module):
    """The class of a wrapped module."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"WeightDrop: module is {type(module).__name__}, but expected a Module")
    if isinstance(module, WeightDrop):
        raise TypeError("WeightDrop: module is a WeightDrop; give it the names of all weights")
    if "forward" in module.__dict__:
        raise TypeError(
            f"WeightDrop: the forward of this {type(module).__name__} has been replaced by another"
        )
    return _dropping_class(type(module))


def _new(wrapped):
    cls = _dropping_class(wrapped)
    return cls.__new__(cls)


def _recurrent_weights(rnn, dropped):
    """The same for the list in which a recurrent layer of torch keeps its weights.

    Adds to `dropped` what else has to be replaced.
    """
    names = rnn._flat_weights_names
    raw = [getattr(rnn, name) for name in names]
    weights = [dropped.get(name, weight) for name, weight in zip(names, raw, strict=True)]
    if not torch.compiler.is_compiling():
        weights = laid_out_like(raw, weights)
        dropped.update(zip(names, weights, strict=True))
    state = rnn.__dict__
    # With references to what is there, the layer does not see a reason to flatten its weights,
    # which would move the parameters themselves.
    references = [weakref.ref(weight) for weight in weights]
    return [(state, "_flat_weights", weights), (state, "_flat_weight_refs", references)]


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
