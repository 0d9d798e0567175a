"""Bad input: the error names function, argument and value; nothing is drawn or computed."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing

X = torch.randn(4, 6)
LOGIT = torch.tensor(0.0)

FUNCTIONS = {
    "gaussian_dropout": lambda x=X, **o: FF.gaussian_dropout(x, o.pop("p", 0.5), **o),
    "concrete_dropout": lambda x=X, **o: FF.concrete_dropout(
        x, o.pop("logit", LOGIT), o.pop("temperature", 0.1), **o
    ),
    "standout": lambda x=X, **o: FF.standout(
        x, o.pop("z", torch.zeros(x.shape)), o.pop("alpha", 1.0), o.pop("beta", 0.0), **o
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def check(name, error, text, **arguments):
    with drawing_nothing(), pytest.raises(error, match=text) as caught:
        FUNCTIONS[name](**arguments)
    assert name in str(caught.value) or "probability" in str(caught.value)


@pytest.mark.parametrize("dtype", (torch.int64, torch.bool, torch.complex64), ids=str)
@every_function
def test_dtypes(name, dtype):
    with drawing_nothing(), pytest.raises(RuntimeError, match=f"{name}: x has dtype"):
        FUNCTIONS[name](torch.ones(4, 6, dtype=dtype))


@every_function
def test_sharing(name):
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
                FUNCTIONS[name](**options)
            assert str(caught.value).startswith(name)


@every_function
def test_states(name):
    with drawing_nothing():
        for state, error, text in [
            (torch.zeros(2), TypeError, "rng_state has dtype"),
            (torch.zeros(3, dtype=torch.int64), RuntimeError, "rng_state has 3 elements"),
            (torch.zeros(1, 2, dtype=torch.int64), RuntimeError, "rng_state has 2 dimensions"),
            (torch.tensor([0, 2]), ValueError, "rng_state has offset 2"),
            (torch.tensor([0, -4]), ValueError, "rng_state has offset -4"),
        ]:
            with pytest.raises(error, match=f"{name}: {text}"):
                FUNCTIONS[name](rng_state=state)


@every_function
def test_a_generator_of_another_device(name):
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        FUNCTIONS[name](torch.ones(2, device="meta"), generator=torch.Generator("meta"))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), 1, 1.0, torch.tensor(1.0)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_probabilities(p, training):
    with drawing_nothing(), pytest.raises(ValueError, match=r"but (got|expected)"):
        FF.gaussian_dropout(X, p, training)
    with pytest.raises(ValueError, match=r"but (got|expected)"):
        fd.GaussianDropout(p)
    module = fd.GaussianDropout(0.5).train(training)
    module.p = p
    with drawing_nothing(), pytest.raises(ValueError, match=r"but (got|expected)"):
        module(X)


def test_probability_tensors():
    with pytest.raises(TypeError, match="requires grad"):
        FF.gaussian_dropout(X, torch.tensor(0.5, requires_grad=True))
    with pytest.raises(TypeError, match="is a scalar"):
        FF.gaussian_dropout(X, torch.tensor([0.5]))


def test_logits():
    for logit, error, text in [
        (torch.zeros(2), RuntimeError, r"logit has shape \[2\], but expected one element"),
        (torch.tensor(0), RuntimeError, "logit has dtype"),
        (torch.zeros((), device="meta"), RuntimeError, "logit is on meta, but x is on cpu"),
        (0.0, TypeError, "logit is 0.0, but expected a tensor"),
    ]:
        with drawing_nothing(), pytest.raises(error, match=f"concrete_dropout: {text}"):
            FF.concrete_dropout(X, logit)
    assert FF.concrete_dropout(X, torch.zeros(1, 1)).shape == X.shape


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_temperatures(temperature):
    check("concrete_dropout", ValueError, "temperature is", temperature=temperature)
    with pytest.raises(ValueError, match="ConcreteDropout: temperature is"):
        fd.ConcreteDropout(temperature=temperature)


@pytest.mark.parametrize("training", [True, False])
def test_standout_arguments(training):
    for arguments, text in [
        ({"z": torch.zeros(4)}, "z has 1 dimensions, but x has 2"),
        ({"z": torch.zeros(4, 5)}, "z has shape"),
        ({"z": torch.zeros(4, 6, dtype=torch.int64)}, "z has dtype"),
        ({"z": torch.zeros(4, 6, device="meta")}, "z is on meta"),
    ]:
        with drawing_nothing(), pytest.raises(RuntimeError, match=f"standout: {text}"):
            FUNCTIONS["standout"](**arguments, training=training)
    for argument in ("alpha", "beta"):
        for value in (float("nan"), float("inf")):
            text = f"{argument} is .*, but expected a finite number"
            with drawing_nothing(), pytest.raises(ValueError, match=f"standout: {text}"):
                FUNCTIONS["standout"](**{argument: value}, training=training)
            with pytest.raises(ValueError, match=f"Standout: {text}"):
                fd.Standout(**{argument: value})
    with pytest.raises(ValueError, match="Standout: activation is 'none'"):
        fd.Standout(activation="none")


def test_concrete_modules():
    for p in (0, 1, 0.0, 1.0):
        with pytest.raises(ValueError, match=r"ConcreteDropout: p is .*both excluded"):
            fd.ConcreteDropout(p)
    with pytest.raises(ValueError, match="dropout probability"):
        fd.ConcreteDropout(1.5)
    for argument in ("weight_regularizer", "dropout_regularizer"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"ConcreteDropout: {argument} is"):
                fd.ConcreteDropout(**{argument: value})
    with pytest.raises(TypeError, match=r"layer is 3, but expected a torch\.nn\.Module"):
        fd.ConcreteDropout(layer=3)


def test_regularization_without_a_weight():
    module = fd.ConcreteDropout()
    with pytest.raises(TypeError, match="weight is None, and this module was given no layer"):
        module.regularization()
    with pytest.raises(TypeError, match="weight is a ReLU, but expected a tensor or a module"):
        module.regularization(torch.nn.ReLU())
    with pytest.raises(ValueError, match=r"weight has shape \(3, 2, 5\).*input_features"):
        module.regularization(torch.ones(3, 2, 5))
    model = torch.nn.Sequential(module, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the ConcreteDropout '0' has no layer"):
        fd.concrete_regularization(model)


def test_operators_check_backward_arguments():
    operators = torch.ops.fused_dropout
    state, position = torch.tensor([1, 0]), ([], None, 0)
    both = [True, True]
    with pytest.raises(ValueError, match="strides is"):
        operators.gaussian_dropout(X, state, 0.5, None, *position, [1, 1])
    with pytest.raises(RuntimeError, match="concrete_dropout_backward: dy has"):
        operators.concrete_dropout_backward(X[0], X, LOGIT, state, 0.1, *position, [6, 1], both)
    with pytest.raises(ValueError, match="standout_backward: x is None"):
        operators.standout_backward(
            X, None, X, None, 1.0, 0.0, False, *position, [6, 1], torch.float32, both
        )
    with pytest.raises(ValueError, match="rng_state is None, but training needs one"):
        operators.standout(X, X, None, 1.0, 0.0, True, *position)
    with pytest.raises(ValueError, match="p is 1, but expected less than 1"):
        operators.gaussian_dropout(X, state, 1.0, None, *position)
