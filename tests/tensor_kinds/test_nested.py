"""Nested tensors: a call equals a call on their values."""

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing
from tests.noise.calls import DRAWING
from tests.tensor_kinds.nested_tensors import (
    ALONG_ROWS,
    BIAS,
    ELEMENTWISE,
    EVERY,
    REGULAR,
    STATE,
    WIDTH,
    irregular,
    jagged,
    strided,
    transposed,
    values_of,
    with_holes,
)

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
every_kind = pytest.mark.parametrize("make", REGULAR.values(), ids=REGULAR)


def assert_nested_like(y, x):
    assert y.is_nested and y.layout == x.layout
    if x.layout == torch.jagged:
        assert y.offsets() is x.offsets() and y.lengths() is x.lengths()
        assert y._ragged_idx == x._ragged_idx
        assert (y._maybe_min_seqlen, y._maybe_max_seqlen) == (
            x._maybe_min_seqlen,
            x._maybe_max_seqlen,
        )
        assert y.shape[: y.dim() - 1] == x.shape[: x.dim() - 1]
    else:
        assert [one.dim() for one in y.unbind()] == [one.dim() for one in x.unbind()]


@every_kind
@pytest.mark.parametrize(
    "call", {**ELEMENTWISE, **ALONG_ROWS}.values(), ids={**ELEMENTWISE, **ALONG_ROWS}
)
def test_values_and_gradients(make, call):
    """With a state, and with a generator."""
    x, dense = make(grad=True), values_of(make()).clone().requires_grad_()
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for ours, theirs in (
        ({"rng_state": STATE}, {"rng_state": STATE}),
        ({"generator": generators[0]}, {"generator": generators[1]}),
    ):
        y, wanted = call(x, **ours), call(dense, **theirs)
        assert_nested_like(y, x)
        assert torch.equal(y.values().view(wanted.shape), wanted)
    upstream = torch.linspace(-1, 1, wanted.numel()).view(wanted.shape)
    y.values().backward(upstream.view(y.values().shape))
    wanted.backward(upstream)
    assert torch.equal(x.grad.values().view(dense.shape), dense.grad)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("call", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_parts_of_any_shape(make, call):
    x = make(grad=True)
    dense = x.detach().values().clone()
    if make is strided:
        dense = dense.view(-1)
    y = call(x, rng_state=STATE)
    wanted = call(dense, rng_state=STATE)
    assert torch.equal(y.values().reshape(wanted.shape), wanted)
    y.values().sum().backward()
    assert x.grad.is_nested


@every_kind
def test_the_mask_is_that_of_the_values(make):
    x, state = make(), STATE
    y = FF.dropout(x, 0.5, rng_state=state)
    kept = FF.dropout_mask(x.values().shape, 0.5, state)
    assert torch.equal(y.values(), torch.where(kept, x.values() * 2, 0))


def test_a_strided_one_that_is_not_contiguous():
    x = strided()
    y = FF.dropout(x.transpose(1, 2), 0.5, rng_state=STATE)
    for ours, part in zip(y.unbind(), x.unbind(), strict=True):
        assert ours.shape == part.t().shape and ((ours == 0) | (ours == part.t() * 2)).all()


def test_no_parts_and_empty_parts():
    for x in (torch.nested.nested_tensor([]), torch.nested.nested_tensor([torch.ones(0, 3)] * 2)):
        with drawing_nothing():
            assert FF.dropout(x, 0.5) is x or FF.dropout(x, 0.5).numel() == 0
            assert FF.bias_act_dropout(x, None, 0.5).numel() == 0


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_nothing_happens_without_dropping(make):
    x = make()
    with drawing_nothing():
        assert FF.dropout(x, 0.0) is x
        for layer in (fd.Dropout(), fd.AlphaDropout(), fd.GaussianDropout(), fd.ConcreteDropout()):
            assert layer.eval()(x) is x


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("make", [jagged, strided])
@pytest.mark.parametrize(
    "layer",
    [
        fd.Dropout(0.5),
        fd.Dropout1d(0.5),
        fd.AlphaDropout(0.5),
        *(call.make_module() for call in DRAWING.values()),
        fd.ConcreteDropout(0.5, layer=nn.Linear(WIDTH, 4)),
        fd.BiasActDropout(WIDTH),
        fd.BiasGLUDropout(WIDTH // 2),
        fd.LinearActDropout(WIDTH, 6),
        fd.LinearGLUDropout(WIDTH, 6),
        fd.DropConnectLinear(WIDTH, 6, activation="relu"),
        fd.MLP(WIDTH, 6, 4),
        fd.GatedMLP(WIDTH, 6, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers(make, layer):
    x = make(grad=True)
    for training in (True, False):
        torch.manual_seed(3)
        y = layer.train(training)(x)
        torch.manual_seed(3)
        wanted = layer(values_of(x.detach()))
        assert y.is_nested
        torch.testing.assert_close(y.values().view(wanted.shape), wanted)
    y.values().sum().backward()
    assert x.grad.is_nested


@every_kind
@pytest.mark.parametrize("shape", [(4, 2), (2,)], ids=str)
@pytest.mark.parametrize("cls", [fd.DropoutAddLayerNorm, fd.DropoutAddRMSNorm])
def test_norms_over_several_dimensions(make, shape, cls):
    layer = cls(shape, prenorm=True, shared_dims=(-1,) if shape == (2,) else (), branch_bias=True)
    x = make()
    dense = values_of(x).view(-1, 4, 2)
    if x.layout == torch.strided:
        x = torch.nested.nested_tensor([part.reshape(-1, 4, 2) for part in x.unbind()])
    else:
        x = torch.nested.nested_tensor_from_jagged(dense, x.offsets(), x.lengths())
    rows = dense.sum((-2, -1)) if shape == (4, 2) else dense.sum(-1)
    if x.layout == torch.strided:
        parts = [part.sum((-2, -1)) if shape == (4, 2) else part.sum(-1) for part in x.unbind()]
        nested_rows = torch.nested.nested_tensor(parts)
    else:
        nested_rows = torch.nested.nested_tensor_from_jagged(rows, x.offsets(), x.lengths())
    torch.manual_seed(3)
    results = layer(x, x, nested_rows)
    torch.manual_seed(3)
    for ours, wanted in zip(results, layer(dense, dense, rows), strict=True):
        torch.testing.assert_close(ours.values().view(wanted.shape), wanted)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
def test_words(layout):
    words = torch.nested.nested_tensor([torch.tensor([1, 2, 1]), torch.tensor([3])], layout=layout)
    module = fd.EmbeddingDropout(5, 3, 0.5)
    for training in (True, False):
        torch.manual_seed(3)
        y = module.train(training)(words)
        torch.manual_seed(3)
        assert torch.equal(y.values().view(-1, 3), module(words.values()))
        assert [part.shape for part in y.unbind()] == [(3, 3), (1, 3)]
    y.values().sum().backward()
    assert module.weight.grad.count_nonzero() > 0


def test_attention_is_torchs():
    heads = jagged().unflatten(-1, [2, 4]).transpose(1, 2)
    y = FF.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)
    assert y.is_nested
    for option in ({"rng_state": STATE}, {"generator": torch.Generator()}):
        with drawing_nothing(), pytest.raises(ValueError, match=r"scaled_dot_.*: \w+ is given"):
            FF.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5, **option)


# ---------------------------------------------------------------- in place


@every_kind
def test_in_place(make):
    x = make()
    before = values_of(x).clone()
    y = FF.dropout(x, 0.5, inplace=True, rng_state=STATE)
    assert y is x
    assert torch.equal(values_of(x), FF.dropout(before, 0.5, rng_state=STATE))


@every_kind
def test_in_place_needs_no_gradient(make):
    x = make(grad=True)
    before = x.detach().values().clone()
    with drawing_nothing(), pytest.raises(RuntimeError, match=r"dropout: inplace is True.* grad"):
        FF.dropout(x, 0.5, inplace=True)
    assert torch.equal(x.detach().values(), before)
    with torch.no_grad():
        FF.dropout(x, 1.0, inplace=True)
    assert not x.detach().values().any()


def test_in_place_needs_contiguous_parts():
    with drawing_nothing(), pytest.raises(RuntimeError, match=r"dropout: inplace .* contiguous"):
        FF.dropout(strided().transpose(1, 2), 0.5, inplace=True)


# ---------------------------------------------------------------- what is refused

RAGGED = {
    "shared_dims": lambda x, dim: FF.dropout(x, 0.5, shared_dims=(dim,)),
    "noise_shape": lambda x, dim: FF.gaussian_dropout(
        x, 0.5, noise_shape=[1 if i == dim else None for i in range(3)]
    ),
    "bias_dim": lambda x, dim: FF.bias_act_dropout(x, BIAS, 0.5, bias_dim=dim),
}


@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize(
    ("make", "dim", "why"),
    [
        (jagged, 0, "batch"),
        (jagged, 1, "ragged"),
        (strided, 1, "ragged"),
        (transposed, 2, "ragged"),
        (irregular, 2, "ragged"),
        (with_holes, 1, "ragged"),
    ],
)
def test_dimensions_without_one_size(name, make, dim, why):
    text = rf"^\w*dropout: {name} names dimension {dim} of x, a nested tensor, which is .*{why}"
    with drawing_nothing(), pytest.raises(ValueError, match=text):
        RAGGED[name](make(), dim)


REFUSED = {
    "drop_path": (lambda: fd.DropPath(0.5)(jagged()), "dimension 1 .* ragged"),
    "locked": (lambda: fd.LockedDropout(0.5)(jagged()), "dimension 0 .* batch"),
    "glu": (lambda: FF.bias_glu_dropout(transposed()), "^bias_glu_dropout: dimension -1 of x"),
    "norm": (
        lambda: FF.dropout_add_layer_norm(transposed(), None),
        "^dropout_add_layer_norm: dimension -1 of x, a nested tensor, is ragged",
    ),
    "norm, all": (lambda: fd.DropoutAddLayerNorm((2, 3, 8))(jagged(), None), "x, a nested tensor"),
    "entries": (
        lambda: FF.dropout(jagged(), noise_shape=(None, 1)),
        "noise_shape has 2 entries, but x has 3",
    ),
    "dimension": (
        lambda: FF.dropout(jagged(), shared_dims=(3,)),
        "shared_dims has 3, but x has 3 dimensions",
    ),
    "shard": (
        lambda: FF.dropout(jagged(), shard=fd.Shard((2, 3, 8), (0, 0, 0))),
        "^dropout: shard is given, but x is a nested tensor",
    ),
    "dense residual": (
        lambda: FF.bias_dropout_add(jagged(), None, torch.ones(2, 3, 8)),
        "^bias_dropout_add: residual is not nested",
    ),
    "other offsets": (
        lambda: FF.bias_dropout_add(jagged(), None, jagged()),
        "^bias_dropout_add: residual has other parts",
    ),
    "other sizes": (
        lambda: FF.standout(strided(), strided(width=4)),
        "^standout: z has other parts",
    ),
    "other layout": (
        lambda: FF.bias_act_dropout(strided(), residual=jagged()),
        "^bias_act_dropout: residual has other parts",
    ),
    "row_scale": (
        lambda: FF.dropout_add_rms_norm(jagged(), None, row_scale=torch.ones(2, 3)),
        "^dropout_add_rms_norm: row_scale is not nested",
    ),
    "drop_block": (lambda: FF.drop_block(jagged()), "^drop_block: x is a nested tensor"),
    "mask": (
        lambda: FF.dropout_mask((8, 8), 0.5, STATE, like=jagged()),
        "dropout_mask: like is nested",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    call, text = REFUSED[name]
    with (
        drawing_nothing(),
        pytest.raises((ValueError, TypeError, RuntimeError, IndexError), match=text),
    ):
        call()


# ---------------------------------------------------------------- compiled


COMPILED = {
    **{name: (jagged, ELEMENTWISE[name]) for name in ("dropout", "gaussian_dropout", "standout")},
    **{name: (jagged, ALONG_ROWS[name]) for name in ("bias_dropout_add, bias", "layer norm")},
    "transposed": (transposed, ELEMENTWISE["dropout"]),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name):
    make, call = COMPILED[name]
    torch._dynamo.reset()
    results = []
    for function in (call, torch.compile(call, backend="aot_eager", fullgraph=True)):
        x = make(grad=True)
        torch.manual_seed(3)
        y = function(x)
        y.values().sum().backward()
        assert y.shape == x.shape
        results.append((y.detach().values(), x.grad.values()))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("make", [jagged, with_holes])
def test_compiled_without_gradients(make):
    """torch cannot differentiate tensors with holes there."""

    def call(x):
        return FF.dropout(x * 1.0, 0.5, inplace=True), FF.dropout(x, 0.5)

    torch._dynamo.reset()
    results = []
    for function in (call, torch.compile(call, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        results.append(function(make()))
    for ours, wanted in zip(*results, strict=True):
        assert torch.equal(ours.values(), wanted.values())


def test_the_noise_shape_of_a_gated_call_refers_to_the_result():
    x = torch.nested.nested_tensor([torch.randn(3, 16), torch.randn(5, 16)], layout=torch.jagged)
    y = FF.bias_glu_dropout(x, None, 0.5, noise_shape=(2, None, 8))
    assert y.shape[2] == 8
    with pytest.raises(ValueError, match="noise_shape has 16 in dimension"):
        FF.bias_glu_dropout(x, None, 0.5, noise_shape=(2, None, 16))
