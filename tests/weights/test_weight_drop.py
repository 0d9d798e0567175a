"""Weight dropout of any module: values, gradients, and what it must not change."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import fused_dropout as fd
from fused_dropout import reference
from fused_dropout.modules._weight_drop.recurrent import laid_out_like
from tests.module_helpers import drawing_nothing, seed_and_state

P = 0.4
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class Net(nn.Module):
    """A model with submodules, a tied weight, a buffer and a keyword argument."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.rnn = nn.GRU(6, 6)
        self.decoder = nn.Linear(6, 9)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("shift", torch.ones(9))

    def forward(self, words, *, scale=1.0):
        return self.decoder(self.rnn(self.embedding(words))[0]) * scale + self.shift


# A module, the weights that are dropped, and an input.
CASES = {
    "linear": (lambda: nn.Linear(5, 7), ["weight"], (4, 5)),
    "linear, all": (lambda: nn.Linear(5, 7), ["weight", "bias"], (4, 5)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), ["weight"], (2, 3, 6, 6)),
    "lstm": (lambda: nn.LSTM(5, 6), ["weight_hh_l0"], (7, 2, 5)),
    "lstm, bidirectional": (
        lambda: nn.LSTM(5, 6, 2, bidirectional=True),
        ["weight_hh_l0", "weight_hh_l1_reverse", "weight_ih_l1"],
        (7, 2, 5),
    ),
    "lstm, projected": (
        lambda: nn.LSTM(5, 6, proj_size=3),
        ["weight_hr_l0", "weight_hh_l0"],
        (7, 2, 5),
    ),
    "gru": (lambda: nn.GRU(5, 6, batch_first=True), ["weight_hh_l0"], (2, 7, 5)),
    "rnn": (lambda: nn.RNN(5, 6, bias=False), ["weight_hh_l0"], (7, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(3, 4, 3), ["weight"], (2, 3, 6)),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 3))),
        ["1.1.weight", "0.bias"],
        (4, 5),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0), ["linear1.weight"], (5, 2, 8)),
}
every_case = pytest.mark.parametrize("name", CASES)


def make(name):
    torch.manual_seed(0)
    build, weights, shape = CASES[name]
    module = build()
    return module, fd.WeightDrop(module, weights, P), torch.randn(shape)


def first_of(result):
    return result if isinstance(result, torch.Tensor) else result[0]


def dropped_weights(module, names, seed):
    """By the reference, with the states that the names draw in turn; leaves the seed set."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    torch.manual_seed(seed)
    states = [fd.new_rng_state() for _ in names]
    torch.manual_seed(seed)
    return {
        name: reference.dropout(parameters[name], P, state)
        for name, state in zip(names, states, strict=True)
    }


@every_case
def test_training(name):
    module, dropping, x = make(name)
    weights = dropped_weights(module, CASES[name][1], seed=1)
    y = first_of(dropping(x))
    wanted = first_of(functional_call(module, weights, (x,)))
    torch.testing.assert_close(y, wanted)
    parameters = list(module.parameters())
    upstream = torch.randn_like(y)
    ours, theirs = (
        torch.autograd.grad(one, parameters, upstream, retain_graph=True) for one in (y, wanted)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


# Gradients of ReLU units can be zero by themselves.
@pytest.mark.parametrize("name", [name for name in CASES if name != "attention"])
def test_mask_from_the_gradient(name):
    """The gradient of a dropped weight is zero, of every other one it is not."""
    module, dropping, x = make(name)
    names = CASES[name][1]
    weights = dropped_weights(module, names, seed=2)
    y = first_of(dropping(x))
    parameters = [module.get_parameter(key) for key in names]
    for key, gradient in zip(names, torch.autograd.grad(y.sum(), parameters), strict=True):
        dropped = weights[key] == 0
        assert (gradient[dropped] == 0).all() and dropped.any()
        assert (gradient[~dropped] != 0).all()


@every_case
def test_evaluation(name):
    module, dropping, x = make(name)
    wanted = first_of(module.eval()(x))
    dropping.eval()
    with drawing_nothing():
        assert torch.equal(first_of(dropping(x)), wanted)
    dropping.train().weight_p = 0.0
    module.train()
    with drawing_nothing():
        assert torch.equal(first_of(dropping(x)), first_of(module(x)))


@every_case
def test_a_fresh_mask_each_time(name):
    _, dropping, x = make(name)
    torch.manual_seed(3)
    first, second = first_of(dropping(x)), first_of(dropping(x))
    assert not torch.equal(first, second)


@every_case
def test_everything_is_the_wrapped_modules(name):
    module, dropping, x = make(name)
    assert isinstance(dropping, type(module)) and isinstance(dropping, fd.WeightDrop)
    assert type(dropping).is_dropout is True and not getattr(module, "is_dropout", False)
    before = dict(module.named_parameters())
    first_of(dropping(x)).sum().backward()
    after = dict(dropping.named_parameters())
    assert list(before) == list(after)
    assert all(before[key] is after[key] and type(after[key]) is nn.Parameter for key in before)
    assert list(dropping.state_dict()) == list(module.state_dict())
    other, other_dropping, _ = make(name)
    for one in (other, other_dropping):
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
        one.load_state_dict(dropping.state_dict())
        dropping.load_state_dict(one.state_dict())
    wanted = first_of(dropping.eval()(x))
    assert torch.equal(first_of(other.eval()(x)), wanted)
    assert torch.equal(first_of(other_dropping.eval()(x)), wanted)


def repickle(module):
    return pickle.loads(pickle.dumps(module))


def resave(module):
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@every_case
@pytest.mark.parametrize("roundtrip", [copy.deepcopy, repickle, resave])
def test_copies(name, roundtrip):
    _, dropping, x = make(name)
    first_of(dropping(x))  # a call leaves nothing behind that could not be copied
    again = roundtrip(dropping)
    assert type(again) is type(dropping) and repr(again) == repr(dropping)
    torch.manual_seed(4)
    y = first_of(dropping(x))
    torch.manual_seed(4)
    assert torch.equal(first_of(again(x)), y)
    for one, other in zip(dropping.parameters(), again.parameters(), strict=True):
        assert one is not other
    first_of(again(x)).sum().backward()
    assert all(parameter.grad is None for parameter in dropping.parameters())


@every_case
def test_an_optimiser_moves_the_weights(name):
    """Made before the wrapping, it goes on with the same parameters."""
    module, _, x = make(name)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    dropping = fd.WeightDrop(module, CASES[name][1], P)
    before = [parameter.detach().clone() for parameter in dropping.parameters()]
    first_of(dropping(x)).square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, dropping.parameters(), strict=True)]
    assert all(moved) or name == "attention"  # where the sum of normalised numbers is constant


@pytest.mark.parametrize("name", ["linear", "lstm", "gru", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_conversion(name, dtype):
    module, dropping, x = make(name)
    dropping.to(dtype)
    y = first_of(dropping(x.to(dtype)))
    assert y.dtype == dtype
    y.float().sum().backward()
    assert all(p.grad.dtype == dtype for p in module.parameters() if p.grad is not None)
    assert first_of(module(x.to(dtype))).dtype == dtype


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_warning(name):
    _, dropping, x = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            first_of(dropping(x)).sum().backward()
        copy.deepcopy(dropping)(x)
        dropping.flatten_parameters()
        dropping.eval()(x)


@pytest.mark.parametrize("gap", [0, 3])
def test_layout_of_recurrent_weights(gap):
    """cuDNN finds the dropped weights where it would find the raw ones, in a storage alike."""
    shapes = [(8, 5), (8, 2), (8,), (8,)]
    order = (1, 0, 3, 2)
    sizes = [torch.Size(shape).numel() + gap for shape in shapes]
    storage = torch.randn(sum(sizes) + 5)
    offsets = [sum(sizes[j] for j in order[: order.index(i)]) for i in range(4)]
    raw = [
        storage[offset : offset + torch.Size(shape).numel()].view(shape)
        for shape, offset in zip(shapes, offsets, strict=True)
    ]
    weights = [(2.0 * weight.detach()).requires_grad_() for weight in raw]
    placed = laid_out_like(raw, weights)
    assert len({weight.untyped_storage().data_ptr() for weight in placed}) == 1
    assert placed[0].untyped_storage().nbytes() == storage.untyped_storage().nbytes()
    for ours, weight, wanted in zip(placed, raw, weights, strict=True):
        assert torch.equal(ours, wanted) and ours.is_contiguous()
        assert ours.storage_offset() == weight.storage_offset()
    upstream = [torch.randn_like(weight) for weight in weights]
    for ours, wanted in zip(torch.autograd.grad(placed, weights, upstream), upstream, strict=True):
        assert torch.equal(ours, wanted)
    apart = [torch.randn(shape) for shape in shapes]
    tied = [raw[0], raw[1], raw[2], raw[2]]
    for other in (apart, tied):
        assert laid_out_like(other, weights) is weights


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_in_one_storage(kind, monkeypatch):
    """As cuDNN keeps them: dropped ones arrive in one as well, and the raw ones are not moved."""
    module, x = kind(5, 6, 2), torch.randn(7, 2, 5)
    storage = torch.randn(sum(parameter.numel() for parameter in module.parameters()))
    end = 0
    for parameter in module.parameters():
        parameter.data = storage[end : end + parameter.numel()].view(parameter.shape)
        end += parameter.numel()
    before = [parameter.data_ptr() for parameter in module.parameters()]
    dropping = fd.WeightDrop(module, "weight_hh_l0", P)
    weights = dropped_weights(module, ["weight_hh_l0"], seed=16)
    wanted, _ = functional_call(module, weights, (x,))
    module(x)

    def refuse():
        raise AssertionError("the parameters would be moved")

    monkeypatch.setattr(dropping, "flatten_parameters", refuse, raising=False)
    seen = []
    name = "lstm" if kind is nn.LSTM else "gru"
    run = getattr(torch._VF, name)
    monkeypatch.setattr(torch._VF, name, lambda *args: seen.append(args[2]) or run(*args))
    torch.manual_seed(16)
    y, _ = dropping(x)
    torch.testing.assert_close(y, wanted)
    (weights,) = seen
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert [weight.storage_offset() for weight in weights] == [
        parameter.storage_offset() for parameter in module.parameters()
    ]
    y.sum().backward()
    assert [parameter.data_ptr() for parameter in module.parameters()] == before
    assert all(parameter.grad is not None for parameter in module.parameters())


# ---------------------------------------------------------------- special situations


def test_dotted_names_ties_and_keywords():
    torch.manual_seed(5)
    module, words = Net(), torch.randint(9, (4, 2))
    dropping = fd.WeightDrop(module, ["rnn.weight_hh_l0", "decoder.weight"], P)
    weights = dropped_weights(module, dropping.weight_names, seed=6)
    y = dropping(words, scale=2.0)
    # The embedding keeps the full weight: only the decoder's name was given.
    wanted = functional_call(module, weights, (words,), {"scale": 2.0}, tie_weights=False)
    torch.testing.assert_close(y, wanted)
    # Under both names there is one mask.
    both = fd.WeightDrop(module, ["embedding.weight", "decoder.weight"], P)
    weights = dropped_weights(module, ["embedding.weight"], seed=7)
    wanted = functional_call(module, weights, (words,))
    torch.manual_seed(7)
    torch.testing.assert_close(both(words), wanted)
    assert module.decoder.weight is module.embedding.weight


def test_an_error_inside_leaves_the_module_as_it_was():
    for name in ("linear", "lstm", "gru", "sequence"):
        module, dropping, x = make(name)
        parameters, wanted = list(module.parameters()), first_of(module(x))
        with pytest.raises((RuntimeError, ValueError)):
            dropping(torch.randn(3, 3, 99))
        assert all(a is b for a, b in zip(parameters, dropping.parameters(), strict=True))
        assert torch.equal(first_of(dropping.eval()(x)), wanted)


def test_the_wrapped_module_still_does_not_drop():
    module, dropping, x = make("lstm")
    wanted = module(x)[0]
    dropping(x)
    with drawing_nothing():
        assert torch.equal(module(x)[0], wanted)
    module.eval()
    assert dropping.training


def test_hooks_and_attributes():
    module = nn.LSTM(5, 6)
    calls = []
    module.register_forward_hook(lambda *_: calls.append("hook"))
    dropping = fd.WeightDrop(module, "weight_hh_l0", P)
    dropping(torch.randn(3, 2, 5))
    assert calls == ["hook"] and dropping.hidden_size == 6 and dropping.mode == "LSTM"


def test_packed_sequences():
    module, dropping, _ = make("gru")
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 5), torch.randn(2, 5)])
    weights = dropped_weights(module, ["weight_hh_l0"], seed=8)
    wanted, _ = functional_call(module, weights, (packed,))
    torch.manual_seed(8)
    y, _ = dropping(packed)
    torch.testing.assert_close(y.data, wanted.data)


def test_replicas():
    """As DataParallel makes them: weights are plain attributes there."""
    module, dropping, x = make("lstm")
    replica = dropping._replicate_for_data_parallel()
    replica._parameters = {}
    copies = {name: weight * 1 for name, weight in module.named_parameters()}
    for name, weight in copies.items():
        setattr(replica, name, weight)
    weights = dropped_weights(module, ["weight_hh_l0"], seed=9)
    y, _ = replica(x)
    torch.testing.assert_close(y, functional_call(module, weights, (x,))[0])
    y.sum().backward()
    assert module.weight_hh_l0.grad is not None
    assert replica.weight_hh_l0 is copies["weight_hh_l0"]


def test_checkpointing():
    """Backward recomputes with the masks of forward."""
    module, dropping, x = make("linear")
    torch.manual_seed(10)
    y = torch.utils.checkpoint.checkpoint(dropping, x, use_reentrant=False)
    y.square().sum().backward()
    gradient, module.weight.grad = module.weight.grad, None
    torch.manual_seed(10)
    dropping(x).square().sum().backward()
    assert torch.equal(module.weight.grad, gradient)


def test_two_calls_before_backward():
    module, dropping, x = make("lstm")
    (dropping(x)[0] * dropping(x)[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_gradcheck():
    module = fd.WeightDrop(nn.LSTM(3, 2, dtype=torch.float64), "weight_hh_l0", P)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)

    def call(x, weight):
        torch.manual_seed(11)
        return functional_call(module, {"weight_hh_l0": weight}, (x,))[0]

    weight = module.weight_hh_l0.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (x, weight))


@pytest.mark.parametrize("name", ["linear", "convolution", "sequence"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(name, backend):
    module, dropping, x = make(name)
    torch.manual_seed(12)
    y = first_of(dropping(x))
    wanted = torch.autograd.grad(y.sum(), list(module.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(dropping, backend=backend, fullgraph=True)
    torch.manual_seed(12)
    again = first_of(compiled(x))
    torch.testing.assert_close(again, y)
    gradients = torch.autograd.grad(again.sum(), list(module.parameters()))
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(type(parameter) is nn.Parameter for parameter in dropping.parameters())
    assert not torch.equal(first_of(compiled(x)), again)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_compiled_with_a_break(name):
    """The compiler does not look into torch's recurrent layers."""
    module, dropping, x = make(name)
    model = nn.Sequential(dropping)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    torch.manual_seed(13)
    y = compiled(x)[0]
    torch.manual_seed(13)
    torch.testing.assert_close(y, dropping(x)[0])
    y.sum().backward()
    assert type(module.weight_hh_l0) is nn.Parameter


def test_traced():
    model = nn.Sequential(fd.WeightDrop(nn.Linear(5, 7), "weight", P), nn.ReLU())
    traced, x = torch.fx.symbolic_trace(model), torch.randn(4, 5)
    torch.manual_seed(14)
    y = model(x)
    torch.manual_seed(14)
    assert torch.equal(traced(x), y)
    assert torch.equal(traced.eval()(x), model.eval()(x))


def test_exported_for_evaluation():
    _, dropping, x = make("linear")
    program = torch.export.export(dropping.eval(), (x,))
    assert not any("fused_dropout" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), dropping(x))


def test_threads():
    """Modules of different threads do not see each other."""
    errors = []

    def work():
        try:
            module = fd.WeightDrop(nn.Linear(50, 50), "weight", P)
            for _ in range(50):
                module(torch.randn(4, 50)).sum().backward()
                assert type(module.weight) is nn.Parameter
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_classic():
    module = nn.Linear(5, 7)
    dropping = fd.WeightDrop(module, "weight", P, mode="classic")
    x, state = torch.randn(4, 5), seed_and_state(15)
    weight = reference.dropout(module.weight, P, state, mode="classic")
    torch.testing.assert_close(dropping(x), F.linear(x, weight, module.bias))
    q = reference.keep_count(P) / 65536
    with drawing_nothing():
        y = dropping.eval()(x)
    torch.testing.assert_close(y, F.linear(x, q * module.weight, module.bias))


def test_nan_and_infinity_are_dropped():
    module = nn.Linear(3, 1, bias=False)
    dropping = fd.WeightDrop(module, "weight", 1.0)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[float("nan"), float("inf"), 1.0]]))
    y = dropping(torch.ones(2, 3))
    assert torch.equal(y, torch.zeros(2, 1))


def test_repr():
    assert repr(fd.WeightDrop(nn.LSTM(5, 6), "weight_hh_l0", 0.25)) == (
        "WeightDropLSTM(5, 6, weights=[weight_hh_l0], p=0.25)"
    )
    text = repr(fd.WeightDrop(nn.Sequential(nn.Linear(2, 3)), "0.weight", mode="classic"))
    assert text.startswith("WeightDropSequential(\n  weights=[0.weight], p=0.5, mode='classic'")


# ---------------------------------------------------------------- bad input


def test_unknown_parameter():
    names = "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0"
    with pytest.raises(ValueError, match=f"LSTM has no parameter 'weight_hh_l1'; it has {names}"):
        fd.WeightDrop(nn.LSTM(5, 6), ["weight_hh_l0", "weight_hh_l1"])
    with pytest.raises(ValueError, match="Linear has no parameter 'bias'; it has weight"):
        fd.WeightDrop(nn.Linear(5, 6, bias=False), "bias")
    with pytest.raises(ValueError, match="Tanh has no parameter 'weight'; it has none"):
        fd.WeightDrop(nn.Tanh(), "weight")
    with pytest.raises(ValueError, match="Net has no parameter 'shift'"):
        fd.WeightDrop(Net(), "shift")  # a buffer
    with pytest.raises(ValueError, match="Net has no parameter 'rnn'"):
        fd.WeightDrop(Net(), "rnn")


def test_bad_arguments():
    linear = nn.Linear(5, 6)
    for weights in ([], (), ["weight", "weight"]):
        with pytest.raises(ValueError, match="at least one name, each once"):
            fd.WeightDrop(linear, weights)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fd.WeightDrop(linear, "weight", p)
    for module in (None, nn.Linear, torch.ones(3)):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
            fd.WeightDrop(module, "weight")
    with pytest.raises(TypeError, match="pass all names to one WeightDrop"):
        fd.WeightDrop(fd.WeightDrop(linear, "weight"), "bias")
    replaced = nn.Linear(5, 6)
    replaced.forward = lambda x: x
    with pytest.raises(TypeError, match="the forward of this Linear has been replaced"):
        fd.WeightDrop(replaced, "weight")
    dropping = fd.WeightDrop(linear, "weight")
    dropping.weight_p = 2
    for training in (True, False):
        with pytest.raises(ValueError, match="but got 2"):
            dropping.train(training)(torch.ones(2, 5))
