"""Keeps the compiler from drawing a state again in backward.

To save memory, the partitioner that splits a joint graph into forward and backward may compute a
value of forward again in backward. A draw would give another state there, and a gradient of another
mask, without an error: of the operators that draw, the partitioner knows some of torch's own, and
under a memory budget not even these (pytorch/pytorch#190758). What it does honor, for any operator,
is the tag ``recompute`` of a node, so draws get it as they are traced.
"""

import torch
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, get_proxy_mode
from torch.utils.checkpoint import CheckpointPolicy, _CachingTorchDispatchMode

import fused_dropout._extension  # noqa: F401  (registers the operators)

# A budget of a region, which its nodes carry; torch 2.11 has none.
_budget_of_region = getattr(torch.fx.traceback, "_get_memory_budget_annotation", lambda node: None)
_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


def _policy(node):
    """Of a draw that no checkpointed region recomputes with the generator's state of forward."""
    budget = _budget_of_region(node)
    if budget is None:
        budget = torch._functorch.config.activation_memory_budget
    # Without any budget the partitioner saves inputs only, whatever the tags ask for. Then the
    # generator's state is saved instead, as by a checkpointed region.
    return CheckpointPolicy.MUST_SAVE if budget > 0 else CheckpointPolicy.PREFER_RECOMPUTE


def _tag(graph, operator):
    """Tags the last draw in the graph."""
    node = next((node for node in reversed(graph.nodes) if node.target is operator), None)
    if node is not None and node.meta.get("recompute") not in _RECOMPUTED:
        node.meta["recompute"] = _policy(node)


def _trace(mode, operator, types, args=(), kwargs=None):
    result = mode.__torch_dispatch__(operator, types, args, kwargs)
    _tag(mode.tracer.graph, operator)
    return result


def _checkpoint(mode, operator, types, args=(), kwargs=None):
    """Selective checkpointing, which puts its policies in place of the tags."""
    result = mode.__torch_dispatch__(operator, types, args, kwargs)
    tracing = get_proxy_mode()
    if tracing is not None:
        _tag(tracing.tracer.graph, operator)
    return result


_DRAW = "fused_dropout::draw_rng_state"
torch.library.register_torch_dispatch(_DRAW, ProxyTorchDispatchMode, _trace)
torch.library.register_torch_dispatch(_DRAW, _CachingTorchDispatchMode, _checkpoint)
