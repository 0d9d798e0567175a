"""Sets the probabilities of all dropout in a configuration and in the modules of a model."""

import re

from torch import nn

from tools.coverage.shrink import is_configuration

# A module of Idefics holds its probability under the name "config".
_DROPOUT = re.compile(
    r"dropout|pdrop|drop_path|droppath|drop_prob|drop_rate|_drop$|^drop_|drop_p$|^config$"
)
# They skip whole layers or tokens, or are no probabilities.
_OTHERS = re.compile(r"layer_?drop|positions|token_drop|patch_drop|drop_tokens|ratio|scale")
# Random changes of the input or of the routing, which are not dropout.
_OFF = re.compile(r"layer_?drop|^mask_(time|feature)_prob$|jitter|label_noise|apply_spec_augment")


def is_probability(name, value):
    """Whether a field or attribute holds a dropout probability, by its name and type."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= 1
        and _DROPOUT.search(name) is not None
        and _OTHERS.search(name) is None
    )


def set_in_configuration(config, p):
    """Sets all probabilities of a configuration and of its parts; other randomness is off.

    It writes past the checks of the class: some declare a probability as an integer.
    """
    for name, value in list(vars(config).items()):
        if is_configuration(value):
            set_in_configuration(value, p)
        elif _OFF.search(name) and isinstance(value, (bool, int, float)):
            vars(config)[name] = type(value)(0)
        elif is_probability(name, value):
            vars(config)[name] = p
        elif (
            isinstance(value, (tuple, list))
            and value
            and all(is_probability(name, one) for one in value)
        ):
            vars(config)[name] = type(value)([p] * len(value))


def set_in_modules(model, p):
    """Sets all probabilities that modules hold as attributes, or read from their configuration."""
    configurations = {}
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = p
        for name, value in list(vars(module).items()):
            if is_configuration(value):
                configurations[id(value)] = value
            elif is_probability(name, value):
                setattr(module, name, p)
    for config in configurations.values():
        set_in_configuration(config, p)
