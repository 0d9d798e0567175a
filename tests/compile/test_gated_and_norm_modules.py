"""A block of gated and normalised modules under the compiler."""

import pytest
import torch

import fused_dropout as fd
from tests.module_helpers import seed_and_state


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
