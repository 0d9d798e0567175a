"""WeightDrop: dropout of the weights of any module."""

import copyreg
import warnings

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout._once import made_once
from fused_dropout.functional._arguments import check_mode, is_zero, probability
from fused_dropout.modules._checks import check_p
from fused_dropout.modules._options import mode_repr
from fused_dropout.modules._weight_drop.attributes import share_attributes
from fused_dropout.modules._weight_drop.recurrent import FlatWeights, remember_wrapped
from fused_dropout.modules._weight_drop.views import Weights, forward_with
from fused_dropout.modules._weight_drop.weights import check_name, check_names, weight_and_hooks

__all__ = ["WeightDrop"]


class WeightDrop(nn.Module):
    """A module whose weights are dropped element by element, with a new mask in each training call.

    Use it for the recurrent weights of an LSTM or a GRU. It regularises them without dropout
    between the time steps, which would harm the recurrence. In evaluation nothing is dropped.

    The result has the class of the wrapped module: `WeightDrop(nn.LSTM(...), ...)` is an `nn.LSTM`.
    It shares all state with the wrapped module. Parameters, buffers and submodules are the same
    objects under the same names, so state dicts, optimisers and attributes do not change. The
    wrapped module itself does not change either. Gradients reach the parameters through the masks.

    Each call runs the forward of a view of the module. A view is an object of the wrapped class
    with the same attributes, buffers and children, but with the dropped weights. So several threads
    may call one module. Submodules that contain a dropped weight get a view too. Their forward
    pre-hooks receive the view, and all other hooks receive the module itself. Attributes that
    forward sets on a view are copied to the module afterwards. The first call warns if forward does
    not read a parameter, because dropping it has no effect then.

    A tied parameter, which has several names, is dropped under the names that are given. All of
    them get the same mask.

    Equivalent PyTorch code:

        dropped = {name: F.dropout(module.get_parameter(name), p, training) for name in weights}
        torch.func.functional_call(module, dropped, x)

    Source: Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR
    2018, section 2; Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of neural networks using
    DropConnect", ICML 2013.

    Args:
        module: any module, such as `nn.LSTM` or `nn.GRU`.
        weights: name of a parameter, or several names, as in `module.named_parameters()`:
            `"weight_hh_l0"`, or `"decoder.weight"` in a submodule. It can also be the name of a
            weight that `torch.nn.utils` computes (`weight_norm`, `spectral_norm`, `prune` and
            parametrisations). Then the computed weight is dropped.
        p: probability to drop an element of a weight, in steps of 2^-16.
        mode: "inverted" scales by `1 / (1 - p)` in training. "classic" scales by `1 - p` in
            evaluation instead.

    Attributes:
        weight_names: the names, a tuple.
        weight_p: the probability. It can be set at any time.
        weight_mode: the mode.

    Raises:
        ValueError: if a name is not a parameter of the module (the error lists the parameters), if
            a hook computes the used weight from this parameter, or if the parameter is
            uninitialised and has no shape yet.
        TypeError: if the module, or a submodule that contains a weight, is compiled by TorchScript
            or has a replaced `forward`.
    """

    is_dropout = True
    independent_rows = False  # replaces the attribute of the wrapped class
    _checks_unread = True  # until the first call

    def __new__(cls, module=None, *args, **kwargs):
        return super().__new__(_class_for(module) if cls is WeightDrop else cls)

    def __init__(self, module, weights, p=0.5, *, mode="inverted"):
        # All state is shared, including the dictionaries of parameters and submodules.
        share_attributes(self, module)
        self.__dict__.pop("_compiled_call_impl", None)  # compiled for the wrapped module
        if isinstance(module, nn.RNNBase):
            remember_wrapped(self, module)
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
        if torch.compiler.is_compiling() or not self._checks_unread:
            return forward_with(self, self.wrapped_class, weights, args, kwargs)
        unread = []
        result = forward_with(self, self.wrapped_class, weights, args, kwargs, unread)
        self._checks_unread = False
        if unread:
            self._warn_unread(unread)
        return result

    def _dropped(self, p):
        """Drops the weights. Returns {id of the module that has them: `Weights`}."""
        pairs = []  # (weight, its dropped copy)
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

    def _warn_unread(self, unread):
        names = []
        for name in self.weight_names:
            path, _, key = name.rpartition(".")
            if (id(self.get_submodule(path)), key) in unread:
                names.append(repr(name))
        warnings.warn(
            f"WeightDrop: the forward of {self.wrapped_class.__name__} did not read "
            f"{', '.join(names)}, so dropout of these weights has no effect",
            stacklevel=2,
        )

    def extra_repr(self):
        text = super().extra_repr()
        names = ", ".join(self.weight_names)
        text += f"{', ' if text else ''}weights=[{names}], p={self.weight_p}"
        return text + mode_repr(self.weight_mode)

    def __reduce_ex__(self, protocol):
        # The class is created at run time, so copies and pickles refer to the wrapped class.
        make, (cls,), *state = super().__reduce_ex__(max(protocol, 2))
        if make is not copyreg.__newobj__:
            raise TypeError(f"WeightDrop: {cls.__name__} cannot be copied or pickled")
        return _new, (cls.wrapped_class,), *state


@made_once
def _subclass_of(wrapped):
    # Tools such as torch.fx recognise torch's own layers by `__module__`.
    names = {"wrapped_class": wrapped, "__module__": wrapped.__module__}
    bases = (WeightDrop, FlatWeights) if issubclass(wrapped, nn.RNNBase) else (WeightDrop,)
    return type(f"WeightDrop{wrapped.__name__}", (*bases, wrapped), names)


def _class_for(module):
    """Returns the class of `WeightDrop(module)`."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"WeightDrop: module is of type {type(module).__name__}, but expected a torch.nn.Module"
        )
    if isinstance(module, WeightDrop):
        raise TypeError(
            "WeightDrop: module is a WeightDrop already; pass all names to one WeightDrop"
        )
    if "forward" in module.__dict__:
        raise TypeError(
            f"WeightDrop: the forward of this {type(module).__name__} has been replaced by another"
        )
    return _subclass_of(type(module))


def _new(wrapped):
    cls = _subclass_of(wrapped)
    return cls.__new__(cls)
