"""Keeps the compiler from drawing a state again in backward.

To save memory, the partitioner that splits a joint graph into forward and backward may compute a
value of forward again in backward. A draw would give another state there, and a gradient of another
mask, without an error: of the operators that draw, the partitioner knows some of torch's own, and
under a memory budget not even these (pytorch/pytorch#190758). What it does honor, for any operator,
is the tag ``recompute`` of a node, so draws get it as they are traced.
"""

import itertools

import torch
from torch.fx.experimental import proxy_tensor
from torch.utils.checkpoint import CheckpointPolicy, _CachingTorchDispatchMode

import fused_dropout._extension  # noqa: F401  (registers the operators)

_DRAW = torch.ops.fused_dropout.draw_rng_state.default
_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)
# A budget of a region, which its nodes carry; torch 2.11 has none.
_budget_of_region = getattr(torch.fx.traceback, "_get_memory_budget_annotation", lambda node: None)


def _policy(node):
    config = torch._functorch.config
    budget = _budget_of_region(node)
    if budget is None:
        budget = config.activation_memory_budget
    tracer = proxy_tensor._CURRENT_MAKE_FX_TRACER
    nested = tracer is not None and tracer.is_hop_subgraph_tracer()
    if nested and (budget < 1 or config.aggressive_recomputation):
        # The node that calls the subgraph is out of reach, and would be computed again as a whole.
        setting = (
            "aggressive_recomputation"
            if config.aggressive_recomputation
            else f"an activation_memory_budget of {budget}"
        )
        raise RuntimeError(
            "draw_rng_state: a random state is drawn inside a subgraph (as of torch.cond, scan or "
            f"nested_compile_region), which {setting} would let draw another one in backward; draw "
            "it outside with fused_dropout.new_rng_state() and pass it as rng_state="
        )
    # At a budget of 0 the partitioner saves the inputs of the graph alone, whatever it is told to
    # save. It does honor the tag of a checkpointed region, whose random operators start from the
    # generator's state of forward.
    return CheckpointPolicy.MUST_SAVE if budget > 0 else CheckpointPolicy.PREFER_RECOMPUTE


def _tag_draws(tracing, call):
    """Tags the random operators that the mode ``tracing``, if it is one, traces in the call."""
    if tracing is None:
        return call()
    nodes = tracing.tracer.graph.nodes
    before = len(nodes)
    result = call()
    for node in itertools.islice(reversed(nodes), len(nodes) - before):
        if (
            torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            and node.meta.get("recompute") not in _RECOMPUTED
        ):
            node.meta["recompute"] = _policy(node)
    return result


@torch.library.register_torch_dispatch(_DRAW.name(), proxy_tensor.ProxyTorchDispatchMode)
def _trace(mode, operator, types, args=(), kwargs=None):
    return _tag_draws(mode, lambda: mode.__torch_dispatch__(operator, types, args, kwargs))


@torch.library.register_torch_dispatch(_DRAW.name(), _CachingTorchDispatchMode)
def _checkpoint(mode, operator, types, args=(), kwargs=None):
    """Selective checkpointing puts its own policies in place of the tags."""
    return _tag_draws(
        proxy_tensor.get_proxy_mode(),
        lambda: mode.__torch_dispatch__(operator, types, args, kwargs),
    )


@torch.library.impl(_DRAW.name(), "FuncTorchVmapMode")
def _vmap(token, p_tensor=None, *, generator=None):
    """Draws with operators of torch, which are traced in place of ours."""
    return _tag_draws(
        proxy_tensor.get_proxy_mode(),
        lambda: _DRAW._op_dk(
            torch._C.DispatchKey.CompositeExplicitAutograd, token, p_tensor, generator=generator
        ),
    )
