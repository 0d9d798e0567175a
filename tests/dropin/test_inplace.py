"""In-place calls of the drop-in layers."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.dropin.layers import WITH_MODE, example, expected, layers
from tests.module_helpers import drawing_nothing, fixed_state, outcome, seed_and_state


@pytest.mark.parametrize("name", WITH_MODE)
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_inplace_values(name, p):
    x = example(name)
    before, version = x.clone(), x._version
    state = seed_and_state(6)
    y = getattr(fd, name)(p, inplace=True)(x)
    assert y is x
    assert torch.equal(x, expected(name, before, p, state))
    assert x._version > version


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_layers_ignore_inplace(name):
    for layer in layers(name, 0.5, True):
        x = example(name, requires_grad=True)
        before = x.detach().clone()
        y = layer(x)
        assert y is not x
        assert y.data_ptr() != x.data_ptr()
        assert torch.equal(x, before)


def test_inplace_eval_in_classic_mode():
    x = torch.randn(5)
    before, version = x.clone(), x._version
    with drawing_nothing():
        assert fd.Dropout(0.25, inplace=True, mode="classic").eval()(x) is x
    assert torch.equal(x, before * 0.75)
    assert x._version > version


def leaf():
    return torch.randn(3, 4, requires_grad=True)


def view_of_leaf():
    return leaf()[1:]


def unbound():
    return (leaf() * 1).unbind()[0]


def no_grad_view():
    with torch.no_grad():
        return (leaf() * 1)[1:]


def custom_view():
    class View(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return View.apply(leaf() * 1)


@pytest.mark.parametrize("make", [leaf, view_of_leaf, unbound, no_grad_view, custom_view])
@pytest.mark.parametrize("p", [0.5, 1.0, 0.0])
@pytest.mark.parametrize("training", [True, False])
def test_inplace_errors_of_autograd(make, p, training):
    ours, theirs = (
        outcome(lambda layer=layer: layer.train(training)(make()))
        for layer in layers("Dropout", p, True)
    )
    assert ours[0] == theirs[0]
    if ours[0]:
        # Behind the first sentence torch names its own kernel.
        assert ours[1].split(". ")[0] == theirs[1].split(". ")[0]


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_inplace_error_draws_and_changes_nothing(p):
    x = leaf()
    before = x.detach().clone()
    with drawing_nothing(), pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        fd.Dropout(p, inplace=True)(x)
    assert torch.equal(x, before)
    assert x._version == 0


def test_inplace_on_a_leaf_without_recording():
    x = leaf()
    before, state = x.detach().clone(), seed_and_state(7)
    with torch.no_grad():
        assert FF.dropout(x, 0.5, inplace=True) is x
    assert torch.equal(x, expected("Dropout", before, 0.5, state))
    assert x._version == 1


def test_inplace_in_inference_mode():
    """The version counts there too, so that autograd sees the change later."""
    x = torch.ones(64)
    saved = torch.ones(64, requires_grad=True) * x
    state = seed_and_state(7)
    with torch.inference_mode():
        assert FF.dropout(x, 0.5, inplace=True) is x
    assert torch.equal(x, expected("Dropout", torch.ones(64), 0.5, state))
    assert x._version == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


def test_inplace_on_an_inference_tensor():
    with torch.inference_mode():
        x = torch.ones(64)
        state = seed_and_state(7)
        assert FF.dropout(x, 0.5, inplace=True) is x
        assert torch.equal(x, expected("Dropout", torch.ones(64), 0.5, state))
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        FF.dropout(x, 0.5, inplace=True)


def test_inplace_version_is_seen_by_autograd():
    y = torch.randn(4, requires_grad=True).exp()
    FF.dropout(y, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x[:, 1:], lambda x: x[1:], lambda x: x.t(), lambda x: x[::2, ::3]],
    ids=["whole", "columns", "rows", "transposed", "stepped"],
)
@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("drawn", [False, True])
def test_inplace_on_views(view, p, drawn):
    """The values, and the gradient of everything that shares memory with the view."""
    x = torch.randn(5, 7, requires_grad=True)
    weight = torch.randn(5, 7)
    state = seed_and_state(7) if drawn else fixed_state()

    base = x * 2
    part = view(base)
    assert FF.dropout(part, p, inplace=True, rng_state=None if drawn else state) is part
    (gradient,) = torch.autograd.grad((base * weight).sum(), x)

    with torch.no_grad():
        wanted = x * 2
        dropped = view(torch.ones(5, 7))
        dropped.copy_(reference.dropout(torch.ones_like(view(wanted)), p, state))
        factor = torch.ones(5, 7)
        view(factor).copy_(reference.dropout(torch.ones_like(view(x)), p, state))
    assert torch.equal(base, wanted * factor)
    assert torch.equal(gradient, weight * factor * 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_inplace_equals_out_of_place(order):
    x = torch.randn(3, 4, 5).permute(order)
    for part in (x, x[1:], x[:, 1:], x[:, :, ::2]):
        y = FF.dropout(part, 0.5, rng_state=fixed_state())
        inplace = part.clone(memory_format=torch.preserve_format)
        assert torch.equal(FF.dropout(inplace, 0.5, inplace=True, rng_state=fixed_state()), y)
