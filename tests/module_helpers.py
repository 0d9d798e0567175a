"""Helpers of the tests of modules, errors, autograd and the compiler."""

import contextlib
import warnings

import torch

import fused_dropout as fd
from fused_dropout import reference


@contextlib.contextmanager
def drawing_nothing():
    """Fails where the block consumes a random number of the default generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "a random number was drawn"


def seed_and_state(seed):
    """Seeds the default generator, and returns the state that the next call will draw."""
    torch.manual_seed(seed)
    state = fd.new_rng_state()
    torch.manual_seed(seed)
    return state


def fixed_state(seed=0x123456789ABCDEF, offset=8):
    return torch.tensor([seed, offset])


def called(function):
    """Names of our operators that it calls, as the profiler records them."""
    with torch.profiler.profile() as profile:
        function()
    prefix = "fused_dropout::"
    return {e.name.removeprefix(prefix) for e in profile.events() if e.name.startswith(prefix)}


def outcome(function):
    """The outcome of a call: its error's type or None, the error's text or the value, warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            error, result = None, function()
        except Exception as exception:
            error, result = type(exception), str(exception)
    return error, result, [(warning.category, str(warning.message)) for warning in caught]


def kept(x, p, state, shared_dims=()):
    """The mask of `x` by the reference, which does not use the extension."""
    return reference.dropout_mask(x.shape, p, state, like=x, shared_dims=shared_dims)
