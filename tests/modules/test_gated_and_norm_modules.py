"""The gated and the normalised modules: parity with what they replace, state dicts, copies."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import seed_and_state

MODULES = {
    "BiasGLUDropout": lambda p=0.2: fd.BiasGLUDropout(5, p, "gelu"),
    "LinearGLUDropout": lambda p=0.2: fd.LinearGLUDropout(10, 5, p=p),
    "GatedMLP": lambda p=0.2: fd.GatedMLP(10, 7, 10, p, gate_first=False),
    "DropoutAddLayerNorm": lambda p=0.2: fd.DropoutAddLayerNorm(10, p),
    "DropoutAddRMSNorm": lambda p=0.2: fd.DropoutAddRMSNorm(10, p, prenorm=True),
    "full": lambda p=0.2: fd.DropoutAddLayerNorm(
        (2, 5), p, branch_bias=True, activation="silu", prenorm=True, layer_scale_init=0.1
    ),
}
every_module = pytest.mark.parametrize("name", MODULES)


def inputs_of(name):
    torch.manual_seed(1)
    if name == "full":
        return torch.randn(4, 2, 5), torch.randn(4, 2, 5)
    count = 2 if "Add" in name else 1
    return tuple(torch.randn(4, 10) for _ in range(count))


def call(module, inputs, seed=3):
    torch.manual_seed(seed)
    result = module(*inputs)
    return result if isinstance(result, tuple) else (result,)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@every_module
def test_copies_and_state_dicts(name):
    module, inputs = MODULES[name](), inputs_of(name)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    expected = call(module, inputs)
    assert same(call(copy.deepcopy(module), inputs), expected)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    assert same(call(torch.load(stream, weights_only=False), inputs), expected)
    other = MODULES[name]()
    other.load_state_dict(module.state_dict())
    assert same(call(other, inputs), expected)


@every_module
def test_evaluation_and_zero(name):
    module, inputs = MODULES[name](), inputs_of(name)
    module.eval()
    one = call(module, inputs)
    assert same(call(module, inputs, seed=9), one)
    never = MODULES[name](p=0.0)
    never.load_state_dict(module.state_dict())
    assert same(call(never, inputs), one)


KEYS = {
    "BiasGLUDropout": ["bias"],
    "LinearGLUDropout": ["weight", "bias"],
    "GatedMLP": ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"],
    "DropoutAddLayerNorm": ["weight", "bias"],
    "DropoutAddRMSNorm": ["weight"],
    "full": ["weight", "bias", "branch_bias", "layer_scale"],
}


@every_module
def test_keys(name):
    assert list(MODULES[name]().state_dict()) == KEYS[name]


def test_torchs_classes():
    assert isinstance(MODULES["DropoutAddLayerNorm"](), nn.LayerNorm)
    assert isinstance(MODULES["DropoutAddRMSNorm"](), nn.RMSNorm)
    ours, theirs = fd.DropoutAddLayerNorm((2, 5)), nn.LayerNorm((2, 5))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    for options in ({"elementwise_affine": False}, {"bias": False}):
        ours = fd.DropoutAddLayerNorm(5, **options).state_dict()
        assert ours.keys() == nn.LayerNorm(5, **options).state_dict().keys()
    assert not fd.DropoutAddRMSNorm(5, elementwise_affine=False).state_dict()


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_torchs(affine):
    torch.manual_seed(0)
    module = fd.DropoutAddLayerNorm((3, 4), 0.3, 1e-3, affine)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x, residual = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    state = seed_and_state(2)
    y = module(x, residual)
    h = residual + reference.dropout(x, 0.3, state)
    expected = F.layer_norm(h, (3, 4), module.weight, module.bias, 1e-3)
    torch.testing.assert_close(y, expected)


def test_rms_norm_is_torchs():
    torch.manual_seed(0)
    module = fd.DropoutAddRMSNorm(12, 0.3, prenorm=True)
    nn.init.normal_(module.weight)
    x, residual = torch.randn(6, 12), torch.randn(6, 12)
    state = seed_and_state(2)
    y, h = module(x, residual)
    torch.testing.assert_close(h, residual + reference.dropout(x, 0.3, state))
    torch.testing.assert_close(y, F.rms_norm(h, (12,), module.weight, 1e-5))


def test_everything_at_once():
    torch.manual_seed(0)
    module = MODULES["full"]()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x, residual, row_scale = torch.randn(4, 2, 5), torch.randn(4, 2, 5), torch.rand(4)
    state = seed_and_state(2)
    y, h = module(x, residual, row_scale)
    branch = reference.dropout(F.silu(x + module.branch_bias), 0.2, state)
    expected = residual + row_scale[:, None, None] * module.layer_scale * branch
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(y, F.layer_norm(expected, (2, 5), module.weight, module.bias))


def test_no_residual():
    module = fd.DropoutAddLayerNorm((2, 5), 0.0)
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(module(x, None), F.layer_norm(x, (2, 5)))


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gated_mlp(bias, gate_first):
    torch.manual_seed(0)
    module = fd.GatedMLP(6, 8, 3, 0.25, "gelu_tanh", gate_first=gate_first, bias=bias)
    x = torch.randn(5, 6)
    state = seed_and_state(2)
    y = module(x)
    gate, value = F.linear(x, module.fc1.weight, module.fc1.bias).chunk(2, -1)
    if not gate_first:
        gate, value = value, gate
    hidden = F.gelu(gate, approximate="tanh") * value
    kept = FF.dropout_mask(hidden.shape, 0.25, state)
    expected = module.fc2(torch.where(kept, hidden * reference.scale(0.25), 0))
    torch.testing.assert_close(y, expected)


def test_glu_is_torchs():
    module = fd.BiasGLUDropout(4, 0.0, "sigmoid", gate_first=False)
    x = torch.randn(3, 8)
    torch.testing.assert_close(module(x), nn.GLU()(x))


def test_initial_values():
    module = fd.DropoutAddLayerNorm(4, branch_bias=True, layer_scale_init=1e-4)
    expected = {"weight": 1.0, "bias": 0.0, "branch_bias": 0.0, "layer_scale": 1e-4}
    for key, value in expected.items():
        assert torch.equal(module.state_dict()[key], torch.full((4,), value))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    module.reset_parameters()
    for key, value in expected.items():
        assert torch.equal(module.state_dict()[key], torch.full((4,), value))
    assert torch.equal(fd.BiasGLUDropout(3).bias, torch.zeros(6))


def test_devices_and_dtypes():
    for make in (
        lambda **o: fd.DropoutAddLayerNorm(4, branch_bias=True, layer_scale_init=1, **o),
        lambda **o: fd.DropoutAddRMSNorm(4, branch_bias=True, **o),
        lambda **o: fd.GatedMLP(4, 5, 6, **o),
        lambda **o: fd.BiasGLUDropout(4, **o),
    ):
        module = make(device="meta", dtype=torch.bfloat16)
        for parameter in module.parameters():
            assert parameter.device.type == "meta" and parameter.dtype == torch.bfloat16


def test_repr():
    assert repr(fd.BiasGLUDropout(4)) == (
        "BiasGLUDropout(4, p=0.5, activation='silu', gate_first=True)"
    )
    assert repr(fd.DropoutAddLayerNorm(4, 0.1, prenorm=True)) == (
        f"DropoutAddLayerNorm({torch.nn.LayerNorm(4).extra_repr()}, p=0.1, "
        "activation='identity', prenorm=True)"
    )
    text = repr(fd.DropoutAddRMSNorm(4, branch_bias=True, layer_scale_init=0.5))
    assert text.endswith("branch_bias=True, layer_scale_init=0.5)")


def test_training_moves_every_parameter():
    torch.manual_seed(0)
    modules = [MODULES["full"](), fd.GatedMLP(10, 7, 10, 0.2), fd.BiasGLUDropout(5)]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, 0.1)
    x = torch.randn(4, 2, 5)
    y, h = modules[0](x, x)
    modules[2](modules[1]((y + h).flatten(1))).square().sum().backward()
    optimizer.step()
    for parameter, old in zip(parameters, before, strict=True):
        assert not torch.equal(parameter, old)
