"""Fixtures of the tests in this folder."""

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Graphs of another build of the extension must not come from the disk."""
    torch._dynamo.reset()
    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        yield
    torch._dynamo.reset()
