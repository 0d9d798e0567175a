"""Which changes of a call recompile, and which do not."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.backends.registry import lookup_backend
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.compile.compiling import (
    STATE,
    Net,
    assert_equal,
    channels_last,
    compiled,
    every_quick_backend,
    results_of,
    tensor,
)
from tests.module_helpers import drawing_nothing, fixed_state, kept, seed_and_state


def compiling_nothing():
    """A new graph is an error inside."""
    return torch._dynamo.config.patch(error_on_recompile=True)


def counted(function):
    """The compiled function, and the graphs that its compiler gets."""
    torch._dynamo.reset()  # what was learnt of the same code before
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    return compiled(function, record), graphs


SHAPES = [(4, 6), (5, 7), (8, 9), (3, 11), (64, 33)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dynamic", [True, None])
def test_dynamic_shapes(training, dynamic):
    """One graph, or, where the first shape is taken for constant, two."""

    def call(x):
        x = FF.dropout(x, 0.3, training)
        x = FF.bias_act_dropout(x, None, 0.3, "gelu", training, shared_dims=(0,))
        return FF.bias_dropout_add(x, None, x, 0.3, training)

    function = compiled(call, dynamic=dynamic)
    first = 1 if dynamic else 2
    for shape in SHAPES[:first]:
        results_of(function, tensor(*shape))
    with compiling_nothing():
        for shape in SHAPES:
            x = tensor(*shape)
            assert_equal(results_of(function, x), results_of(call, x))


def test_dynamic_shapes_of_modules():
    model = Net()
    function = compiled(model, dynamic=True)
    results_of(function, tensor(4, 6))
    with compiling_nothing():
        for rows in (4, 5, 9):
            assert_equal(results_of(function, tensor(rows, 6)), results_of(model, tensor(rows, 6)))


def test_dynamic_shapes_in_channels_last():
    bias = tensor(3)

    def call(x):
        return FF.bias_act_dropout(FF.dropout(x, shared_dims=(2, 3)), bias, bias_dim=1)

    function = compiled(call, dynamic=True)
    x = channels_last(2, 3, 4, 5)
    with FakeTensorMode() as mode:
        # Wrong strides in backward's graph make the kernel write beyond its output.
        assert FF.dropout(mode.from_tensor(x)).stride() == x.stride()
    results_of(function, x)
    with compiling_nothing():
        for size in (4, 5, 7):
            x = channels_last(2, 3, size, size + 1)
            assert_equal(results_of(function, x), results_of(call, x))


@pytest.mark.parametrize(
    "backend, dtype",
    [
        ("eager", torch.float32),
        ("aot_eager", torch.float32),
        ("aot_eager", torch.float64),
        ("inductor", torch.float64),
    ],
)
def test_tensor_p_takes_new_values(backend, dtype):
    """Without a new graph; all of p in the range, its ends included."""
    function = compiled(lambda x, p: FF.dropout(x, p), backend)
    x = tensor(32, 8)
    results_of(function, x, torch.tensor(0.5, dtype=dtype), grads=(True, False))
    with compiling_nothing():
        for p in (0.1, 0.75, 0.33, 1.0, 0.0, 0.999):
            p = torch.tensor(p, dtype=dtype)
            state = seed_and_state(6)
            y, gradient = results_of(function, x, p, seed=6, grads=(True, False))
            torch.testing.assert_close(y, reference.dropout(x, p.item(), state))
            assert torch.equal(gradient != 0, kept(x, p.item(), state))


def test_tensor_p_draws_what_eager_draws():
    """None for 0 and 1, so that what follows has eager's masks too."""
    call = lambda x, p: FF.dropout(FF.bias_act_dropout(x, None, p, "gelu"), 0.5)  # noqa: E731
    function = compiled(call)
    x = tensor(16, 16)
    for p in (0.0, 0.3, 1.0):
        p = torch.tensor(p, dtype=torch.float64)
        torch.manual_seed(7)
        wanted = call(x, p)
        after = torch.get_rng_state()
        torch.manual_seed(7)
        assert torch.equal(function(x, p), wanted)
        assert torch.equal(torch.get_rng_state(), after)


def test_tensor_p_out_of_range_when_the_graph_runs():
    function = compiled(lambda x, p: FF.dropout(x, p))
    x = tensor(8)
    function(x, torch.tensor(0.5))
    for p in (1.5, -0.5, torch.nan):
        with drawing_nothing(), pytest.raises(ValueError, match=f"between 0 and 1, but got {p}"):
            function(x, torch.tensor(p))


@every_quick_backend
def test_tensor_p_that_changes_before_backward(backend):
    """Backward takes the mask of forward, or says that it cannot."""
    p = torch.tensor(0.5, dtype=torch.float64)
    x = tensor(64, grad=True)
    y = compiled(lambda x, p: FF.dropout(x, p, rng_state=STATE), backend)(x, p)
    p.fill_(0.9)
    try:
        (gradient,) = torch.autograd.grad(y.sum(), x)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert torch.equal(gradient, kept(x, 0.5, STATE) * 2.0)


def test_tensor_p_of_a_module():
    layer = fd.Dropout(torch.tensor(0.5, dtype=torch.float64))
    function = compiled(layer)
    x = tensor(32, 8)
    assert_equal(results_of(function, x), results_of(layer, x))
    with compiling_nothing():
        for p in (0.2, 0.9):
            layer.p.fill_(p)
            assert_equal(results_of(function, x), results_of(layer, x))


def test_float_p_compiles_again():
    """No more often than with torch's dropout, and to the right result."""
    x, counts = tensor(8, 8), []
    for drop in (FF.dropout, F.dropout):
        function, graphs = counted(lambda x, p, drop=drop: drop(x, p))
        for p in (0.5, 0.25, 0.75, 0.5):
            torch.manual_seed(8)
            y = function(x, p)
            torch.manual_seed(8)
            assert torch.equal(y, drop(x, p))
        counts.append(len(graphs))
    assert counts[0] <= counts[1]


def test_p_of_a_module_compiles_again():
    layer = fd.Dropout(0.5)
    function = compiled(layer)
    x = tensor(32, 8)
    for p in (0.5, 0.2, 0.9, 0.0, 1.0):
        layer.p = p
        assert_equal(results_of(function, x), results_of(layer, x))


def test_changed_requires_grad():
    """No more often than with torch's dropout, and to the right result."""
    counts = []
    for drop in (FF.dropout, F.dropout):
        function, graphs = counted(lambda x, b, drop=drop: drop(x + b, 0.5))
        for x_grad, b_grad in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0), (1, 1)]:
            x, b = tensor(4, 6, grad=bool(x_grad)), tensor(6, grad=bool(b_grad))
            y = function(x, b)
            assert y.requires_grad == bool(x_grad or b_grad)
            if y.requires_grad:
                y.sum().backward()
                assert (x.grad is not None, b.grad is not None) == (bool(x_grad), bool(b_grad))
        counts.append(len(graphs))
    assert counts[0] <= counts[1]


def test_seed_and_state_do_not_compile_again():
    function = compiled(lambda x, state: FF.dropout(x, rng_state=state) + FF.dropout(x))
    x = tensor(16, 16)
    function(x, fixed_state())
    with compiling_nothing():
        for seed in range(4):
            state, fresh = fixed_state(seed, 4 * seed), seed_and_state(seed)
            wanted = reference.dropout(x, 0.5, state) + reference.dropout(x, 0.5, fresh)
            assert torch.equal(function(x, state), wanted)
