"""Fused transformers models in training code: compiling, autocast, checkpointing, saving."""

import copy

import pytest
import torch
import transformers as hf

import fused_dropout as fd
from tests.fusion.packages.hf_models import (
    IMAGES,
    SIZES,
    bert,
    build,
    call_encoder,
    call_images,
    words,
)
from tests.fusion.parity import run, set_p


@pytest.fixture
def model():
    model = bert().train()
    fd.fuse(model)
    return model


def step(model, seed=0):
    """Outputs and gradients with the masks of a seed."""
    return run(model, call_encoder, seed)


def assert_same_step(a, b, tolerance=0.0):
    for one, other in zip(a[0], b[0], strict=True):
        assert (one - other).abs().max() <= tolerance
    scale = max(gradient.abs().max() for gradient in a[1].values() if gradient is not None)
    for name, gradient in a[1].items():
        assert (gradient is None) == (b[1][name] is None), name
        if gradient is not None:
            assert (gradient - b[1][name]).abs().max() <= tolerance * scale, name


@pytest.fixture
def graphs():
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def compiled_call(model, graphs, name):
    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(name)(graph, inputs)

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    return lambda _: call_encoder(compiled)


def test_compiled(graphs):
    """One graph, with the masks of eager code."""
    model = bert(num_hidden_layers=1).train()
    fd.fuse(model)
    call = compiled_call(model, graphs, "aot_eager")
    assert_same_step(step(model), run(model, call), 1e-5)
    other = run(model, call, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(other[0], step(model)[0], strict=True))
    assert len(graphs) == 1
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    norms = [target for target in targets if "dropout_add_norm" in target]
    pointwise = [target for target in targets if "bias_act_dropout" in target]
    # Two dropout calls, after the embeddings and in attention, and one activation.
    assert len(norms) == 2 and len(pointwise) == 3, targets


def test_requires_grad_flips(graphs):
    """Freezing a parameter compiles one more graph, as without fusing; other changes do not."""
    model = bert(num_hidden_layers=1).train()
    fd.fuse(model)
    call = compiled_call(model, graphs, "eager")
    bias = model.encoder.layer[0].output.dense.bias
    for frozen in (False, True, False, True):
        bias.requires_grad_(not frozen)
        _, gradients = run(model, call)
        assert (gradients["encoder.layer.0.output.dense.bias"] is None) == frozen
    assert len(graphs) == 2


def test_autocast(model):
    """Outputs and gradients have the dtype of the unfused model, and similar errors."""
    unfused = fd.unfuse(copy.deepcopy(model))
    for module in (*model.modules(), *unfused.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    exact = step(unfused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, fused = step(unfused), step(model)
    (a,), (b,), (right,) = plain[0], fused[0], exact[0]
    assert b.dtype == a.dtype
    assert (b - right).norm() <= 2 * (a - right).norm()
    for name, gradient in plain[1].items():
        if gradient is not None:
            got, truth = fused[1][name], exact[1][name]
            assert got.dtype == gradient.dtype
            scale = max(g.norm() for g in exact[1].values() if g is not None)
            assert (got - truth).norm() <= 2 * (gradient - truth).norm() + 1e-3 * scale, name


def test_autocast_with_dropout(model):
    """The masks are the same with and without autocast, because they come from the same seed."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (low,) = step(model)[0]
    (high,) = step(model)[0]
    assert (low - high).abs().mean() < 0.02 * high.abs().mean()


CHECKPOINTED = {
    "bert": (bert, call_encoder, lambda model: model.encoder.layer[0].attention),
    "vit": (
        lambda: build(hf.ViTModel, hf.ViTConfig(**IMAGES)),
        call_images,
        lambda model: model.layers[0].attention,
    ),
}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing(name, use_reentrant):
    """Also for layers that are fused: transformers wraps the call of each checkpointed layer."""
    make, call, layer_of = CHECKPOINTED[name]
    model = make().train()
    set_p(model, 0.1)
    fd.fuse(model)
    plain = run(model, call)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant and name == "bert":
        model.enable_input_require_grads()
    calls = []
    hook = layer_of(model).register_forward_hook(lambda *_: calls.append(1))
    assert_same_step(plain, run(model, call), 1e-6)
    hook.remove()
    assert len(calls) == 2  # the second in backward


def test_fuse_train_unfuse_save_load(model, tmp_path):
    step(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert fd.unfuse(model) is model
    model.save_pretrained(tmp_path)
    loaded = hf.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
    with torch.no_grad():
        (a,), (b,) = call_encoder(model.eval())[0], call_encoder(loaded.eval())[0]
    assert torch.equal(a, b)


def test_saved_while_fused(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert model.config._attn_implementation == "sdpa"
    loaded = hf.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).train()
    fd.fuse(loaded)
    assert_same_step(step(model), step(loaded))


def test_outputs_of_every_layer(model):
    ids, attention_mask = words()
    unfused = fd.unfuse(copy.deepcopy(model)).eval()
    model.eval()
    results = [
        one(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
        for one in (model, unfused)
    ]
    for a, b in zip(*(result.hidden_states for result in results), strict=True):
        assert torch.equal(a, b)
    model.train()
    result = model(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    assert len(result.hidden_states) == 3


def test_a_task_is_learned():
    """A fused model learns to tell two vocabularies apart."""
    torch.manual_seed(0)
    config = hf.BertConfig(**SIZES, num_labels=2)
    model = hf.BertForSequenceClassification(config).train()
    fd.fuse(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        labels = torch.randint(0, 2, (32,), generator=generator)
        ids = torch.randint(5, 25, (32, 8), generator=generator) + 20 * labels[:, None]
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.1 < losses[0]
