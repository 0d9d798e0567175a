"""FSDP2 around every module with parameters, in this process alone."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fused_dropout as fd
from tests.every_module import MODULES, inputs_of


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def full(parameters):
    return [parameter.full_tensor().detach().clone() for parameter in parameters]


# WeightDrop replaces parameters by tensors, and so does FSDP.
@pytest.mark.parametrize(
    "name", [n for n, entry in MODULES.items() if entry.has_parameters and n != "WeightDrop"]
)
def test_a_step(mesh, name):
    torch.manual_seed(0)
    module, plain = MODULES[name].make(), MODULES[name].make()
    plain.load_state_dict(module.state_dict())
    inputs = inputs_of(name)
    fully_shard(module, mesh=mesh)
    repr(module)
    for one in (module, plain):
        torch.manual_seed(1)
        one(*inputs).square().sum().backward()
        torch.optim.SGD(one.parameters(), 0.01).step()
    for ours, theirs in zip(full(module.parameters()), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_regularisation(mesh):
    """Of weights and of p, where both are distributed."""

    def make():
        torch.manual_seed(0)
        layers = (fd.ConcreteDropout(0.3, layer=nn.Linear(8, size)) for size in (8, 2))
        return nn.Sequential(*layers)

    plain, model = make(), make()
    fully_shard(model, mesh=mesh)
    terms = [fd.concrete_regularization(one) for one in (plain, model)]
    for term in terms:
        assert term.dim() == 0
        term.backward()
    torch.testing.assert_close(terms[1].full_tensor(), terms[0])
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)
