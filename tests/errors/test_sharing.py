"""Errors of shared dimensions, modes and dropout_mask."""

import pytest

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.errors.bad_input import X, check, check_named, every_function
from tests.module_helpers import drawing_nothing, fixed_state


@every_function
@pytest.mark.parametrize("dims", [(2,), (-3,), (0, 5)])
def test_shared_dims_out_of_range(name, dims):
    check_named(
        name, IndexError, ["shared_dims has", dims[-1], "x has 2 dimensions"], shared_dims=dims
    )


@every_function
@pytest.mark.parametrize("dims", [(1, 1), (1, -1), (0, 1, -2)])
def test_shared_dims_repeated(name, dims):
    check_named(name, ValueError, ["shared_dims", dims[-1], "twice"], shared_dims=dims)


@every_function
@pytest.mark.parametrize("dims", [1, (0.5,), "01", None])
def test_shared_dims_are_no_integers(name, dims):
    check(name, TypeError, [], shared_dims=dims)


@every_function
@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 6)])
def test_rank_of_noise_shape(name, shape):
    check_named(
        name,
        ValueError,
        [f"noise_shape has {len(shape)} entries", "x has 2 dimensions"],
        noise_shape=shape,
    )


@every_function
@pytest.mark.parametrize("shape, dim, entry", [((2, 6), 0, 2), ((None, 0), 1, 0), ((4, -1), 1, -1)])
def test_entries_of_noise_shape(name, shape, dim, entry):
    check_named(
        name,
        ValueError,
        [f"noise_shape has {entry} in dimension {dim}", "expected", X.shape[dim]],
        noise_shape=shape,
    )


@every_function
def test_shared_dims_and_noise_shape(name):
    check_named(
        name,
        ValueError,
        ["shared_dims is (0,)", "noise_shape is (1, None)", "only one"],
        shared_dims=(0,),
        noise_shape=(1, None),
    )


@every_function
@pytest.mark.parametrize("mode", ["Inverted", "", "scale"])
def test_unknown_mode(name, mode):
    check_named(name, ValueError, [f"mode is '{mode}'", *FF.MODES], mode=mode)


@pytest.mark.parametrize("options", [{"p": 0.0}, {"training": False}])
def test_dropout_checks_the_mode_before_it_returns_its_input(options):
    check_named("dropout", ValueError, ["mode is 'scale'"], mode="scale", **options)


@pytest.mark.parametrize(
    "error, text, arguments, options",
    [
        (ValueError, "between 0 and 1, but got 2", ((4, 6), 2, fixed_state()), {}),
        (TypeError, "dropout_mask: rng_state has dtype Int", ((4,), 0.5, fixed_state().int()), {}),
        (RuntimeError, "dropout_mask: rng_state has 1 element", ((4,), 0.5, fixed_state()[:1]), {}),
        (ValueError, "rng_state has offset 2", ((4,), 0.5, fixed_state(1, 2)), {}),
        (ValueError, r"like has shape \(4, 6\)", ((6, 4), 0.5, fixed_state()), {"like": X}),
        (IndexError, "shared_dims has 2", ((4, 6), 0.5, fixed_state()), {"shared_dims": (2,)}),
        (ValueError, "twice", ((4, 6), 0.5, fixed_state()), {"shared_dims": (1, -1)}),
    ],
)
def test_dropout_mask(error, text, arguments, options):
    with drawing_nothing(), pytest.raises(error, match=text):
        FF.dropout_mask(*arguments, **options)


def test_new_rng_state():
    with drawing_nothing(), pytest.raises((TypeError, RuntimeError)):
        fd.new_rng_state(generator="cpu")
    with drawing_nothing(), pytest.raises(RuntimeError):
        fd.new_rng_state("nowhere")
