"""Prevents torch.compile from drawing a random state a second time in backward.

The compiler's partitioner splits a joint graph into forward and backward. To save memory, it may
recompute values of forward in backward. If it recomputed `draw_rng_state`, backward would get
another state, and the gradient of another mask, without an error. The partitioner recognises only
some of torch's own random operators, and not even these under a memory budget
(pytorch/pytorch#190758). It respects the tag `recompute` of a node for every operator, so this file
sets that tag on the nodes of draws while they are traced.
"""

import itertools

import torch
from torch.fx.experimental import proxy_tensor
from torch.utils.checkpoint import CheckpointPolicy, _CachingTorchDispatchMode

import fused_dropout._extension  # noqa: F401  (registers the operators)

_DRAW = torch.ops.fused_dropout.draw_rng_state.default
_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)
# The memory budget of a region is stored on its nodes. torch 2.11 has no such budgets.
_budget_of_region = getattr(torch.fx.traceback, "_get_memory_budget_annotation", lambda node: None)


def _policy(node):
    config = torch._functorch.config
    budget = _budget_of_region(node)
    if budget is None:
        budget = config.activation_memory_budget
    tracer = proxy_tensor._CURRENT_MAKE_FX_TRACER
    nested = tracer is not None and tracer.is_hop_subgraph_tracer()
    if nested and (budget < 1 or config.aggressive_recomputation):
        # The outer node that calls the subgraph cannot be tagged here, and the partitioner would
        # recompute the whole subgraph.
        setting = (
            "aggressive_recomputation"
            if config.aggressive_recomputation
            else f"an activation_memory_budget of {budget}"
        )
        raise RuntimeError(
            "draw_rng_state: a random state is drawn inside a subgraph (such as that of "
            "torch.cond, scan or nested_compile_region), and "
            f"{setting} would draw another one in backward; draw "
            "it outside with fused_dropout.new_rng_state() and pass it as rng_state="
        )
    # At a budget of 0 the partitioner saves only the inputs of the graph and ignores MUST_SAVE. It
    # respects the tag of a checkpointed region: there, random operators are recomputed from the
    # generator's state of forward.
    return CheckpointPolicy.MUST_SAVE if budget > 0 else CheckpointPolicy.PREFER_RECOMPUTE


def _tag_draws(mode, call):
    """Runs `call` and tags the random operators that the proxy mode traces in it.

    `mode` is None if nothing is traced.
    """
    if mode is None:
        return call()
    nodes = mode.tracer.graph.nodes
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
    """Under selective checkpointing, whose own policies replace the tags of the other handler."""
    return _tag_draws(
        proxy_tensor.get_proxy_mode(),
        lambda: mode.__torch_dispatch__(operator, types, args, kwargs),
    )


@torch.library.impl(_DRAW.name(), "FuncTorchVmapMode")
def _vmap(token, p_tensor=None, *, generator=None, on_host=False):
    """Draws with torch's own operators, which are traced instead of `draw_rng_state`."""
    return _tag_draws(
        proxy_tensor.get_proxy_mode(),
        lambda: _DRAW._op_dk(
            torch._C.DispatchKey.CompositeExplicitAutograd, token, p_tensor, generator=generator
        ),
    )
