"""The noise functions under the compiler: schemas, fake kernels, noise, recompilation, export."""

import pytest
import torch
from torch.library import opcheck

from tests.module_helpers import seed_and_state
from tests.noise.calls import every_call, every_drawing_call
from tests.noise.noise_call import upstream_of


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("shape", [(4, 6), (7,), (0, 6)], ids=str)
@every_call
def test_opcheck(call, shape):
    if 0 in shape and call.draws:
        shape = (1, 6)
    opcheck(*call.operator_call(call.tensors_of(shape)))


@every_call
def test_opcheck_of_backward(call):
    tensors = {key: t.detach() for key, t in call.tensors_of((4, 6)).items()}
    strides = [1, 4] if call.backward is None else [6, 1]
    opcheck(*call.backward_call(tensors, torch.randn(4, 6), strides))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@every_call
def test_compiled_equals_eager(call, backend):
    tensors = call.tensors_of((5, 33))
    result = torch.compile(call.ours, backend=backend, fullgraph=True)(tensors)
    expected = call.ours(tensors)
    assert torch.equal(result, expected)
    upstream = upstream_of(result)
    found = call.gradients_of(result, tensors, upstream)
    for key, value in call.gradients_of(expected, tensors, upstream).items():
        assert torch.equal(found[key], value)


@every_drawing_call
def test_two_calls_differ_and_seeds_decide(call):
    tensors = {k: torch.ones_like(t) for k, t in call.tensors_of((300,)).items()}
    tensors["x"].requires_grad_()

    def two():
        return call(tensors), call(tensors)

    compiled = torch.compile(two, fullgraph=True)
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
def test_dynamic_shapes(call):
    compiled = torch.compile(call.ours, backend="aot_eager", fullgraph=True, dynamic=True)
    compiled(call.tensors_of((4, 10)))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in [(7, 11), (3, 200)]:
            tensors = call.tensors_of(shape)
            assert torch.equal(compiled(tensors), call.ours(tensors))


@every_drawing_call
def test_modules(call):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), call.make_module())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 8)
    state = seed_and_state(9)
    result = compiled(x)
    torch.manual_seed(9)
    assert torch.equal(result, model(x)) and state.numel() == 2
    model.eval()
    assert torch.equal(compiled(x), model(x))


@every_drawing_call
def test_export_of_evaluation_draws_nothing(call):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), call.make_module()).eval()
    x = torch.randn(5, 8)
    exported = torch.export.export(model, (x,))
    assert "draw" not in str(exported.graph)
    assert torch.equal(exported.module()(x), model(x))


@every_drawing_call
def test_symbolic_tracing(call):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), call.make_module())
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(5, 8)
    torch.manual_seed(2)
    expected = model(x)
    torch.manual_seed(2)
    assert torch.equal(traced(x), expected)
