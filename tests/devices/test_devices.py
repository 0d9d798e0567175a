"""Which devices have kernels, and what calls on the others do; tensors have no data here."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.functional import _devices
from fused_dropout.functional._devices import has_kernels, warn_without_kernels

HAS_CUDA = fd.build_info()["cuda"] is not None


@pytest.mark.parametrize(
    "device, expected", [("cpu", True), ("meta", True), ("cuda", HAS_CUDA), ("xpu", False)]
)
def test_has_kernels(device, expected):
    assert has_kernels(torch.device(device)) == expected
    with FakeTensorMode():
        assert has_kernels(torch.empty(3, device=device)) == expected


def test_a_device_warns_once(monkeypatch):
    monkeypatch.setattr(_devices, "_warned", set())
    with pytest.warns(UserWarning, match="no kernels for cuda tensors(.|\n)*FORCE_CUDA=1 pip"):
        warn_without_kernels(torch.device("cuda"))
    with pytest.warns(UserWarning, match="no kernels for xpu tensors.*CPU and CUDA tensors only"):
        warn_without_kernels(torch.device("xpu", 1))
    warn_without_kernels(torch.device("cuda", 1))  # a second warning would be an error here


def test_a_compiled_call_warns_while_it_is_traced(monkeypatch):
    monkeypatch.setattr(_devices, "_warned", set())

    def function(x):
        warn_without_kernels(torch.device("xpu"))
        return x + 1

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match="no kernels for xpu tensors"):
        compiled(torch.zeros(2))
    compiled(torch.zeros(2))


@pytest.mark.filterwarnings("ignore:fused_dropout. this build has no kernels for xpu")
def test_a_call_runs_torchs_dropout_or_the_operator_by_who_draws():
    calls = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            calls.append(op.name())
            return op(*args, **(kwargs or {}))

    def operators(**options):
        calls.clear()
        FF.bias_act_dropout(x, None, 0.5, "relu", **options)
        return [name for name in calls if name.startswith("fused_dropout")]

    with FakeTensorMode(), Record(), torch.no_grad():
        x = torch.empty(4, 6, device="xpu")
        state = torch.empty(2, dtype=torch.int64, device="xpu")
        assert operators() == operators(training=False) == []
        assert operators(rng_state=state, training=False) == []
        assert operators(rng_state=state) == ["fused_dropout::bias_act_dropout"]
        shard = fd.Shard((8, 6), (0, 0))
        drawn = ["fused_dropout::draw_rng_state", "fused_dropout::bias_act_dropout"]
        assert operators(shard=shard) == drawn
