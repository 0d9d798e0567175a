"""The noise functions under the compiler: schemas, fake kernels, noise, recompilation, export."""

import pytest
import torch
from torch.library import opcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import seed_and_state
from tests.noise.calls import (
    ALPHA,
    BETA,
    STATE,
    TEMPERATURE,
    P,
    every_call,
    every_drawing_call,
    gradients_of,
    ours,
    tensors_of,
    upstream_of,
)

OPERATORS = torch.ops.fused_dropout
PLACE = ([], None, 0)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def call_of(name, tensors):
    x = tensors["x"]
    if name == "gaussian":
        return OPERATORS.gaussian_dropout.default, (x, STATE, P, None, *PLACE)
    if name == "concrete":
        arguments = (x, tensors["logit"], STATE, TEMPERATURE, *PLACE)
        return OPERATORS.concrete_dropout.default, arguments
    arguments = (x, tensors["z"], STATE, ALPHA, BETA, name == "standout", *PLACE)
    return OPERATORS.standout.default, arguments


@pytest.mark.parametrize("shape", [(4, 6), (7,), (0, 6)], ids=str)
@every_call
def test_opcheck(name, shape):
    if 0 in shape and name != "standout_eval":
        shape = (1, 6)
    opcheck(*call_of(name, tensors_of(name, shape)))


@every_call
def test_opcheck_of_backward(name):
    tensors = tensors_of(name, (4, 6))
    x, dy, strides, both = tensors["x"].detach(), torch.randn(4, 6), [6, 1], [True, True]
    if name == "gaussian":
        opcheck(
            OPERATORS.gaussian_dropout.default, (dy, STATE, P, None, *PLACE), {"strides": [1, 4]}
        )
        p = torch.tensor(0.25, dtype=torch.float64)
        opcheck(OPERATORS.gaussian_dropout.default, (dy, STATE, 0.5, p, *PLACE))
        return
    if name == "concrete":
        logit = tensors["logit"].detach()
        arguments = (dy, x, logit, STATE, TEMPERATURE, *PLACE, strides, both)
        opcheck(OPERATORS.concrete_dropout_backward.default, arguments)
        return
    z = tensors["z"].detach()
    arguments = (dy, x, z, STATE, ALPHA, BETA, name == "standout", *PLACE)
    opcheck(OPERATORS.standout_backward.default, (*arguments, strides, torch.float32, both))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@every_call
def test_compiled_equals_eager(name, backend):
    tensors = tensors_of(name, (5, 33))
    call = torch.compile(ours, backend=backend, fullgraph=True)
    result, expected = call(name, tensors), ours(name, tensors)
    assert torch.equal(result, expected)
    upstream = upstream_of(result)
    found = gradients_of(name, result, tensors, upstream)
    for key, value in gradients_of(name, expected, tensors, upstream).items():
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@every_drawing_call
def test_two_calls_differ_and_seeds_decide(name, backend):
    tensors = {k: torch.ones_like(t) for k, t in tensors_of(name, (300,)).items()}
    tensors["x"].requires_grad_()

    def two():
        return ours(name, tensors, rng_state=None), ours(name, tensors, rng_state=None)

    compiled = torch.compile(two, backend=backend, fullgraph=True)
    torch.manual_seed(4)
    first, second = compiled()
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    for one, other in zip(two(), (first, second), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        first, second = compiled()
        assert not torch.equal(first, second)


@every_call
def test_dynamic_shapes(name):
    call = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=True)
    call(name, tensors_of(name, (4, 10)))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in [(7, 11), (3, 200)]:
            tensors = tensors_of(name, shape)
            assert torch.equal(call(name, tensors), ours(name, tensors))


def test_a_tensor_p_needs_no_new_graph():
    x = torch.randn(100, requires_grad=True)
    call = torch.compile(
        lambda p: FF.gaussian_dropout(x, p, rng_state=STATE), backend="aot_eager", fullgraph=True
    )
    call(torch.tensor(0.5, dtype=torch.float64))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for p in (0.1, 0.9):
            result = call(torch.tensor(p, dtype=torch.float64))
            expected = FF.gaussian_dropout(x, p, rng_state=STATE)
            assert torch.equal(result, expected)
            (gradient,) = torch.autograd.grad(result.sum(), x)
            assert torch.equal(gradient, torch.autograd.grad(expected.sum(), x)[0])
        assert torch.equal(call(torch.tensor(0.0, dtype=torch.float64)), x)
        with pytest.raises(ValueError, match="p is 1, but expected less than 1"):
            call(torch.tensor(1.0, dtype=torch.float64))


def test_generators_cannot_be_compiled():
    x = torch.randn(10)
    generator = torch.Generator()
    call = torch.compile(
        lambda x: FF.gaussian_dropout(x, 0.5, generator=generator), backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match="rng_state="):
        call(x)


def module_of(name):
    return {
        "gaussian": lambda: fd.GaussianDropout(0.3),
        "concrete": lambda: fd.ConcreteDropout(0.3),
        "standout": lambda: fd.Standout(beta=0.5),
    }[name]()


@pytest.mark.parametrize("name", ["gaussian", "concrete", "standout"])
def test_modules(name):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), module_of(name))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 8)
    state = seed_and_state(9)
    result = compiled(x)
    torch.manual_seed(9)
    assert torch.equal(result, model(x)) and state.numel() == 2
    model.eval()
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("name", ["gaussian", "concrete", "standout"])
def test_export_of_evaluation_draws_nothing(name):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), module_of(name)).eval()
    x = torch.randn(5, 8)
    exported = torch.export.export(model, (x,))
    assert "draw" not in str(exported.graph)
    assert torch.equal(exported.module()(x), model(x))


@pytest.mark.parametrize("name", ["gaussian", "concrete", "standout"])
def test_symbolic_tracing(name):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), module_of(name))
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(5, 8)
    torch.manual_seed(2)
    expected = model(x)
    torch.manual_seed(2)
    assert torch.equal(traced(x), expected)
