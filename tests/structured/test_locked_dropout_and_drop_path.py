"""Locked dropout and stochastic depth against the contract, and against their definitions."""

import copy
import io

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import drawing_nothing, fixed_state, kept, seed_and_state

P = 0.3
SCALE = reference.scale(P)


def locked_dims(batch_first, ndim):
    return (1,) if batch_first and ndim == 3 else (0,)


def path_dims(per, ndim):
    return tuple(range(1 if per == "row" else 0, ndim))


# A module, the shape of its input, and the dimensions that share a decision.
CASES = {
    "locked, time first": (lambda **o: fd.LockedDropout(P, **o), (7, 3, 33), (0,)),
    "locked, batch first": (
        lambda **o: fd.LockedDropout(P, batch_first=True, **o),
        (3, 7, 33),
        (1,),
    ),
    "locked, no batch": (lambda **o: fd.LockedDropout(P, batch_first=True, **o), (7, 33), (0,)),
    "path, row": (lambda **o: fd.DropPath(P, **o), (40, 3, 5, 7), (1, 2, 3)),
    "path, row, vectors": (lambda **o: fd.DropPath(P, **o), (40, 9), (1,)),
    "path, row, numbers": (lambda **o: fd.DropPath(P, **o), (40,), ()),
    "path, batch": (lambda **o: fd.DropPath(P, per="batch", **o), (4, 3, 5), (0, 1, 2)),
    "path, batch, number": (lambda **o: fd.DropPath(P, per="batch", **o), (), ()),
}
every_case = pytest.mark.parametrize("name", CASES)


def make(name, **options):
    module, shape, dims = CASES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    return module(**options), x, dims


@every_case
def test_mask_of_output_and_gradient(name):
    module, x, dims = make(name)
    for seed in range(4):
        state = seed_and_state(seed)
        y = module(x)
        mask = kept(x, P, state, dims)
        assert torch.equal(y, torch.where(mask, x * SCALE, 0.0))
        upstream = torch.randn_like(y)
        (dx,) = torch.autograd.grad(y, x, upstream)
        assert torch.equal(dx, torch.where(mask, upstream * SCALE, 0.0))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_one_decision_along_the_shared_dimensions(name):
    module, x, dims = make(name)
    torch.manual_seed(1)
    mask = module(torch.ones_like(x)) != 0
    first = mask
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    assert torch.equal(mask, first.expand_as(mask))


@every_case
def test_evaluation_and_zero(name):
    module, x, _ = make(name)
    with drawing_nothing():
        assert module.eval()(x) is x
        module.train().p = 0.0
        assert module(x) is x
        module.p = 1.0
        assert torch.equal(module(x), torch.zeros_like(x))


@every_case
def test_classic(name):
    module, x, dims = make(name, mode="classic")
    state = seed_and_state(2)
    assert torch.equal(module(x), torch.where(kept(x, P, state, dims), x, 0.0))
    with drawing_nothing():
        torch.testing.assert_close(module.eval()(x), x * (1 / SCALE))


@every_case
def test_empty_input(name):
    module, x, _ = make(name)
    if x.dim():
        with drawing_nothing():
            assert module(x[:0]).shape == x[:0].shape


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(name, dtype):
    module, x, dims = make(name)
    x = x.detach().to(dtype)
    state = seed_and_state(3)
    y = module(x)
    assert y.dtype == dtype
    assert torch.equal(y, reference.dropout(x, P, state, shared_dims=dims))


@pytest.mark.parametrize("per", ["row", "batch"])
def test_drop_path_in_any_memory_format(per):
    x = torch.randn(6, 3, 4, 5).to(memory_format=torch.channels_last)
    module = fd.DropPath(P, per=per)
    for one in (x, x[::2], x[:, 1:], x.transpose(1, 3)):
        state = seed_and_state(4)
        y = module(one)
        assert torch.equal(y, reference.dropout(one, P, state, shared_dims=path_dims(per, 4)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_locked_on_a_transposed_sequence(batch_first):
    """Both orders of time and batch, in the memory of the other."""
    x = torch.randn(5, 4, 33).transpose(0, 1)
    state = seed_and_state(5)
    y = fd.LockedDropout(P, batch_first=batch_first)(x)
    dims = locked_dims(batch_first, 3)
    assert torch.equal(y, reference.dropout(x, P, state, shared_dims=dims))
    assert y.stride() == x.stride()


# ---------------------------------------------------------------- what others define


def timm_drop_path(x, p, training, scale_by_keep, mask):
    """Stochastic depth as timm computes it, under a mask of shape (N,)."""
    if p == 0 or not training:
        return x
    factors = mask.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    if p < 1 and scale_by_keep:
        factors = factors / (1 - p)
    return x * factors


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale_by_keep", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_drop_path_is_timms(p, scale_by_keep, training):
    x = torch.randn(50, 3, 4)
    module = fd.DropPath(p, scale_by_keep).train(training)
    state = seed_and_state(6)
    y = module(x)
    mask = FF.dropout_mask((50,), p, state)
    torch.testing.assert_close(y, timm_drop_path(x, p, training, scale_by_keep, mask))


def test_without_scale_by_keep_nothing_is_scaled():
    x = torch.randn(50, 3, 4)
    module = fd.DropPath(0.3, scale_by_keep=False)
    torch.manual_seed(7)
    y = module(x)
    rows = y.flatten(1).any(1)
    assert 0 < rows.sum() < 50
    assert torch.equal(y[rows], x[rows])
    assert module.eval()(x) is x


@pytest.mark.parametrize("per, count", [("row", 20000), ("batch", 1)])
def test_rates(per, count):
    module, x, kept_count = fd.DropPath(0.3, per=per), torch.ones(count, 2), 0
    torch.manual_seed(8)
    calls = 20000 // count
    for _ in range(calls):
        kept_count += int((module(x)[:, 0] != 0).sum())
    deviation = (20000 * 0.3 * 0.7) ** 0.5
    assert abs(kept_count - 14000) < 5 * deviation


def test_linear_drop_rates():
    assert fd.linear_drop_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    for p, depth in ((0.1, 12), (0.3, 7), (1, 3)):
        rates = fd.linear_drop_rates(p, depth)
        assert rates[0] == 0 and rates[-1] == p and len(rates) == depth
        theirs = torch.linspace(0, p, depth, dtype=torch.float64).tolist()
        assert rates == pytest.approx(theirs)
    assert fd.linear_drop_rates(0.2, 1) == [0.0]
    assert fd.linear_drop_rates(0.2, 0) == []
    # The paper's rule, 1 - l / L * (1 - p_L) being the probability to keep block l.
    assert fd.linear_drop_rates(0.5, 5)[1:] == pytest.approx([0.125, 0.25, 0.375, 0.5])


def test_token_and_head_dropout():
    """The one-liners of the documentation."""
    x, state = torch.ones(4, 9, 8), fixed_state()
    tokens = FF.dropout(x, P, shared_dims=(-1,), rng_state=state)
    assert torch.equal(
        tokens != 0, reference.dropout_mask((4, 9), P, state)[..., None].expand(x.shape)
    )
    heads = FF.dropout(torch.ones(4, 3, 9, 8), P, shared_dims=(2, 3), rng_state=state)
    mask = reference.dropout_mask((4, 3), P, state)[..., None, None]
    assert torch.equal(heads != 0, mask.expand(heads.shape))
    torch.manual_seed(9)
    again = fd.Dropout(P, shared_dims=(-1,))(x)
    torch.manual_seed(9)
    assert torch.equal(again, fd.Dropout(P, noise_shape=(None, None, 1))(x))


def test_stochastic_depth_with_its_residual_in_one_pass():
    x, residual, state = torch.randn(40, 3, 5), torch.randn(40, 3, 5), fixed_state()
    y = FF.bias_dropout_add(x, None, residual, P, shared_dims=(1, 2), rng_state=state)
    branch = reference.dropout(x, P, state, shared_dims=(1, 2))
    torch.testing.assert_close(y, residual + branch)


# ---------------------------------------------------------------- as modules


@every_case
def test_copies(name):
    module, x, _ = make(name, mode="classic")
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    torch.manual_seed(10)
    y = module(x)
    for again in (copy.deepcopy(module), torch.load(stream, weights_only=False)):
        assert repr(again) == repr(module)
        torch.manual_seed(10)
        assert torch.equal(again(x), y)
    assert not module.state_dict() and type(module).is_dropout is True


@every_case
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(name, backend):
    module, x, _ = make(name)
    torch.manual_seed(11)
    y = module(x)
    torch._dynamo.reset()
    torch.manual_seed(11)
    assert torch.equal(torch.compile(module, backend=backend, fullgraph=True)(x), y)


def test_two_calls_in_one_graph_differ():
    module, x = fd.LockedDropout(0.5), torch.ones(3, 4, 64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: (module(x), module(x)), backend="aot_eager", fullgraph=True)
    first, second = compiled(x)
    assert not torch.equal(first, second)


def test_checkpointing():
    module = fd.LockedDropout(P)
    x = torch.randn(5, 4, 8, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: module(x).square(), x, use_reentrant=False)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, 2 * y.detach() / x.detach())


def test_traced():
    model = torch.nn.Sequential(fd.LockedDropout(P), fd.DropPath(P))
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(4, 5, 6)
    torch.manual_seed(12)
    y = model(x)
    torch.manual_seed(12)
    assert torch.equal(traced(x), y)


def test_repr():
    assert repr(fd.LockedDropout(0.25)) == "LockedDropout(p=0.25, batch_first=False)"
    assert repr(fd.LockedDropout(0.25, mode="classic")) == (
        "LockedDropout(p=0.25, batch_first=False, mode='classic')"
    )
    assert repr(fd.DropPath(0.1, per="batch")) == (
        "DropPath(p=0.1, scale_by_keep=True, per='batch')"
    )


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("module", [fd.LockedDropout, fd.DropPath])
def test_bad_probability(module):
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            module(p)
    layer = module(0.5)
    layer.p = 2
    for training in (True, False):
        with pytest.raises(ValueError, match="but got 2"):
            layer.train(training)(torch.ones(2, 2))


@pytest.mark.parametrize("ndim", [0, 1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_locked_dimensions(ndim, training):
    for batch_first, expected in ((False, r"\(T, B, H\)"), (True, r"\(B, T, H\)")):
        layer = fd.LockedDropout(0.5, batch_first=batch_first).train(training)
        with (
            drawing_nothing(),
            pytest.raises(RuntimeError, match=f"input has {ndim} dimensions, .*{expected}"),
        ):
            layer(torch.ones([2] * ndim))


def test_bad_arguments():
    with drawing_nothing(), pytest.raises(RuntimeError, match="DropPath: input has 0 dimensions"):
        fd.DropPath(0.5)(torch.tensor(1.0))
    with pytest.raises(ValueError, match="DropPath: per is 'column'"):
        fd.DropPath(0.5, per="column")
    with pytest.raises(ValueError, match="only one of them"):
        fd.DropPath(0.5, scale_by_keep=False, mode="classic")
    for module in (fd.LockedDropout, fd.DropPath):
        with pytest.raises(ValueError, match=f"{module.__name__}: mode is 'alpha'"):
            module(0.5, mode="alpha")
        with drawing_nothing(), pytest.raises(RuntimeError, match=r"dtype|float"):
            module(0.5)(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="between 0 and 1"):
        fd.linear_drop_rates(1.5, 3)
    for depth in (-1, 2.0, True, None):
        with pytest.raises(ValueError, match="linear_drop_rates: depth is"):
            fd.linear_drop_rates(0.1, depth)
