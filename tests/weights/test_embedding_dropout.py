"""Dropout of words: one outcome for each row of the table."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import drawing_nothing, fixed_state, seed_and_state

P, WORDS, WIDTH = 0.3, 50, 7
Q = reference.keep_count(P) / 65536


def table(dtype=torch.float32, words=WORDS, grad=False):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(words, WIDTH, generator=generator).to(dtype).requires_grad_(grad)


def text(*shape, words=WORDS, dtype=torch.int64):
    return torch.randint(words, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("mode", ["inverted", "classic"])
@pytest.mark.parametrize("shape", [(4, 90), (200,), (3, 5, 20)])
@pytest.mark.parametrize("indices", [torch.int64, torch.int32])
def test_value_and_mask(shape, indices, mode):
    weight, words, state = table(grad=True), text(*shape, dtype=indices), fixed_state()
    y = FF.embedding_dropout(words, weight, P, mode=mode, rng_state=state)
    kept = reference.dropout_mask((WORDS,), P, state)
    assert torch.equal(kept, FF.dropout_mask((WORDS,), P, state))
    assert torch.equal((y != 0).all(-1), kept[words.long()])
    assert torch.equal((y == 0).all(-1), ~kept[words.long()])
    wanted = reference.embedding_dropout(words.long(), weight, P, state, mode=mode)
    torch.testing.assert_close(y, wanted, rtol=1e-6, atol=0)
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, weight, upstream)
    (theirs,) = torch.autograd.grad(wanted, weight, upstream)
    torch.testing.assert_close(gradient, theirs)
    assert (gradient[~kept] == 0).all()


def test_a_word_is_dropped_everywhere_or_nowhere():
    words = text(30, 40, words=9)
    torch.manual_seed(2)
    y = FF.embedding_dropout(words, torch.ones(9, WIDTH), 0.5)
    for word in range(9):
        assert len(y[words == word].unique()) == 1
    assert len(y.unique()) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(dtype):
    """The scale is not rounded to 16 bits."""
    weight, words, state = table(dtype), text(6, 9), fixed_state()
    y = FF.embedding_dropout(words, weight, P, rng_state=state)
    assert y.dtype == dtype
    assert torch.equal(y, reference.embedding_dropout(words, weight, P, state))


def test_nothing_is_drawn():
    weight, words = table(), text(4, 5)
    plain = F.embedding(words, weight)
    with drawing_nothing():
        assert torch.equal(FF.embedding_dropout(words, weight, P, training=False), plain)
        assert torch.equal(FF.embedding_dropout(words, weight, 0.0), plain)
        assert torch.equal(FF.embedding_dropout(words, weight, 1.0), torch.zeros_like(plain))
        y = FF.embedding_dropout(words, weight, P, training=False, mode="classic")
        torch.testing.assert_close(y, plain * Q)
        assert FF.embedding_dropout(words[:0], weight, P).shape == (0, 5, WIDTH)


def test_nan_and_infinity_are_dropped():
    weight = torch.full((3, 2), float("nan"), requires_grad=True)
    y = FF.embedding_dropout(torch.arange(3), weight, 1.0)
    assert torch.equal(y, torch.zeros(3, 2))
    (gradient,) = torch.autograd.grad(y, weight, torch.full((3, 2), float("inf")))
    assert torch.equal(gradient, torch.zeros(3, 2))


# ---------------------------------------------------------------- torch's options


def both(seed=3, dtype=torch.float32, **options):
    """The module, and torch's own with the same table, and a text in which words come again."""
    torch.manual_seed(0)
    ours = fd.EmbeddingDropout(WORDS, WIDTH, P, dtype=dtype, **options)
    theirs = nn.Embedding(WORDS, WIDTH, dtype=dtype, **options)
    theirs.load_state_dict(ours.state_dict())
    words = text(6, 30)
    state = seed_and_state(seed)
    kept = reference.dropout_mask((WORDS,), P, state)[words][..., None]
    return ours, theirs, words, kept


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 3},
        {"padding_idx": -1, "scale_grad_by_freq": True},
        {"sparse": True},
        {"sparse": True, "padding_idx": 0},
        {"max_norm": 1.0},
        {"max_norm": 2.0, "norm_type": 1.0, "scale_grad_by_freq": True},
    ],
)
def test_options_of_torch(options):
    ours, theirs, words, kept = both(**options)
    y = ours(words)
    wanted = torch.where(kept, theirs(words) / Q, 0.0)
    torch.testing.assert_close(y, wanted)
    assert torch.equal(ours.weight, theirs.weight)  # max_norm changes the table
    upstream = torch.randn_like(y)
    y.backward(upstream)
    wanted.backward(upstream)
    assert ours.weight.grad.is_sparse == options.get("sparse", False)
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())


def test_module():
    ours, theirs, words, _ = both()
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    with drawing_nothing():
        assert torch.equal(ours.eval()(words), theirs(words))
    ours.train()
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert repr(again) == repr(ours) == "EmbeddingDropout(50, 7, p=0.3)"
        torch.manual_seed(4)
        y = again(words)
        torch.manual_seed(4)
        assert torch.equal(ours(words), y)
    torch.manual_seed(5)
    first = fd.EmbeddingDropout(WORDS, WIDTH).weight
    torch.manual_seed(5)
    assert torch.equal(first, nn.Embedding(WORDS, WIDTH).weight)
    module = fd.EmbeddingDropout.from_pretrained(table(), p=0.25, mode="classic", padding_idx=2)
    assert repr(module) == "EmbeddingDropout(50, 7, padding_idx=2, p=0.25, mode='classic')"
    assert not module.weight.requires_grad and torch.equal(module.weight, table())
    assert fd.EmbeddingDropout(3, 2, device="meta", dtype=torch.float64).weight.is_meta


def test_gradcheck():
    weight, words = table(torch.float64, words=5, grad=True), text(8, words=5)
    state = fixed_state()

    def call(weight):
        return FF.embedding_dropout(words, weight, P, rng_state=state)

    assert torch.autograd.gradcheck(call, weight)
    assert torch.autograd.gradgradcheck(call, weight)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend):
    ours, _, words, _ = both()
    torch.manual_seed(6)
    y = ours(words)
    torch._dynamo.reset()
    torch.manual_seed(6)
    again = torch.compile(ours, backend=backend, fullgraph=True)(words)
    torch.testing.assert_close(again, y)
    upstream = torch.randn_like(y)
    gradients = [torch.autograd.grad(one, ours.weight, upstream)[0] for one in (y, again)]
    torch.testing.assert_close(*gradients)


def test_vmap():
    """One decision about a word for all calls, or one for each."""
    weight, words = table(), torch.arange(WORDS).expand(40, -1)
    calls = {}
    for randomness in ("same", "different"):
        call = torch.func.vmap(
            lambda words: FF.embedding_dropout(words, weight, P), randomness=randomness
        )
        calls[randomness] = (call(words) != 0).all(-1)
    assert torch.equal(calls["same"], calls["same"][:1].expand(40, -1))
    assert len(calls["different"].unique(dim=0)) == 40


def test_traced_and_checkpointed():
    ours, _, words, _ = both()
    traced = torch.fx.symbolic_trace(ours)
    torch.manual_seed(8)
    y = ours(words)
    torch.manual_seed(8)
    assert torch.equal(traced(words), y)
    torch.manual_seed(8)
    again = torch.utils.checkpoint.checkpoint(ours, words, use_reentrant=False)
    gradients = [torch.autograd.grad(one.square().sum(), ours.weight)[0] for one in (y, again)]
    assert torch.equal(*gradients)


def test_generator():
    weight, words = table(), text(4, 30)
    first, second = (
        FF.embedding_dropout(words, weight, P, generator=torch.Generator().manual_seed(9))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_no_table_in_memory():
    """What backward keeps does not grow with the vocabulary times the width."""
    weight = torch.randn(5000, 64, requires_grad=True)
    words, saved = text(3, 4, words=5000), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        FF.embedding_dropout(words, weight, P)
    known = {weight.untyped_storage().data_ptr()}
    sizes = [x.numel() for x in saved if x.untyped_storage().data_ptr() not in known]
    assert max(sizes) <= 12 * 64


# ---------------------------------------------------------------- bad input


def test_bad_input():
    weight, words = table(), text(4, 5)
    before = weight.clone()
    cases = [
        (ValueError, "between 0 and 1, but got 1.5", {"p": 1.5}),
        (ValueError, "embedding_dropout: mode is 'alpha'", {"mode": "alpha"}),
        (ValueError, "embedding_dropout: weight has 3 dimensions", {"weight": weight[None]}),
        (TypeError, "embedding_dropout: input is torch.float32", {"input": words.float()}),
        (Exception, "embedding_dropout.*rng_state", {"rng_state": torch.ones(2)}),
        (Exception, "embedding_dropout", {"weight": torch.ones(3, 2, dtype=torch.int64)}),
        (IndexError, "out of range", {"input": words + WORDS}),
    ]
    for error, message, changes in cases:
        arguments = {"input": words, "weight": weight, "p": P, "max_norm": 0.1, **changes}
        if error is IndexError:
            arguments["max_norm"] = None
        with drawing_nothing(), pytest.raises(error, match=message):
            FF.embedding_dropout(**arguments)
    assert torch.equal(weight, before)  # max_norm has not been applied
    for p in (-1, 2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fd.EmbeddingDropout(3, 2, p)
    with pytest.raises(ValueError, match="EmbeddingDropout: mode is 'other'"):
        fd.EmbeddingDropout(3, 2, mode="other")
    module = fd.EmbeddingDropout(3, 2)
    module.p = 2
    for training in (True, False):
        with pytest.raises(ValueError, match="but got 2"):
            module.train(training)(torch.tensor([1]))


@pytest.mark.parametrize("mode", ["inverted", "classic"])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_kept(mode, training):
    """Zeros, whatever the words, and gradients of zero."""
    weight = torch.full((5, 4), torch.nan, requires_grad=True)
    words = torch.tensor([0, 3])
    y = FF.embedding_dropout(words, weight, 1.0, training, mode=mode)
    if mode == "inverted" and not training:
        assert y.isnan().all()
        return
    assert torch.equal(y, torch.zeros(2, 4))
    (gradient,) = torch.autograd.grad(y, weight, torch.ones_like(y))
    assert torch.equal(gradient, torch.zeros(5, 4))
