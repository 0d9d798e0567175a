"""Dropout of the weights of any module."""

import copyreg
import warnings

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout._once import made_once
from fused_dropout.functional._arguments import check_mode, is_zero, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._options import mode_repr
from fused_dropout.modules._weight_drop.attributes import take_over
from fused_dropout.modules._weight_drop.recurrent import FlatWeights, note_wrapped
from fused_dropout.modules._weight_drop.views import Weights, forward_with
from fused_dropout.modules._weight_drop.weights import check_name, check_names, weight_and_hooks

__all__ = ["WeightDrop"]


class WeightDrop(nn.Module):
    """A module whose weights are dropped, element by element, anew in each call in training.

    The result is a module of the wrapped one's class (``WeightDrop(nn.LSTM(...), ...)`` is an
    ``nn.LSTM``) which shares all of its state: parameters, buffers and submodules are the same
    objects under the same names, so that state dicts, optimisers and attributes are those of the
    wrapped module, which itself stays as it was. Gradients reach the parameters through the masks.
    In evaluation nothing is dropped.

    A parameter that is tied, known under several names, is dropped under those that are given, with
    one mask for all of them.

    Args:
        module: any module, ``nn.LSTM`` and ``nn.GRU`` among them.
        weights: name of a parameter, or several, as in ``module.named_parameters()``: dotted in
            submodules, such as ``"weight_hh_l0"`` or ``"decoder.weight"``. Also of a weight that
            ``torch.nn.utils`` computes (``weight_norm``, ``spectral_norm``, ``prune``, and all
            parametrisations): what is dropped then is the weight that was computed.
        p: probability to drop an element of a weight, in steps of 2^-16.
        mode: "inverted" scales by ``1 / (1 - p)`` in training; "classic" scales by ``1 - p`` in
            evaluation instead.

    Attributes:
        weight_names, weight_p, weight_mode: the arguments; ``weight_p`` may be set later.

    Raises:
        ValueError: for a name that is no parameter of the module, with those that are; for a
            parameter from which a hook computes the weight that is used, or that has no shape yet.
        TypeError: for a module, or a submodule on the way to a weight, that is compiled by
            TorchScript or whose ``forward`` has been replaced.

    A call works on a view of the module: an object of the wrapped class with the same attributes,
    buffers and children, but with the dropped weights, so that nothing that threads share changes
    and several may call one module. Submodules on the way to a weight are viewed as well; their
    forward pre-hooks get the view, all other hooks the module itself. Attributes that a forward
    sets are given to the modules at its end. The first call warns of a parameter that forward does
    not read: dropping it has no effect.

    Equivalent: ``torch.func.functional_call(module, {name: F.dropout(weight, p, training)}, x)``.
    It regularises recurrent weights without a change of the recurrence itself, which dropout
    between the steps would hurt. Source: Merity, Keskar and Socher, "Regularizing and optimizing
    LSTM language models", ICLR 2018, section 2; Wan et al., "Regularization of neural networks
    using DropConnect", ICML 2013.
    """

    is_dropout = True
    independent_rows = False  # whatever the wrapped module says
    _watches_weights = True  # until the first call

    def __new__(cls, module=None, *args, **kwargs):
        return super().__new__(_dropping(module) if cls is WeightDrop else cls)

    def __init__(self, module, weights, p=0.5, *, mode="inverted"):
        # All of the wrapped module is shared, the dictionaries of parameters and submodules too.
        take_over(self, module)
        self.__dict__.pop("_compiled_call_impl", None)  # the call of the wrapped module
        if isinstance(module, nn.RNNBase):
            note_wrapped(self, module)
        self.weight_names = (weights,) if isinstance(weights, str) else tuple(weights)
        self.weight_p = check_p(self, p)
        self.weight_mode = check_mode(type(self).__name__, mode)
        for name in self.weight_names:
            check_name(module, name)
        if not weights or len(set(self.weight_names)) != len(self.weight_names):
            raise ValueError(
                f"WeightDrop: weights is {weights!r}, but expected at least one name, each once"
            )
        check_names(self.weight_names)

    def forward(self, *args, **kwargs):
        p = probability(self.weight_p, "WeightDrop", "weight_p")
        drops = self.training or self.weight_mode == "classic"
        if is_zero(p) or not drops:
            return super().forward(*args, **kwargs)
        weights = self._dropped(p)
        if torch.compiler.is_compiling() or not self._watches_weights:
            return forward_with(self, self.wrapped_class, weights, args, kwargs)
        unread = []
        result = forward_with(self, self.wrapped_class, weights, args, kwargs, unread)
        self._watches_weights = False
        if unread:
            self._warn_of(unread)
        return result

    def _dropped(self, p):
        """:class:`Weights` by the id of the module that they are of."""
        pairs = []  # of a weight and its dropped copy
        dropped = {}
        for name in self.weight_names:
            owner, key, weight, hooks = weight_and_hooks(self, name)
            known = [copy for other, copy in pairs if other is weight]
            if not known:
                known = [FF.dropout(weight, p, self.training, mode=self.weight_mode)]
                pairs.append((weight, known[0]))
            own = dropped.setdefault(id(owner), Weights({}, ()))
            own.values[key] = known[0]
            own.hooks += hooks
        return dropped

    def _warn_of(self, unread):
        names = []
        for name in self.weight_names:
            path, _, key = name.rpartition(".")
            if (id(self.get_submodule(path)), key) in unread:
                names.append(repr(name))
        warnings.warn(
            f"WeightDrop: the forward of {self.wrapped_class.__name__} has not read "
            f"{', '.join(names)}: where it computes with something else in its place, that is not "
            "dropped",
            stacklevel=2,
        )

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


@made_once
def _dropping_class(wrapped):
    # Tools that know torch's own layers by their module, as torch.fx does, know this one.
    names = {"wrapped_class": wrapped, "__module__": wrapped.__module__}
    bases = (WeightDrop, FlatWeights) if issubclass(wrapped, nn.RNNBase) else (WeightDrop,)
    return type(f"WeightDrop{wrapped.__name__}", (*bases, wrapped), names)


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
