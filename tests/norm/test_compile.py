"""The row operators under the compiler: schemas, fake kernels, masks, recompilation, export."""

import pytest
import torch
from torch.library import opcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import seed_and_state
from tests.row_calls import (
    CALLS,
    STATE,
    P,
    activation_of,
    every_call,
    is_norm,
    ours,
    tensors_of,
)

OPERATORS = torch.ops.fused_dropout


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiling_nothing():
    """A new graph is an error inside."""
    return torch._dynamo.config.patch(error_on_recompile=True)


def operator_arguments(name, tensors, rng_state=STATE, p=P, p_tensor=None, **changes):
    options = {
        "p": p,
        "p_tensor": p_tensor,
        "activation": activation_of(name),
        "negative_slope": None,
        "alpha": None,
        "mode": "inverted",
        "training": True,
        "shared_dims": [],
        "mask_strides": None,
        "mask_offset": 0,
        **changes,
    }
    t = tensors
    if not is_norm(name):
        leading = (t["x"], t.get("bias"), rng_state, CALLS[name]["gate_first"])
        return OPERATORS.bias_glu_dropout.default, (*leading, *options.values())
    keys = ("x", "residual", "bias", "row_scale", "layer_scale", "weight", "norm_bias")
    leading = (*(t.get(key) for key in keys), rng_state)
    settings = (CALLS[name]["norm"], 1e-5, CALLS[name]["prenorm"])
    return OPERATORS.dropout_add_norm.default, (*leading, *settings, *options.values())


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5), (7,), (0, 6)], ids=str)
@every_call
def test_opcheck(name, shape):
    opcheck(*operator_arguments(name, tensors_of(name, shape)))


CHANGES = [
    {"mode": "classic"},
    {"training": False, "rng_state": None},
    {"p": 1.0, "rng_state": None},
    {"shared_dims": [1]},
    {"p_tensor": torch.tensor(0.25, dtype=torch.float64)},
    {"mask_strides": [8, 1], "mask_offset": 3},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("name", ["layer_norm_full", "rms_norm_prenorm", "glu"])
def test_opcheck_of_options(name, changes):
    opcheck(*operator_arguments(name, tensors_of(name, (4, 6)), **changes))


@pytest.mark.parametrize("name", ["layer_norm_prenorm_full", "layer_norm", "swiglu"])
def test_opcheck_of_layouts_and_dtypes(name):
    tensors = tensors_of(name, (4, 5, 6), grad=False)
    for x in (
        tensors["x"].permute(2, 1, 0).contiguous().permute(2, 1, 0),
        tensors["x"].transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat((tensors["x"], tensors["x"]))[::2],
    ):
        opcheck(*operator_arguments(name, {**tensors, "x": x.requires_grad_()}))
    if is_norm(name):
        mixed = tensors_of(name, (4, 6), torch.bfloat16, stream=torch.float32)
        opcheck(*operator_arguments(name, mixed))


def run(function, tensors, seed=0):
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    torch.manual_seed(seed)
    results = function(tensors)
    total = sum((one * torch.linspace(-1, 1, one.shape[-1])).sum() for one in results)
    return [*(one.detach() for one in results), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@every_call
def test_compiled_equals_eager(name, backend):
    """The same masks from the same seed, and the same bits."""

    def function(tensors):
        return ours(name, tensors, rng_state=None)

    tensors = tensors_of(name, (6, 20))
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    for one, other in zip(run(function, tensors), run(compiled, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm_prenorm", "swiglu"])
@pytest.mark.parametrize("grad", [True, False])
def test_two_calls_in_one_graph_differ(name, backend, grad):
    tensors = tensors_of(name, (6, 20), grad=grad)

    @torch.compile(backend=backend, fullgraph=True)
    def twice(tensors):
        return ours(name, tensors, rng_state=None)[0], ours(name, tensors, rng_state=None)[0]

    first, second = twice(tensors)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["layer_norm_full", "rms_norm_prenorm", "swiglu"])
def test_dynamic_shapes(name):
    compiled = torch.compile(
        lambda tensors: ours(name, tensors), backend="aot_eager", fullgraph=True, dynamic=True
    )
    compiled(tensors_of(name, (4, 6)))
    with compiling_nothing():
        for rows, width in ((7, 6), (5, 10), (9, 33)):
            tensors = tensors_of(name, (rows, width))
            for one, other in zip(compiled(tensors), ours(name, tensors), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["layer_norm", "swiglu"])
def test_a_tensor_p_takes_new_values(name):
    compiled = torch.compile(
        lambda tensors, p: ours(name, tensors, p=p), backend="aot_eager", fullgraph=True
    )
    tensors = tensors_of(name, (5, 8))
    compiled(tensors, torch.tensor(0.3, dtype=torch.float64))
    with compiling_nothing():
        for p in (0.1, 0.5, 0.0, 1.0):
            one = compiled(tensors, torch.tensor(p, dtype=torch.float64))
            for found, expected in zip(one, ours(name, tensors, p=p), strict=True):
                assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["layer_norm_prenorm", "glu"])
def test_recomputation_in_a_compiled_graph(name):
    """Under checkpointing, forward and backward of a graph use one mask."""
    tensors = tensors_of(name, (6, 20))

    def function(tensors):
        return ours(name, tensors, rng_state=None)

    def checkpointed(tensors):
        return torch.utils.checkpoint.checkpoint(function, tensors, use_reentrant=False)

    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    for one, other in zip(run(function, tensors), run(compiled, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_generator_is_refused():
    x = torch.randn(4, 6)
    compiled = torch.compile(
        lambda x: FF.bias_glu_dropout(x, None, 0.5, generator=torch.default_generator),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(Exception, match="rng_state"):
        compiled(x)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = fd.DropoutAddLayerNorm(8, 0.2, branch_bias=True, layer_scale_init=0.5)
        self.rms = fd.DropoutAddRMSNorm(8, 0.2, prenorm=True)
        self.mlp = fd.GatedMLP(8, 12, 8, 0.2)
        self.glu = fd.BiasGLUDropout(4, 0.1)

    def forward(self, x):
        y = self.norm(x, x)
        y, h = self.rms(self.mlp(y), y)
        return self.glu(y) + h[..., :4]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_modules(backend):
    torch.manual_seed(0)
    block, x = Block(), torch.randn(3, 8)
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    state = seed_and_state(4)
    one = block(x)
    torch.manual_seed(4)
    torch.testing.assert_close(one, compiled(x))
    assert state.shape == (2,)
    block.eval()
    torch.testing.assert_close(block(x), compiled(x))


def test_export_of_evaluation():
    block, x = Block().eval(), torch.randn(3, 8)
    program = torch.export.export(block, (x,))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("draw" in name for name in names)
    torch.testing.assert_close(program.module()(x), block(x))


def test_symbolic_tracing():
    block, x = Block(), torch.randn(3, 8)
    traced = torch.fx.symbolic_trace(block)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {type(block.get_submodule(name)) for name in called} >= {
        fd.DropoutAddLayerNorm,
        fd.DropoutAddRMSNorm,
        fd.LinearGLUDropout,
    }
    torch.manual_seed(1)
    one = block(x)
    torch.manual_seed(1)
    assert torch.equal(traced(x), one)
