"""Calls on a device without kernels. `test_without_kernels` runs this file in its own process,
because the device stays registered."""

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.functional import _devices
from tests import every_function
from tests.devices.python_device import TYPE, to_cpu, to_device
from tests.every_function import CALLS, STATE, every_call
from tests.every_module import MODULES, inputs_of

pytestmark = pytest.mark.filterwarnings("ignore:fused_dropout. this build has no kernels")


def call(name, tensors, **options):
    """Like `every_function.run`, with the tensors among the options on the device too."""
    given = {
        key: to_device(value) if isinstance(value, torch.Tensor) else value
        for key, value in CALLS[name].options.items()
    }
    return dataclasses.replace(CALLS[name], options=given)(tensors, **options)


def moved(tensors):
    return {key: to_device(value) for key, value in tensors.items()}


def on_cpu(tensors):
    return [None if one is None else to_cpu(one.detach()) for one in tensors]


# ---------------------------------------------------------------- this package's masks


@every_call
def test_with_a_state_results_and_gradients_are_those_of_the_kernels(name):
    tensors = every_function.tensors_of(name)
    expected = every_function.run(name, tensors, rng_state=STATE)
    upstream = every_function.upstream_of(expected)
    here = moved(tensors)
    results = call(name, here, rng_state=to_device(STATE))
    assert all(one.device.type == TYPE for one in results)
    every_function.assert_close(on_cpu(results), [one.detach() for one in expected])
    gradients = every_function.gradients_of(results, here, [to_device(one) for one in upstream])
    every_function.assert_close(
        on_cpu(gradients.values()),
        every_function.gradients_of(expected, tensors, upstream).values(),
    )


def test_a_second_derivative_with_a_state():
    def second(x, state):
        y = FF.bias_act_dropout(x, None, 0.4, "gelu", rng_state=state)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (result,) = torch.autograd.grad(first.square().sum(), x)
        return result

    x = torch.randn(7, 40, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(to_cpu(second(to_device(x), to_device(STATE))), second(x, STATE))


@pytest.mark.parametrize("offsets, sizes", [((0, 3), (4, 8)), ((2, 0), (2, 11)), ((1, 8), (3, 3))])
def test_a_shard_has_its_part_of_the_mask(offsets, sizes):
    x = torch.randn(4, 11)
    part = x[offsets[0] :, offsets[1] :][: sizes[0], : sizes[1]]
    full = FF.dropout(x, 0.4, rng_state=STATE)
    y = FF.dropout(
        to_device(part), 0.4, rng_state=to_device(STATE), shard=fd.Shard((4, 11), offsets)
    )
    expected = full[offsets[0] :, offsets[1] :][: sizes[0], : sizes[1]]
    assert torch.equal(to_cpu(y), expected)


def test_a_generator_is_not_ignored():
    with pytest.raises(RuntimeError, match=f"generator is on cpu, but x is on {TYPE}"):
        FF.dropout(to_device(torch.ones(4, 6)), 0.5, generator=torch.Generator())


# ---------------------------------------------------------------- torch's masks


@every_call
def test_without_a_state_gradients_match_the_mask_of_the_result(name):
    """By finite differences; the mask is that of the seed, and drawn once."""
    tensors = every_function.tensors_of(name, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    steps = {
        key: 1e-5 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for key, value in tensors.items()
        if key != "z"  # standout compares random numbers with it
    }

    def values(sign):
        changed = {key: value.detach() + sign * steps.get(key, 0) for key, value in tensors.items()}
        torch.manual_seed(5)
        here = {key: value.requires_grad_() for key, value in moved(changed).items()}
        return call(name, here), here

    results, here = values(0)
    expected = every_function.run(name, tensors, rng_state=STATE)
    for one, other in zip(results, expected, strict=True):
        assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, TYPE)
    upstream = every_function.upstream_of(expected)
    gradients = every_function.gradients_of(results, here, [to_device(one) for one in upstream])
    slope = sum((to_cpu(gradients[key]) * step).sum() for key, step in steps.items())

    def total(sign):
        return sum(
            (to_cpu(one.detach()) * weights).sum()
            for one, weights in zip(values(sign)[0], upstream, strict=True)
        )

    torch.testing.assert_close(slope, (total(1) - total(-1)) / 2, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shared_dims", [(), (1,), (0, -1)])
@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("inplace", [False, True])
def test_moments(mode, shared_dims, inplace):
    p = 0.3
    x = torch.randn(60, 5, 40, generator=torch.Generator().manual_seed(0)) * 2 + 1
    torch.manual_seed(0)
    draws = 400
    given = to_device(x)
    y = torch.stack(
        [
            to_cpu(
                FF.dropout(
                    to_device(x) if inplace else given,
                    p,
                    mode=mode,
                    shared_dims=shared_dims,
                    inplace=inplace,
                )
            )
            for _ in range(draws)
        ]
    )
    scale, shift, fill = fd.reference.constants(p, mode)
    kept = torch.isclose(y, scale * x + shift)
    assert (kept | torch.isclose(y, torch.tensor(fill))).all()
    decisions = draws * x.numel()
    for dim in shared_dims:
        first = kept.narrow(dim % x.dim() + 1, 0, 1)
        assert (kept == first).all()
        decisions /= x.shape[dim]
    error = (kept.float().mean() - (1 - p)).abs()
    assert error < 5 * (p * (1 - p) / decisions) ** 0.5 + 1e-6


def same_seed(ours, torchs):
    results = []
    for function in (ours, torchs):
        torch.manual_seed(3)
        results.append(to_cpu(function()))
    torch.testing.assert_close(*results)


def test_plain_calls_are_torchs_from_the_same_seed():
    x, residual = (to_device(torch.randn(6, 16)) for _ in range(2))
    bias = to_device(torch.randn(16))
    same_seed(lambda: FF.dropout(x, 0.3), lambda: F.dropout(x, 0.3))
    same_seed(
        lambda: FF.bias_act_dropout(x, bias, 0.3, residual=residual),
        lambda: residual + F.dropout(F.gelu(x + bias), 0.3),
    )
    same_seed(
        lambda: FF.dropout_add_layer_norm(x, residual, bias, bias, p=0.3),
        lambda: F.layer_norm(residual + F.dropout(x, 0.3), (16,), bias, bias),
    )
    same_seed(
        lambda: FF.bias_glu_dropout(x, None, 0.3, gate_first=False, activation="sigmoid"),
        lambda: F.dropout(F.glu(x), 0.3),
    )


@pytest.mark.parametrize("residual_dtype", [torch.bfloat16, torch.float32])
def test_dtypes_are_those_of_the_kernels(residual_dtype):
    x = torch.randn(6, 16, dtype=torch.bfloat16)
    residual, weight = torch.randn(6, 16, dtype=residual_dtype), torch.randn(16)
    for function in (
        lambda x, r, w: FF.bias_act_dropout(x, w, 0.3, residual=r),
        lambda x, r, w: FF.dropout_add_layer_norm(x, r, w, p=0.3),
        lambda x, r, w: FF.dropout_add_rms_norm(x, r, w, p=0.3, prenorm=True),
    ):
        expected, found = (
            function(x, residual, weight),
            function(*map(to_device, (x, residual, weight))),
        )
        as_tuple = [one if isinstance(one, tuple) else (one,) for one in (expected, found)]
        for one, other in zip(*as_tuple, strict=True):
            assert one.dtype == other.dtype


def test_bad_arguments_raise_the_same_error():
    with pytest.raises(RuntimeError, match="bias has 5 elements, but x has 6"):
        FF.bias_act_dropout(to_device(torch.ones(4, 6)), to_device(torch.ones(5)))
    with pytest.raises(IndexError, match="shared_dims has 2"):
        FF.dropout(to_device(torch.ones(4, 6)), 0.5, shared_dims=(2,))


# ---------------------------------------------------------------- modules and the warning


def on_this_device(name, **options):
    torch.manual_seed(0)
    return MODULES[name].make().to(TYPE), [to_device(x) for x in inputs_of(name, **options)]


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    torch.manual_seed(0)
    reference = MODULES[name].make()
    inputs = inputs_of(name)
    module, _ = on_this_device(name)
    here = [to_device(x) for x in inputs]
    expected, found = reference(*inputs), module(*here)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if MODULES[name].has_parameters:
        found.sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
    torch.testing.assert_close(
        to_cpu(module.eval()(*here).detach()), reference.eval()(*inputs).detach()
    )


def test_monte_carlo_mode():
    model = nn.Sequential(fd.LinearActDropout(8, 8, p=0.5), nn.Linear(8, 4)).to(TYPE).eval()
    x = to_device(torch.randn(5, 8))
    assert torch.equal(to_cpu(model(x).detach()), to_cpu(model(x).detach()))
    with fd.mc_mode(model):
        assert not torch.equal(to_cpu(model(x).detach()), to_cpu(model(x).detach()))


def test_one_warning_with_the_reason():
    _devices._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in CALLS:
            call(name, moved(every_function.tensors_of(name)))
            call(name, moved(every_function.tensors_of(name)), rng_state=to_device(STATE))
        for name in MODULES:
            module, inputs = on_this_device(name)
            module(*inputs)
    texts = [str(one.message) for one in caught if "fused_dropout" in str(one.message)]
    assert len(texts) == 1, texts
    assert f"no kernels for {TYPE} tensors" in texts[0]


@pytest.mark.parametrize("options", [{}, {"rng_state": to_device(STATE)}])
def test_compiled(options):
    def function(x, residual):
        return FF.bias_act_dropout(x, None, 0.5, residual=residual, **options)

    x, residual = (to_device(torch.randn(4, 6)).requires_grad_() for _ in range(2))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    y = compiled(x, residual)
    torch.manual_seed(0)
    expected = function(x, residual)
    torch.testing.assert_close(to_cpu(y.detach()), to_cpu(expected.detach()))
    y.sum().backward()
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(to_cpu(x.grad), to_cpu(gradient))
