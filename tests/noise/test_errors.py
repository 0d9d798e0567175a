"""Bad input: the error names function, argument and value; nothing is drawn or computed."""

import pytest
import torch

from tests.module_helpers import drawing_nothing
from tests.noise.calls import every_call, every_drawing_call

X = torch.randn(4, 6)


@pytest.mark.parametrize("dtype", (torch.int64, torch.bool, torch.complex64), ids=str)
@every_drawing_call
def test_dtypes(call, dtype):
    with drawing_nothing(), pytest.raises(RuntimeError, match=f"{call.function}: x has dtype"):
        call.of_x(torch.ones(4, 6, dtype=dtype))


@every_drawing_call
def test_sharing(call):
    with drawing_nothing():
        for options, error, text in [
            ({"shared_dims": (2,)}, IndexError, "shared_dims has 2, but x has 2 dimensions"),
            ({"shared_dims": (0, -2)}, ValueError, "shared_dims has dimension -2 twice"),
            ({"noise_shape": (1,)}, ValueError, "noise_shape has 1 entries, but x has 2"),
            ({"noise_shape": (3, 1)}, ValueError, "noise_shape has 3 in dimension 0"),
            (
                {"noise_shape": (1, 6), "shared_dims": (0,)},
                ValueError,
                "only one of them can be given",
            ),
        ]:
            with pytest.raises(error, match=text) as caught:
                call.of_x(X, **options)
            assert str(caught.value).startswith(call.function)


@every_drawing_call
def test_states(call):
    with drawing_nothing():
        for state, error, text in [
            (torch.zeros(2), TypeError, "rng_state has dtype"),
            (torch.zeros(3, dtype=torch.int64), RuntimeError, "rng_state has 3 elements"),
            (torch.zeros(1, 2, dtype=torch.int64), RuntimeError, "rng_state has 2 dimensions"),
            (torch.tensor([0, 2]), ValueError, "rng_state has offset 2"),
            (torch.tensor([0, -4]), ValueError, "rng_state has offset -4"),
        ]:
            with pytest.raises(error, match=f"{call.function}: {text}"):
                call.of_x(X, rng_state=state)


@every_drawing_call
def test_a_generator_of_another_device(call):
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        call.of_x(torch.ones(2, device="meta"), generator=torch.Generator("meta"))


@every_call
def test_operators_check_backward_arguments(call):
    tensors = call.tensors_of(X.shape)
    operator, arguments = call.backward_call(tensors, X, strides=[1, 1])
    with pytest.raises(ValueError, match="strides is"):
        operator(*arguments)
    if call.backward:
        operator, arguments = call.backward_call(tensors, X[0], strides=[6, 1])
        with pytest.raises(RuntimeError, match=rf"^{call.backward}: (dy|z) has "):
            operator(*arguments)
