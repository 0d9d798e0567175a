"""What two processes check together; `test_fusion_distributed.py` starts them, once for all."""

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
    """The same on every rank."""
    torch.manual_seed(0)
    model = Net(p)
    fd.fuse(model)
    return model


def mine(x):
    return x.chunk(RANKS)[dist.get_rank()]


def of_all(x):
    parts = [torch.empty_like(x) for _ in range(RANKS)]
    dist.all_gather(parts, x.detach().contiguous())
    return parts


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_same_training(parallel, steps=2):
    """Two steps of halves of a batch, against two of all of it in an unfused copy."""
    torch.manual_seed(0)
    alone = Net(0.0)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (parallel, alone)]
    for step in range(steps):
        x = X + step
        for optimizer in optimizers:
            optimizer.zero_grad()
        y, wanted = parallel(mine(x)), alone(x)
        torch.testing.assert_close(y, mine(wanted), rtol=1e-4, atol=1e-5)
        y.square().mean().backward()
        wanted.square().mean().backward()
        for p, other in zip(parallel.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(p.grad), other.grad, rtol=1e-4, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
    for p, other in zip(parallel.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(whole(p), other, rtol=1e-4, atol=1e-5)


def assert_masks(model):
    """Inputs and parameters are equal, so that it is the masks that make a difference."""
    for same in (True, False):
        torch.manual_seed(7 if same else 7 + dist.get_rank())
        one, other = of_all(model(X))
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
    # Each rank has masks of its own, and the gradients are those of all ranks.
    model(X).sum().backward()
    for p in model.parameters():
        one, other = of_all(p.grad)
        assert torch.equal(one, other) and p.grad.isfinite().all()


def check_data_parallel_fused_afterwards():
    torch.manual_seed(0)
    model = DistributedDataParallel(Net(0.0))
    report = fd.fuse(model)
    assert report.fused and all(place.name.startswith("module.") for place in report.fused)
    assert_same_training(model)
    fd.unfuse(model)
    assert classes(model.module) == classes(Net())


def check_masks_from_a_state():
    """A state drawn on one rank and sent to the others."""
    torch.manual_seed(dist.get_rank())
    state = fd.new_rng_state()
    own = FF.dropout(X, 0.5, rng_state=state)
    one, other = of_all(own)
    assert not torch.equal(one, other)
    dist.broadcast(state, 0)
    one, other = of_all(FF.dropout(X, 0.5, rng_state=state))
    assert torch.equal(one, other)


def sharded(p):
    model = net(p)
    for layer in model.encoder:
        fully_shard(layer)
    return fully_shard(model)


def check_sharded():
    model = sharded(0.0)
    names = called(lambda: model(mine(X)))
    assert {"fused_dropout::dropout_add_norm", "fused_dropout::bias_act_dropout"} <= names
    model = sharded(0.0)
    assert list(model.state_dict()) == list(Net().state_dict())
    assert_same_training(model)


def check_sharded_masks():
    assert_masks(sharded(0.5))


def check_sharded_layers_inside():
    """A linear layer that is sharded by itself is called, as it gathers its weight when called."""
    torch.manual_seed(0)
    model = mlp(0.0)
    wanted = copy.deepcopy(model)(mine(X))
    fd.fuse(model)
    for layer in (model[0], model[3]):
        fully_shard(layer)
    torch.testing.assert_close(model(mine(X)), wanted)


def check_sharded_models_are_not_fused_afterwards():
    torch.manual_seed(0)
    model = Net()
    for layer in model.encoder:
        fully_shard(layer)
    report = fd.fuse(fully_shard(model), "transformer")
    assert [place.name for place in report.left] == ["encoder.0", "encoder.1"]
    assert all("distributed" in place.text for place in report.left)


def check_unfuse_says_that_the_class_changed():
    model = sharded(0.1)
    before = classes(model)
    assert {place.text for place in fd.fuse(model, strict=True).places} == {"is fused already"}
    try:
        fd.unfuse(model)
    except RuntimeError as error:
        assert "the class of encoder.0 was changed since it was fused" in str(error)
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
