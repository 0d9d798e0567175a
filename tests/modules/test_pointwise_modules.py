"""The modules against the modules of torch.nn that they replace, with the same mask."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import drawing_nothing, kept, seed_and_state

P = 0.3
SCALE = reference.scale(P)

# Made, and given what inputs.
MODULES = {
    "BiasActDropout": (lambda **options: fd.BiasActDropout(6, P, **options), [(4, 5, 6)]),
    "LinearActDropout": (lambda **options: fd.LinearActDropout(3, 6, p=P, **options), [(4, 5, 3)]),
    "BiasDropoutAdd": (lambda **options: fd.BiasDropoutAdd(6, P, **options), [(4, 5, 6)] * 2),
    "MLP": (lambda **options: fd.MLP(3, 6, 2, P, **options), [(4, 5, 3)]),
}
every_module = pytest.mark.parametrize("name", MODULES)


def make(name, **options):
    """The module with parameters that are not zero, and its inputs."""
    torch.manual_seed(0)
    module, shapes = MODULES[name]
    module = module(**options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module, [torch.randn(shape, requires_grad=True) for shape in shapes]


def drop(x, state, training=True):
    return torch.where(kept(x, P, state), x * SCALE, 0.0) if training else x


def unfused(name, module, inputs, state, training=True):
    """What the module computes, in torch's operators."""
    x = inputs[0]
    if name == "BiasActDropout":
        return drop(F.gelu(x + module.bias), state, training)
    if name == "LinearActDropout":
        return drop(F.gelu(F.linear(x, module.weight, module.bias)), state, training)
    if name == "BiasDropoutAdd":
        return inputs[1] + drop(x + module.bias, state, training)
    hidden = F.gelu(F.linear(x, module.fc1.weight, module.fc1.bias))
    return F.linear(drop(hidden, state, training), module.fc2.weight, module.fc2.bias)


def assert_same(ours, theirs, module, inputs):
    """The output, and the gradient of everything under a gradient that is not constant."""
    torch.testing.assert_close(ours, theirs)
    wanted = [*inputs, *module.parameters()]
    upstream = torch.randn_like(ours)
    gradients, their_gradients = (torch.autograd.grad(y, wanted, upstream) for y in (ours, theirs))
    for one, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other)


@every_module
def test_training(name):
    module, inputs = make(name)
    state = seed_and_state(1)
    y = module(*inputs)
    assert (~kept(y if name != "MLP" else torch.empty(4, 5, 6), P, state)).any()
    assert_same(y, unfused(name, module, inputs, state), module, inputs)


@every_module
def test_evaluation(name):
    module, inputs = make(name)
    module.eval()
    with drawing_nothing():
        y = module(*inputs)
    assert_same(y, unfused(name, module, inputs, None, training=False), module, inputs)


@every_module
def test_each_call_draws_once(name):
    module, inputs = make(name)
    torch.manual_seed(2)
    first, second = module(*inputs), module(*inputs)
    assert not torch.equal(first, second)
    torch.manual_seed(2)
    fd.new_rng_state()
    assert torch.equal(module(*inputs), second)


@every_module
def test_p_set_later(name):
    module, inputs = make(name)
    layer = module.fc1 if name == "MLP" else module
    layer.p = 1.0
    with drawing_nothing():
        y = module(*inputs)
    rest = {"BiasDropoutAdd": lambda: inputs[1], "MLP": lambda: module.fc2.bias.expand(4, 5, 2)}
    torch.testing.assert_close(y, rest.get(name, lambda: torch.zeros(4, 5, 6))())
    assert y.data_ptr() != inputs[-1].data_ptr()
    layer.p = 0.0
    with drawing_nothing():
        y = module(*inputs)
    torch.testing.assert_close(y, unfused(name, module, inputs, None, training=False))


@pytest.mark.parametrize("activation", FF.ACTIVATIONS)
@pytest.mark.parametrize("name", ["BiasActDropout", "LinearActDropout", "MLP"])
def test_activations(name, activation):
    module, inputs = make(name, activation=activation)
    state = seed_and_state(3)
    y = module(*inputs)
    x = inputs[0]
    if name == "BiasActDropout":
        linear, bias = x, module.bias
    else:
        first = module.fc1 if name == "MLP" else module
        linear, bias = F.linear(x, first.weight), first.bias
    wanted = reference.bias_act_dropout(linear, bias, P, activation, state)
    torch.testing.assert_close(y, module.fc2(wanted) if name == "MLP" else wanted)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bias_after_a_convolution(channels_last):
    module = fd.BiasActDropout(6, P, "relu", bias_dim=1)
    nn.init.normal_(module.bias)
    x = torch.randn(2, 6, 3, 5, requires_grad=True)
    if channels_last:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    state = seed_and_state(4)
    y = module(x)
    assert y.stride() == x.stride()
    # The mask follows the memory of x, and the sum may lie otherwise.
    wanted = torch.where(kept(x, P, state), F.relu(x + module.bias.view(1, -1, 1, 1)) * SCALE, 0.0)
    assert_same(y, wanted, module, [x])


def test_linear_without_bias():
    module = fd.LinearActDropout(3, 6, bias=False, p=P)
    assert module.bias is None
    x = torch.randn(4, 3, requires_grad=True)
    state = seed_and_state(5)
    y = module(x)
    assert_same(y, drop(F.gelu(F.linear(x, module.weight)), state), module, [x])


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("BiasActDropout", {"bias": (6,)}),
        ("LinearActDropout", {"weight": (6, 3), "bias": (6,)}),
        ("BiasDropoutAdd", {"bias": (6,)}),
        (
            "MLP",
            {
                "fc1.weight": (6, 3),
                "fc1.bias": (6,),
                "fc2.weight": (2, 6),
                "fc2.bias": (2,),
            },
        ),
    ],
)
def test_state_dict(name, shapes):
    module, inputs = make(name)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == shapes
    again = MODULES[name][0]()
    again.load_state_dict(module.state_dict())
    torch.manual_seed(6)
    y = module(*inputs)
    torch.manual_seed(6)
    assert torch.equal(again(*inputs), y)


def test_starts_as_torchs_linear_does():
    torch.manual_seed(7)
    theirs = nn.Linear(3, 6)
    torch.manual_seed(7)
    ours = fd.LinearActDropout(3, 6)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_bias_starts_at_zero():
    for module in (fd.BiasActDropout(6), fd.BiasDropoutAdd(6)):
        assert torch.equal(module.bias, torch.zeros(6))
        nn.init.ones_(module.bias)
        module.reset_parameters()
        assert torch.equal(module.bias, torch.zeros(6))


def test_weights_go_to_torchs_linear_and_back():
    ours, theirs = fd.LinearActDropout(3, 6, p=P).eval(), nn.Linear(3, 6)
    x = torch.randn(4, 3)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), F.gelu(theirs(x)))
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), F.gelu(theirs(x)))


def test_weights_of_the_mlp_go_to_torchs_chain():
    class Unfused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc2(F.gelu(self.fc1(x)))

    ours, theirs, x = fd.MLP(3, 6, 2).eval(), Unfused(), torch.randn(4, 3)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@every_module
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(name, dtype):
    module, inputs = make(name, dtype=dtype)
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    y = module(*(one.to(dtype) for one in inputs))
    assert y.dtype == dtype
    y.float().sum().backward()
    assert {parameter.grad.dtype for parameter in module.parameters()} == {dtype}


@every_module
def test_device(name):
    module, inputs = make(name, device="meta")
    assert {str(parameter.device) for parameter in module.parameters()} == {"meta"}
    shape = (4, 5, 2) if name == "MLP" else (4, 5, 6)
    assert module(*(one.to("meta") for one in inputs)).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LinearActDropout", "MLP"])
def test_autocast(name, dtype):
    """The dtype of the unfused modules, and its values but for roundings of 16 bits."""
    module, inputs = make(name)
    state = seed_and_state(8)
    with torch.autocast("cpu", dtype=dtype):
        y = module(*inputs)
        wanted = unfused(name, module, inputs, state)
    assert y.dtype == wanted.dtype == dtype
    torch.testing.assert_close(y, wanted, rtol=3e-2, atol=3e-2)
    y.float().sum().backward()
    assert {parameter.grad.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fp32_residual_of_a_half_branch(dtype):
    """Of autocast, and of models that keep the residual in fp32."""
    module, (x, residual) = make("BiasDropoutAdd")
    x = x.to(dtype)
    state = seed_and_state(9)
    with torch.autocast("cpu", dtype=dtype):
        y = module(x, residual)
    assert y.dtype == torch.float32
    wanted = residual + drop(x.float() + module.bias, state)
    torch.testing.assert_close(y, wanted)


# ---------------------------------------------------------------- copies and words


def repickle(module):
    return pickle.loads(pickle.dumps(module))


@every_module
@pytest.mark.parametrize("roundtrip", [copy.deepcopy, repickle])
def test_copies(name, roundtrip):
    module, inputs = make(name)
    again = roundtrip(module)
    assert type(again) is type(module)
    assert repr(again) == repr(module)
    torch.manual_seed(10)
    y = module(*inputs)
    torch.manual_seed(10)
    assert torch.equal(again(*inputs), y)
    for ours, copied in zip(module.parameters(), again.parameters(), strict=True):
        assert ours.data_ptr() != copied.data_ptr()


def test_repr():
    assert repr(fd.BiasActDropout(6, 0.25, "relu", bias_dim=1)) == (
        "BiasActDropout(6, p=0.25, activation='relu', bias_dim=1)"
    )
    assert repr(fd.LinearActDropout(3, 6, False, 0.25)) == (
        "LinearActDropout(in_features=3, out_features=6, bias=False, p=0.25, activation='gelu')"
    )
    assert repr(fd.BiasDropoutAdd(6)) == "BiasDropoutAdd(6, p=0.5)"
    assert repr(fd.MLP(3, 6, 2, 0.25, "silu")).splitlines()[1].strip() == (
        "(fc1): LinearActDropout(in_features=3, out_features=6, bias=True, p=0.25, "
        "activation='silu')"
    )


def test_defaults():
    assert (fd.BiasActDropout(6).p, fd.BiasActDropout(6).activation) == (0.5, "gelu")
    assert (fd.LinearActDropout(3, 6).p, fd.LinearActDropout(3, 6).activation) == (0.5, "gelu")
    assert fd.BiasDropoutAdd(6).p == 0.5
    assert (fd.MLP(3, 6, 2).fc1.p, fd.MLP(3, 6, 2).fc1.activation) == (0.5, "gelu")


def test_inside_a_sequential_model():
    """A few steps of training lower the loss."""
    torch.manual_seed(11)
    model = nn.Sequential(fd.LinearActDropout(8, 64, p=0.1), fd.MLP(64, 64, 1, p=0.1))
    x = torch.randn(256, 8)
    y = x[:, :1] * x[:, 1:2]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
