"""Checks that run in two processes. `test_fusion_distributed.py` starts the processes once."""

import copy
import datetime
import json
import traceback

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.fusion.fusing import Net, called, classes, mlp

RANKS = 2
X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))


def net(p):
    """A fused model, the same on every rank."""
    torch.manual_seed(0)
    model = Net(p)
    fd.fuse(model)
    return model


def own_chunk(x):
    return x.chunk(RANKS)[dist.get_rank()]


def gather(x):
    parts = [torch.empty_like(x) for _ in range(RANKS)]
    dist.all_gather(parts, x.detach().contiguous())
    return parts


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_same_training(parallel, steps=2):
    """Two steps on half a batch per rank, against an unfused model on the full batch."""
    torch.manual_seed(0)
    single = Net(0.0)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (parallel, single)]
    for step in range(steps):
        x = X + step
        for optimizer in optimizers:
            optimizer.zero_grad()
        y, wanted = parallel(own_chunk(x)), single(x)
        torch.testing.assert_close(y, own_chunk(wanted), rtol=1e-4, atol=1e-5)
        y.square().mean().backward()
        wanted.square().mean().backward()
        for p, other in zip(parallel.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(full(p.grad), other.grad, rtol=1e-4, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
    for p, other in zip(parallel.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(full(p), other, rtol=1e-4, atol=1e-5)


def assert_masks(model):
    """Inputs and parameters are equal on all ranks, so only different masks change the output."""
    for same in (True, False):
        torch.manual_seed(7 if same else 7 + dist.get_rank())
        one, other = gather(model(X))
        assert torch.equal(one, other) == same


def check_data_parallel():
    assert_same_training(DistributedDataParallel(net(0.0)))


def check_data_parallel_with_bucket_views():
    model = DistributedDataParallel(net(0.0), gradient_as_bucket_view=True, bucket_cap_mb=0.001)
    assert_same_training(model)
    assert all(p.grad._base is not None for p in model.parameters())


def check_data_parallel_masks():
    model = DistributedDataParallel(net(0.5))
    assert_masks(model)
    # The ranks have different masks, and the gradients are averaged over the ranks.
    model(X).sum().backward()
    for p in model.parameters():
        one, other = gather(p.grad)
        assert torch.equal(one, other) and p.grad.isfinite().all()


def check_data_parallel_fused_afterwards():
    torch.manual_seed(0)
    model = DistributedDataParallel(Net(0.0))
    report = fd.fuse(model)
    assert report.fused and all(site.name.startswith("module.") for site in report.fused)
    assert_same_training(model)
    fd.unfuse(model)
    assert classes(model.module) == classes(Net())


def check_masks_from_a_state():
    """A state that one rank draws and sends to the others gives all ranks the same masks."""
    torch.manual_seed(dist.get_rank())
    state = fd.new_rng_state()
    own = FF.dropout(X, 0.5, rng_state=state)
    one, other = gather(own)
    assert not torch.equal(one, other)
    dist.broadcast(state, 0)
    one, other = gather(FF.dropout(X, 0.5, rng_state=state))
    assert torch.equal(one, other)


def sharded(p):
    model = net(p)
    for layer in model.encoder:
        fully_shard(layer)
    return fully_shard(model)


def check_sharded():
    model = sharded(0.0)
    names = called(lambda: model(own_chunk(X)))
    assert {"fused_dropout::dropout_add_norm", "fused_dropout::bias_act_dropout"} <= names
    model = sharded(0.0)
    assert list(model.state_dict()) == list(Net().state_dict())
    assert_same_training(model)


def check_sharded_masks():
    assert_masks(sharded(0.5))


def check_sharded_layers_inside():
    """A linear layer that is sharded by itself is called, because the call gathers its weight."""
    torch.manual_seed(0)
    model = mlp(0.0)
    wanted = copy.deepcopy(model)(own_chunk(X))
    fd.fuse(model)
    for layer in (model[0], model[3]):
        fully_shard(layer)
    torch.testing.assert_close(model(own_chunk(X)), wanted)


def check_sharded_models_are_not_fused_afterwards():
    torch.manual_seed(0)
    model = Net()
    for layer in model.encoder:
        fully_shard(layer)
    report = fd.fuse(fully_shard(model), "torch.nn")
    assert [site.name for site in report.skipped] == ["encoder.0", "encoder.1"]
    assert all("DTensor" in site.text for site in report.skipped)


def check_unfuse_reports_a_changed_class():
    model = sharded(0.1)
    before = classes(model)
    assert {site.text for site in fd.fuse(model, strict=True).sites} == {"is already fused"}
    try:
        fd.unfuse(model)
    except RuntimeError as error:
        assert "the class of encoder.0 was changed after fuse" in str(error)
    else:
        raise AssertionError("nothing was raised")
    assert classes(model) == before
    assert isinstance(model.encoder[0], nn.TransformerEncoderLayer)


CHECKS = [name for name in list(globals()) if name.startswith("check_")]


def run(rank, folder):
    """Writes {check: traceback, or None} to a file of the folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    results = {}
    for name in CHECKS:
        try:
            globals()[name]()
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    dist.destroy_process_group()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(results, file)
