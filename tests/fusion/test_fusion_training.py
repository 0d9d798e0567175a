"""Fused models in training code: mixed precision, checkpointing, averages, torch.func, export."""

import copy
import statistics

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
from tests.fusion.fusing import (
    Net,
    classes,
    decoder_layer,
    encoder_layer,
    fused_copy,
    mlp,
    seeded,
    uses_kernels,
)


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, TOKENS = tensor(4, 8), tensor(2, 5, 16)
MODELS = {
    "mlp": (mlp, (X,)),
    "encoder": (encoder_layer, (TOKENS,)),
    "encoder_norm_first": (lambda: encoder_layer(norm_first=True), (TOKENS,)),
    "decoder": (decoder_layer, (TOKENS, TOKENS.flip(1))),
    "net": (Net, (tensor(2, 5, 8),)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def built(name):
    build, inputs = MODELS[name]
    return build(), inputs


def without_dropout(model):
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def gradients(model):
    return [p.grad for p in model.parameters()]


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(name, dtype):
    """Outputs and gradients have the dtype of the unfused model, and errors that are no larger.

    ``dtype`` is that of the inputs. The test compares the median of the errors, because a single
    ReLU whose input changes its sign can cause an error of any size.
    """
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        model, inputs = built(name)
        model = without_dropout(model)
        exact = _with_gradients(model, inputs, torch.float32, enabled=False)
        theirs = _with_gradients(model, inputs, dtype)
        ours = _with_gradients(fused_copy(model), inputs, dtype)
        for unfused, fused, wanted in zip(theirs, ours, exact, strict=True):
            assert unfused.dtype == fused.dtype
            error, allowed = ((x.float() - wanted).norm().item() for x in (fused, unfused))
            ratios.append(error / max(allowed, 1e-9))
    assert statistics.median(ratios) < 1.2


def _with_gradients(model, inputs, dtype, enabled=True):
    model.zero_grad()
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        y = model(*leaves)
    (y.float() * tensor(*y.shape, seed=7)).sum().backward()
    return [y.detach(), *(x.grad for x in leaves), *gradients(model)]


@each_model
def test_scaled_gradients(name):
    """GradScaler makes the same steps as for the unfused model, and skips those that overflow."""
    model, inputs = built(name)
    model = without_dropout(model)
    models = model, fused_copy(model)
    for one in models:
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
        for factor, expected in ((1.0, 2.0**11), (torch.inf, 2.0**10), (1.0, 2.0**11)):
            optimizer.zero_grad()
            before = [p.detach().clone() for p in one.parameters()]
            loss = one(*inputs).square().mean() * factor
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == expected
            moved = [not torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True)]
            assert any(moved) == (factor == 1.0)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@each_model
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(name, use_reentrant):
    """The forward pass that backward repeats has the same masks."""
    model, inputs = built(name)
    fd.fuse(model)
    results = []
    for call in (model, lambda *x: checkpoint(model, *x, use_reentrant=use_reentrant)):
        model.zero_grad()
        leaves = [x.clone().requires_grad_() for x in inputs]
        torch.manual_seed(3)
        y = call(*leaves)
        torch.rand(3)  # random numbers drawn before backward make no difference
        y.square().sum().backward()
        results.append([y, *(x.grad for x in leaves), *gradients(model)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradient_accumulation():
    """The gradients of two halves of a batch, with different masks, add up."""
    model = fused_copy(mlp())
    parts = []
    for seed, half in enumerate(X.split(2)):
        model.zero_grad()
        seeded(model, half, seed=seed).sum().backward()
        parts.append([g.clone() for g in gradients(model)])
    model.zero_grad()
    for seed, half in enumerate(X.split(2)):
        seeded(model, half, seed=seed).sum().backward()
    for together, one, other in zip(gradients(model), *parts, strict=True):
        assert torch.equal(together, one + other)
    assert not torch.equal(parts[0][0], parts[1][0])


def test_moving_averages():
    model = fused_copy(Net())
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    assert classes(average.module) == classes(model)
    start = [p.detach().clone() for p in model.parameters()]
    average.update_parameters(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update_parameters(model)
    for p, first in zip(average.module.parameters(), start, strict=True):
        torch.testing.assert_close(p, first + 0.5)
    x = tensor(2, 5, 8)
    assert torch.equal(average.eval()(x), fd.unfuse(copy.deepcopy(average)).eval()(x))


def test_frozen_parameters():
    model, inputs = built("encoder")
    fd.fuse(model)
    for name, p in model.named_parameters():
        p.requires_grad_("norm" in name)
    y = model(*inputs)
    y.sum().backward()
    assert all((p.grad is not None) == ("norm" in name) for name, p in model.named_parameters())
    model.requires_grad_(False)
    assert not model(*inputs).requires_grad and uses_kernels(model, *inputs)


@each_model
def test_inference_mode(name):
    """In training mode, as in Monte Carlo dropout."""
    model, inputs = built(name)
    fd.fuse(model)
    with torch.inference_mode():
        y = seeded(model, *inputs)
    assert torch.equal(y, seeded(model, *inputs))


# torch.func


def test_functional_call():
    for name in ("mlp", "encoder"):
        model, inputs = built(name)
        fd.fuse(model)
        parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.manual_seed(5)
        y = torch.func.functional_call(model, parameters, inputs)
        assert torch.equal(y, seeded(model, *inputs))

        def loss(parameters):
            torch.manual_seed(5)
            return torch.func.functional_call(model, parameters, inputs).square().sum()  # noqa: B023

        ours = torch.func.grad(loss)(parameters)
        seeded(model, *inputs).square().sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "encoder"])
def test_ensembles(name):
    """vmap over stacked parameters, with different masks or the same, according to `randomness`."""
    models = [fused_copy(built(name)[0]) for _ in range(3)]
    inputs = MODELS[name][1]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0])

    def call(parameters, buffers):
        return torch.func.functional_call(base, (parameters, buffers), inputs)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(call)(parameters, buffers)
    torch.manual_seed(5)
    y = torch.func.vmap(call, randomness="same")(parameters, buffers)
    for one, model in zip(y, models, strict=True):
        torch.testing.assert_close(one, seeded(model, *inputs), rtol=1e-4, atol=1e-5)
    same = {key: p[:1].expand_as(p) for key, p in parameters.items()}
    y = torch.func.vmap(call, randomness="different")(same, buffers)
    assert not torch.equal(y[0], y[1]) and not torch.equal(y[1], y[2])
    y = torch.func.vmap(call, randomness="same")(same, buffers)
    torch.testing.assert_close(y[0], y[1])


# Export and tracing


@each_model
def test_export_of_the_evaluation_graph(name, tmp_path):
    """It consists of torch's operators, so loading it does not need this package."""
    model, inputs = built(name)
    fused = fused_copy(model).eval()
    program = torch.export.export(fused, inputs)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names and all(name.startswith(("aten.", "<built-in")) for name in names), names
    assert not any("dropout" in name or "bernoulli" in name for name in names)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(*inputs), model.eval()(*inputs))


def test_symbolic_trace():
    model = mlp()
    for one in (fused_copy(model).eval(), fused_copy(Net()).eval().embed):
        traced = torch.fx.symbolic_trace(one)
        assert all(
            node.op in ("placeholder", "call_module", "output") for node in traced.graph.nodes
        )
        assert torch.equal(traced(X), one(X))
    # In training the trace calls the unfused layers by name.
    traced = torch.fx.symbolic_trace(fused_copy(model, "sequential"))
    assert torch.equal(seeded(traced, X), seeded(model, X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace():
    model = mlp()
    traced = torch.jit.trace(fused_copy(model).eval(), (X,))
    torch.testing.assert_close(traced(X), model.eval()(X))
