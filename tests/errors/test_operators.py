"""The operators of torch.ops.fused_dropout check that their arguments fit together.

Valid calls of every operator are recorded from the public functions, and then one argument at a
time is changed.
"""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.every_function import CALLS, STATE, run, tensors_of, upstream_of

PREFIX = "fused_dropout::"
ERRORS = (RuntimeError, ValueError, TypeError, IndexError)  # NotImplementedError is the first's


class Recorder(TorchDispatchMode):
    """Keeps the calls of our operators."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().startswith(PREFIX):
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


@functools.cache
def recorded():
    """{name: (operator, arguments)} of valid calls."""
    calls = {}
    for name in CALLS:
        tensors = tensors_of(name)
        with Recorder() as recorder:
            results = run(name, tensors, rng_state=STATE)
            torch.autograd.backward(results, upstream_of(results))
        with torch.no_grad():
            for operator, args in recorder.calls:
                calls[f"{operator.name().removeprefix(PREFIX)} of {name}"] = (operator, args)
    return calls


def changed_tensors(x):
    """(what differs, tensor) pairs, each of which differs from `x` in one respect."""
    if x.dim() > 0:
        yield "half as long", x[: x.shape[0] // 2]
        yield "twice as long", torch.cat([x, x])
        yield "empty", x[:0]
        yield "flat" if x.dim() > 1 else "one element", x.reshape(-1) if x.dim() > 1 else x[0]
    if x.dim() > 1:
        yield "fewer columns", x[..., :-1]
        yield "more columns", torch.cat([x, x], -1)
        yield "another order", x.transpose(0, -1) if x.shape[0] != x.shape[-1] else x[..., :-1]
    yield "one more dimension", x[None]
    yield "complex", x.to(torch.complex64)
    yield "bool", x.bool()
    yield "on meta", x.to("meta")
    yield "sparse", x.to_sparse() if x.dim() > 0 else x[None].to_sparse()


# Changes that are wrong for every tensor.
OTHER_KINDS = {"complex", "bool", "on meta", "sparse"}


def has_shape_elsewhere(operator, args):
    """Whether another argument says what shape the first has to have."""
    shapes = ("input", "x", "residual", "z", "h", "dh")
    others = list(zip(operator._schema.arguments, args, strict=False))[1:]
    return any(one.name in shapes and value is not None for one, value in others)


def changed_lists(numbers):
    yield "too short", numbers[:-1]
    yield "too long", [*numbers, 1]
    yield "zeros", [0] * len(numbers)
    yield "larger", [number + 3 for number in numbers]
    yield "negative", [-1] * len(numbers)


def changed_arguments():
    """(id, operator, arguments, index of one, {what: its values that do not fit the others})."""
    for name, (operator, args) in recorded().items():
        schema = operator._schema.arguments
        for i, value in enumerate(args):
            argument = schema[i].name
            if isinstance(value, torch.Tensor):
                changes = changed_tensors(value.detach())
                if i == 0 and not has_shape_elsewhere(operator, args):
                    changes = ((what, x) for what, x in changes if what in OTHER_KINDS)
                if argument == "logit":  # one element, in any shape
                    changes = ((what, x) for what, x in changes if what != "one more dimension")
            elif argument in ("strides", "mask_strides") and value:
                changes = changed_lists(value)
            elif argument in ("dtype", "h_dtype", "z_dtype", "bias_dtype") and value is not None:
                changes = [("int64", torch.int64), ("complex", torch.complex64)]
            else:
                continue
            yield f"{name}: {argument}", operator, args, i, dict(changes)


CHANGED = {key: call for key, *call in changed_arguments()}


def test_every_operator_is_recorded():
    names = {operator.name().removeprefix(PREFIX) for operator, _ in recorded().values()}
    known = {
        name.removeprefix(PREFIX)
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(PREFIX)
    }
    # These have tests of their own.
    assert known - names == {"draw_rng_state", "dropout_", "dropout_mask"}


def test_the_recorded_calls_are_valid():
    for operator, args in recorded().values():
        operator(*args)


@pytest.mark.parametrize("case", CHANGED)
def test_an_argument_that_does_not_fit(case):
    operator, args, i, changes = CHANGED[case]
    wrong = {}
    for what, value in changes.items():
        try:
            operator(*args[:i], value, *args[i + 1 :])
        except ERRORS as error:
            if "INTERNAL ASSERT" in str(error):
                wrong[what] = str(error)
        else:
            wrong[what] = "no error"
    assert not wrong


OUTSIDE = {
    "strides that overlap": ((4, 6), (1, 1), None, 0),
    "strides with gaps": ((4, 6), (12, 1), None, 0),
    "a negative size": ((-4, 6), (6, 1), None, 0),
    "a negative offset": ((4, 6), (6, 1), None, -1),
    "a negative step": ((4, 6), (6, 1), (-6, 1), 0),
    "steps for another shape": ((4, 6), (6, 1), (1,), 0),
    "an index beyond 2^63": ((4, 6), (6, 1), None, 2**63 - 8),
    "a step beyond 2^63": ((4, 6), (6, 1), (2**62, 1), 0),
    "more elements than there are indices": ((2**40, 2**40), (2**40, 1), None, 0),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_the_mask_alone(case):
    size, strides, steps, offset = OUTSIDE[case]
    with pytest.raises(ERRORS) as caught:
        torch.ops.fused_dropout.dropout_mask(STATE, size, strides, 0.5, [], steps, offset)
    assert "INTERNAL ASSERT" not in str(caught.value)


@pytest.mark.parametrize("position", [(None, 2**63 - 8), ((2**62, 1), 0), ((-1, 1), 0), ((1,), 0)])
def test_mask_strides_and_offset_are_checked(position):
    x = torch.ones(4, 6)
    with pytest.raises(ValueError, match=r"dropout_: mask_(offset|strides)"):
        torch.ops.fused_dropout.dropout_(x, STATE, 0.5, None, "inverted", True, [], *position)
    assert (x == 1).all()


def test_a_state_that_is_a_view():
    """Its two numbers need not be neighbours."""
    apart = torch.stack([STATE, torch.zeros_like(STATE)], 1).flatten()[::2]
    assert not apart.is_contiguous()
    for name in CALLS:
        tensors = tensors_of(name)
        for one, other in zip(
            run(name, tensors, rng_state=apart), run(name, tensors, rng_state=STATE), strict=True
        ):
            assert torch.equal(one, other)
