"""Every module works with torch's tools: the meta device, conversions, wrappers."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import skip_init

import fused_dropout as fd
from tests.every_module import MODULES, inputs_of

every_module = pytest.mark.parametrize("name", MODULES)
WITH_PARAMETERS = [name for name, entry in MODULES.items() if entry.has_parameters]
every_with_parameters = pytest.mark.parametrize("name", WITH_PARAMETERS)


def test_the_list_is_complete():
    public = {name for name in fd.modules.__all__ if isinstance(getattr(fd, name), type)}
    assert set(MODULES) == {name for name in public if issubclass(getattr(fd, name), nn.Module)}
    for name in WITH_PARAMETERS:
        assert list(MODULES[name].make().parameters()), name


def results(module, name, seed=3):
    torch.manual_seed(seed)
    return module(*inputs_of(name))


# ---------------------------------------------------------------- the meta device


@every_with_parameters
def test_memory_that_comes_later(name):
    """As a fresh module, from the same seed, once parameters are reset in order."""
    torch.manual_seed(0)
    fresh = MODULES[name].make()
    with torch.device("meta"):
        module = MODULES[name].make()
    assert all(parameter.is_meta for parameter in module.parameters())
    repr(module)
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.constant_(parameter, float("nan"))
    torch.manual_seed(0)
    for part in module.modules():
        # A module resets its own parameters only.
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert repr(module) == repr(fresh)
    for key, value in fresh.state_dict().items():
        assert torch.equal(module.state_dict()[key], value), key


@every_with_parameters
def test_factory_arguments(name):
    module = MODULES[name].make(device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if n != "WeightDrop"])
def test_skip_init(name):
    cls = getattr(fd, name)
    arguments = {"ConcreteDropout": ()}.get(name) or MODULES[name].make
    module = skip_init(cls, *getattr(arguments, "args", ()), **getattr(arguments, "keywords", {}))
    assert {p.device.type for p in module.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", [n for n in MODULES if n != "WeightDrop"])
def test_signatures_are_explicit(name):
    """Tools ask them for what a module takes, as skip_init does for a device."""
    parameters = inspect.signature(getattr(fd, name)).parameters
    assert all(one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters.values())
    assert MODULES[name].has_parameters == ({"device", "dtype"} <= set(parameters))


@every_module
def test_call_on_meta(name):
    """Shapes and dtypes, in training too, and no number from the CPU's generator."""
    entry = MODULES[name]
    module = entry.make(device="meta") if entry.has_parameters else entry.make()
    inputs = tuple(one.to("meta") for one in inputs_of(name))
    wanted = MODULES[name].make()(*inputs_of(name))
    before = torch.get_rng_state()
    y = module(*inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert y.is_meta and y.shape == wanted.shape and y.dtype == wanted.dtype


# ---------------------------------------------------------------- copies and conversions


@every_module
def test_copies(name):
    module = MODULES[name].make()
    wanted = results(module, name)
    for again in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module) and repr(again) == repr(module)
        assert torch.equal(results(again, name), wanted)


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if n != "WeightDrop"])
def test_conversion_by_swapping(name):
    module = MODULES[name].make()
    results(module, name).sum().backward()
    before = list(module.parameters())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.to(torch.float64)
        module.load_state_dict(module.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    for one, other in zip(module.parameters(), before, strict=True):
        assert one is other and one.dtype == torch.float64
        assert one.grad is None or one.grad.dtype == torch.float64
    inputs = (x.double() if x.is_floating_point() else x for x in inputs_of(name))
    assert module(*inputs).dtype == torch.float64


@every_with_parameters
def test_parameters_have_dimensions(name):
    """FSDP shards along the first one."""
    assert all(parameter.dim() > 0 for parameter in MODULES[name].make().parameters())


def test_a_logit_of_an_older_state_dict():
    module = fd.ConcreteDropout(0.3, layer=nn.Linear(8, 8))
    state = {**fd.ConcreteDropout(0.6, layer=nn.Linear(8, 8)).state_dict()}
    state["p_logit"] = state["p_logit"].reshape(())
    module.load_state_dict(state)
    assert module.p_logit.shape == (1,) and state["p_logit"].shape == ()
    torch.testing.assert_close(module.p, torch.tensor(0.6))
    nn.Sequential(module).load_state_dict({f"0.{key}": value for key, value in state.items()})
    state["p_logit"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="p_logit"):
        module.load_state_dict(state)


def test_a_pickled_module_with_a_logit_of_no_dimensions():
    module = fd.ConcreteDropout(0.3)
    module.p_logit = nn.Parameter(module.p_logit.detach().reshape(()))
    module = pickle.loads(pickle.dumps(module))
    results(module, "ConcreteDropout").sum().backward()
    assert module.p.shape == module.p_logit.grad.shape == ()


# ---------------------------------------------------------------- tools that look for a class

# Layers that replace one of torch's, and compute what it does in evaluation or alone.
DROP_INS = (nn.modules.dropout._DropoutNd, nn.LayerNorm, nn.RMSNorm)


@pytest.mark.parametrize("name", [n for n in MODULES if n != "WeightDrop"])
def test_no_module_passes_for_a_layer_that_computes_less(name):
    """Adapters and quantisers take subclasses of `Linear` and the like for what those compute."""
    cls = type(MODULES[name].make())
    theirs = {
        base
        for base in cls.__mro__
        if base.__module__.startswith("torch.nn") and base is not nn.Module
    }
    assert all(issubclass(base, DROP_INS) for base in theirs), theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["LinearActDropout", "LinearGLUDropout", "DropConnectLinear"])
def test_dynamic_quantisation_leaves_it_alone(name):
    quantization = pytest.importorskip("torch.ao.quantization")  # torch announces its removal
    module = MODULES[name].make()
    model = nn.Sequential(module, nn.Linear(8, 8)).eval()
    quantised = quantization.quantize_dynamic(model, {nn.Linear})
    assert type(quantised[0]) is type(module) and type(quantised[1]) is not nn.Linear
    x = torch.randn(6, 8)
    assert torch.equal(quantised[0](x), module.eval()(x))


@pytest.mark.parametrize("name", ["LinearActDropout", "LinearGLUDropout", "DropConnectLinear"])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_are_those_of_a_linear_layer(name, bias):
    torch.manual_seed(0)
    ours = getattr(fd, name)(3, 4, bias)
    torch.manual_seed(0)
    theirs = nn.Linear(ours.in_features, ours.out_features, bias)
    assert (theirs.in_features, theirs.out_features) == (3, 8 if "GLU" in name else 4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    assert (ours.bias is None) == (not bias)
    assert theirs.extra_repr() in repr(ours)
