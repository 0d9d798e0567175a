"""DropBlock under the compiler: schemas, fake kernels, masks, recompilation, export."""

import pytest
import torch
from torch.library import opcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.drop_block.calls import ORDERS, STATE, expected_mask, maps
from tests.module_helpers import seed_and_state

OPERATORS = torch.ops.fused_dropout


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def run(function, x, seed=0):
    x = x.detach().requires_grad_()
    torch.manual_seed(seed)
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return y.detach(), dx


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "batch_between"])
@pytest.mark.parametrize("shared", [False, True])
def test_opcheck(order, shared):
    x = maps((2, 3, 8, 9), order=ORDERS[order]).requires_grad_()
    options = (0.3, None, 3, shared)
    opcheck(OPERATORS.drop_block_kept.default, (x, STATE, *options))
    kept = OPERATORS.drop_block_kept(x, STATE, *options)
    for mode, training in (("inverted", True), ("classic", True), ("classic", False)):
        arguments = (x, STATE, kept, None, *options, mode, training)
        opcheck(OPERATORS.drop_block.default, arguments)
    layout = x.stride()
    opcheck(OPERATORS.drop_block.default, (x, STATE, kept, layout, *options, "inverted", True))
    p = torch.tensor(0.3, dtype=torch.float64)
    options = (0.5, p, 3, shared)
    opcheck(OPERATORS.drop_block.default, (x, STATE, kept, None, *options, "inverted", True))


@pytest.mark.parametrize(
    "backend, options",
    [
        ("aot_eager", {}),
        ("aot_eager", {"shared_channels": True}),
        ("aot_eager", {"mode": "classic"}),
        ("inductor", {"shared_channels": True}),
    ],
    ids=str,
)
def test_equals_eager(backend, options):
    function = lambda x: FF.drop_block(x * 1, 0.3, 5, **options)  # noqa: E731
    one = compiled(function, backend)
    for order in ("contiguous", "channels_last"):
        x = maps((3, 4, 12, 10), order=ORDERS[order])
        for found, expected in zip(run(one, x), run(function, x), strict=True):
            torch.testing.assert_close(found, expected)
            assert torch.equal(found == 0, expected == 0)
            assert found.stride() == expected.stride()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_two_calls_differ(backend):
    """In training and in inference."""
    function = compiled(lambda x: (FF.drop_block(x, 0.3, 3), FF.drop_block(x, 0.3, 3)), backend)
    for grad in (False, True):
        x = torch.ones(2, 3, 14, 14, requires_grad=grad)
        first, second = function(x)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("module", [fd.DropBlock1d, fd.DropBlock2d, fd.DropBlock3d])
def test_modules(module):
    block = module(0.3, 3)
    x = torch.ones(2, 3, *(8,) * block.dims)
    rng_state = seed_and_state(4)
    y = compiled(block)(x)
    assert torch.equal(y != 0, expected_mask(x, 0.3, 3, rng_state))
    block.eval()
    assert torch.equal(compiled(block)(x), x)


def test_dynamic_shapes():
    function = compiled(lambda x: FF.drop_block(x, 0.3, 5, rng_state=STATE) * 1, dynamic=True)
    for shape in [(2, 3, 8, 9), (3, 3, 12, 10), (4, 5, 3, 20)]:
        x = torch.ones(shape, requires_grad=True)
        assert torch.equal(function(x) != 0, expected_mask(x, 0.3, 5))
    with torch._dynamo.config.patch(error_on_recompile=True):
        x = torch.ones(5, 4, 30, 21)
        assert torch.equal(function(x.requires_grad_()) != 0, expected_mask(x, 0.3, 5))


def test_a_probability_in_a_tensor_needs_no_new_graph():
    """So that a ramp does not compile for each of its steps."""
    block = fd.DropBlock2d(torch.tensor(0.2, dtype=torch.float64), 5)
    ramp = fd.LinearRamp(block, 4)
    one, x = compiled(block), torch.ones(2, 3, 14, 14, requires_grad=True)
    one(x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(5):
            ramp.step()
            rng_state = seed_and_state(7)
            p = float(block.p)
            assert torch.equal(one(x) != 0, expected_mask(x, p, 5, rng_state))
        block.p.fill_(1.0)
        rng_state = seed_and_state(8)
        assert torch.equal(one(x) != 0, expected_mask(x, 1.0, 5, rng_state))
        block.p.fill_(0.0)
        torch.manual_seed(8)
        before = torch.get_rng_state()
        assert torch.equal(one(x), x)
        assert torch.equal(before, torch.get_rng_state())
        block.p.fill_(1.5)
        with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
            one(x)


def test_classic_evaluation_with_a_probability_in_a_tensor():
    block = fd.DropBlock2d(torch.tensor(0.2, dtype=torch.float64), 5, mode="classic").eval()
    x = maps((2, 3, 14, 14))
    expected = x * (1 - FF.drop_block_rate((14, 14), 0.2, 5))
    torch.testing.assert_close(compiled(block)(x), expected)


def test_recomputation_in_a_compiled_graph():
    def function(x):
        return FF.drop_block(x, 0.3, 3).tanh()

    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)

    x = maps((2, 3, 9, 9))
    for found, expected in zip(run(compiled(checkpointed), x), run(function, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_generator_is_refused():
    function = torch.compile(
        lambda x: FF.drop_block(x, generator=torch.default_generator),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(Exception, match="rng_state"):
        function(torch.ones(2, 3, 9, 9))


def test_export_of_evaluation():
    x = maps((2, 3, 9, 9))
    model = torch.nn.Sequential(fd.DropBlock2d(), torch.nn.Conv2d(3, 2, 3)).eval()
    program = torch.export.export(model, (x,))
    assert not any("fused_dropout" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), model(x))


def test_symbolic_tracing():
    model = torch.nn.Sequential(fd.DropBlock2d(0.3), fd.DropBlock2d(0.2, 3))
    traced = torch.fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["0", "1"]
    x = torch.ones(2, 3, 14, 14)
    torch.manual_seed(1)
    y = model(x)
    torch.manual_seed(1)
    assert torch.equal(traced(x), y)
    traced = torch.fx.symbolic_trace(lambda x: FF.drop_block(x, 0.3))
    assert "drop_block" in {getattr(node.target, "__name__", "") for node in traced.graph.nodes}
