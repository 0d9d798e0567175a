"""Contexts of fd.mc_mode that overlap, end in any order, belong to threads, are interrupted."""

import gc
import itertools
import sys
import threading

import pytest
import torch
from torch import nn

import fused_dropout as fd
from fused_dropout.monte_carlo import _contexts
from tests.thread_helpers import in_threads


def network():
    return nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), fd.MLP(8, 8, 8), nn.Dropout1d()
    )


def flags(*models):
    return [module.training for model in models for module in model.modules()]


@pytest.fixture(autouse=True)
def nothing_is_left():
    fast_path = torch.backends.mha.get_fastpath_enabled()
    yield
    assert not _contexts._ACTIVE and not _contexts._FLAGS and not _contexts._FAST_PATH
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def leave(context):
    context.__exit__(None, None, None)


def patterns():
    """Three contexts: on one model with other layers, and on one that shares modules with it."""
    model = network().train()
    model[0].eval()
    other = nn.ModuleList([model[3], nn.Dropout().eval()])
    contexts = [fd.mc_mode(model), fd.mc_mode(model, only="2"), fd.mc_mode(other, only="1")]
    return contexts, (model, other)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order(order):
    contexts, models = patterns()
    before = flags(*models)
    states = []  # with the contexts so far, by those that are active
    for context in contexts:
        context.__enter__()
        states.append(flags(*models))
    active = [0, 1, 2]
    for i in order:
        leave(contexts[i])
        active.remove(i)
        # As if the others alone had been entered, in their order.
        fresh, others = patterns()
        for j in active:
            fresh[j].__enter__()
        assert flags(*models) == flags(*others)
        assert torch.backends.mha.get_fastpath_enabled() == (not active)
        for j in active:
            leave(fresh[j])
    assert flags(*models) == before and len(set(map(str, states))) == 3


def test_the_fast_path_is_counted_over_all_models():
    first, second = fd.mc_mode(network()), fd.mc_mode(network())
    first.__enter__(), second.__enter__()
    leave(first)
    assert not torch.backends.mha.get_fastpath_enabled()
    leave(second)


def test_train_and_eval_inside_are_forgotten():
    model = network().train()
    before = flags(model)
    with fd.mc_mode(model):
        model.eval()
        with fd.mc_mode(model):
            model.train()
        assert sum(flags(model)) == 3
        model.eval()
    assert flags(model) == before


def test_decorator_and_repeated_use():
    model = network().eval()
    mode = fd.mc_mode(model)

    @mode
    def depth(n):
        assert model[2].training
        return 0 if n == 0 else 1 + depth(n - 1)

    assert depth(3) == 3 and not model[2].training
    for _ in range(2):
        with mode, mode:
            assert model[2].training
        assert not model[2].training


# ---------------------------------------------------------------- threads


def test_predictions_in_threads():
    """Each is that of a model in evaluation whose dropout drops; two models share a part."""
    shared = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Dropout())
    models = [nn.Sequential(shared, nn.Dropout(), nn.Linear(64, 2)).eval() for _ in range(2)]
    before = flags(*models)
    x = torch.randn(3, 8)
    statistics = shared[1].running_mean.clone()

    def work(i):
        model = models[i % 2]
        for _ in range(15):
            samples = fd.mc_dropout(model, x, 4, keep_samples=True).samples
            assert len({tuple(sample.flatten().tolist()) for sample in samples}) == 4
            with fd.mc_mode(model):
                assert model[1].training and not model.training
                assert not torch.backends.mha.get_fastpath_enabled()

    in_threads(work)
    assert flags(*models) == before
    assert torch.equal(shared[1].running_mean, statistics)


def test_one_context_object_in_threads():
    model = network().train()
    before = flags(model)
    mode = fd.mc_mode(model)

    @mode
    def decorated():
        assert model[2].training and not model[1].training

    def work(_):
        for _ in range(30):
            decorated()
            with mode:
                assert model[2].training and not model[1].training

    in_threads(work)
    assert flags(model) == before


def test_threads_that_want_different_layers():
    model = network().eval()
    before = flags(model)
    inside, done = threading.Event(), threading.Event()

    def work(i):
        if i == 0:
            with fd.mc_mode(model, only="2"):
                inside.set()
                done.wait(30)
                assert [name for name, one in model.named_modules() if one.training] == ["2"]
            return
        inside.wait(30)
        try:
            text = (
                "mc_mode: another thread is in mc_mode or mc_dropout of Sequential, where a "
                "Dropout of this model drops, but here it should not; use a copy of the model"
            )
            with pytest.raises(RuntimeError, match=text):
                fd.mc_mode(model, only="4").__enter__()
            with pytest.raises(RuntimeError, match="mc_dropout: another thread"):
                fd.mc_dropout(model, torch.randn(2, 8), 2, only="4")
            with fd.mc_mode(model, only="2"):
                pass
        finally:
            done.set()

    in_threads(work, 2)
    assert flags(model) == before


# ---------------------------------------------------------------- interruptions


def interrupted_at(count, body):
    """Runs it with a KeyboardInterrupt at one of the lines of the contexts; whether there was."""
    lines = itertools.count()

    def trace(frame, event, argument):
        # Python itself does not let an exception out of `__del__`.
        if frame.f_code.co_filename != _contexts.__file__ or frame.f_code.co_name == "__del__":
            return None
        if event == "line" and next(lines) == count:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        body()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_interrupted_at_any_line():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].eval()
    before = flags(model)
    enabled = torch.backends.mha.get_fastpath_enabled()

    def body():
        with fd.mc_mode(model):
            pass

    count = 0
    while interrupted_at(count, body):
        assert flags(model) == before, f"interrupted at line {count}"
        assert torch.backends.mha.get_fastpath_enabled() == enabled
        count += 1
    assert count > 40


def test_an_abandoned_context_ends():
    model = network().eval()
    fd.mc_mode(model).__enter__()
    gc.collect()
    assert not any(flags(model))
