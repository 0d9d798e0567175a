"""fd.mc_dropout against closed forms and against loops written out."""

import math

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.module_helpers import drawing_nothing

FIELDS = ("mean", "variance", "entropy", "mutual_information")


class Recital(nn.Module):
    """Returns given samples one after the other, whatever its input."""

    is_dropout = True

    def __init__(self, samples):
        super().__init__()
        self.samples = iter(samples)

    def forward(self, x):
        return next(self.samples)


def recite(samples, **options):
    return fd.mc_dropout(Recital(samples), torch.zeros(1), len(samples), **options)


def classifier(dtype=torch.float32, dropout=nn.Dropout):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), dropout(0.5), nn.Linear(16, 3)).to(dtype)


def by_definition(samples, dim=-1):
    """Mean, variance, entropy and mutual information in float64."""
    samples = samples.double()
    mean = samples.mean(0)

    def entropy(p):
        return torch.where(p > 0, -p * p.log(), 0.0).sum(dim)

    return (
        mean,
        (samples - mean).square().mean(0),
        entropy(mean),
        entropy(mean) - torch.stack([entropy(p) for p in samples]).mean(0),
    )


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("dropout", [nn.Dropout, fd.Dropout])
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_linear_model(dropout, p):
    """The mean is that without dropout, the variance p / (1 - p) times the sum of (w x)²."""
    torch.manual_seed(3)
    linear = nn.Linear(6, 2)
    model, x = nn.Sequential(dropout(p), linear), torch.randn(3, 6)
    samples = 20_000
    result = fd.mc_dropout(model, x, samples, output="regression", samples_per_pass=samples)
    variance = p / (1 - p) * x.square() @ linear.weight.square().T
    error = (variance / samples).sqrt()
    assert ((result.mean - linear(x)).abs() < 5 * error).all()
    # The relative error of a variance is at most sqrt(kurtosis / samples).
    assert ((result.variance / variance - 1).abs() < 5 * math.sqrt(3 / samples)).all()
    assert result.entropy is None and result.mutual_information is None


def test_two_certain_contradicting_networks():
    certain = torch.tensor([[1000.0, -1000.0]])
    result = recite([certain, -certain])
    assert torch.equal(result.mean, torch.full((1, 2), 0.5))
    assert torch.equal(result.variance, torch.full((1, 2), 0.25))
    torch.testing.assert_close(result.entropy, torch.tensor([math.log(2)]))
    torch.testing.assert_close(result.mutual_information, torch.tensor([math.log(2)]))


def test_agreeing_networks():
    """As uncertain as can be, and no disagreement: exactly none."""
    result = recite([torch.zeros(1, 7)] * 3)
    torch.testing.assert_close(result.entropy, torch.tensor([math.log(7)]))
    assert result.mutual_information.item() == 0


@pytest.mark.parametrize("samples_per_pass", [2, 7])
def test_agreeing_networks_in_a_pass(samples_per_pass):
    """Exactly so in float64 as well, where a plain mean of equal numbers may differ from them."""
    x = torch.randn(100, 5, dtype=torch.float64)
    result = fd.mc_dropout(Returns(lambda x: x), x, 7, samples_per_pass=samples_per_pass)
    assert not result.variance.any() and not result.mutual_information.any()
    assert torch.equal(result.mean, x.log_softmax(-1).exp())


def test_population_variance():
    result = recite([torch.tensor([value]) for value in (1.0, 2.0, 3.0, 6.0)], output="regression")
    assert (result.mean.item(), result.variance.item()) == (3, 3.5)
    assert recite([torch.tensor([5.0])], output="regression").variance.item() == 0


def test_no_cancellation():
    """A small spread around a large mean, in float32."""
    values = [2.0**20 + i / 8 for i in range(8)]
    result = recite([torch.tensor([value]) for value in values], output="regression")
    assert result.variance.item() == sum((i - 3.5) ** 2 for i in range(8)) / 8 / 64


def test_deterministic():
    model = classifier(dropout=lambda p: nn.Dropout(0.0))
    x = torch.randn(50, 5)
    with pytest.warns(UserWarning, match="mc_dropout: .* p = 0") as caught, drawing_nothing():
        result = fd.mc_dropout(model, x, 7)
    assert caught[0].filename == __file__
    torch.testing.assert_close(result.mean, model(x).softmax(-1))
    assert not result.variance.any() and not result.mutual_information.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bounds(dtype):
    x = torch.randn(200, 5, dtype=dtype) * 5
    result = fd.mc_dropout(classifier(dtype), x, 20)
    for field in FIELDS:
        assert getattr(result, field).dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(result.mean.sum(-1), torch.ones_like(result.entropy))
    assert (result.mutual_information >= 0).all()
    assert (result.mutual_information <= result.entropy).all()
    assert (result.entropy <= math.log(3) + 1e-6).all()


# ---------------------------------------------------------------- loops


@pytest.mark.parametrize("samples", [1, 2, 9])
@pytest.mark.parametrize("output", ["logits", "probs"])
@pytest.mark.parametrize("dropout", [nn.Dropout, fd.Dropout])
def test_equals_the_loop(dropout, output, samples):
    model, x = classifier(dropout=dropout), torch.randn(4, 5)
    if output == "probs":
        model.append(nn.Softmax(-1))
    model.eval()
    torch.manual_seed(4)
    result = fd.mc_dropout(model, x, samples, output=output, keep_samples=True)
    assert not model[2].training

    torch.manual_seed(4)
    model[2].train()
    with torch.no_grad():
        drawn = torch.stack([model(x) for _ in range(samples)])
    if output == "logits":
        drawn = drawn.softmax(-1)
    torch.testing.assert_close(result.samples, drawn)
    for field, value in zip(FIELDS, by_definition(drawn), strict=True):
        torch.testing.assert_close(getattr(result, field), value.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples_per_pass", [2, 3, 7, 8])
def test_several_samples_in_a_pass(samples_per_pass):
    model, x, samples = classifier(dropout=fd.Dropout).double(), torch.randn(4, 5).double(), 7
    torch.manual_seed(5)
    options = {"samples_per_pass": samples_per_pass, "keep_samples": True}
    result = fd.mc_dropout(model, x, samples, **options)

    torch.manual_seed(5)
    passes = []
    with fd.mc_mode(model), torch.no_grad():
        while sum(map(len, passes)) < samples:
            count = min(samples_per_pass, samples - sum(map(len, passes)))
            passes.append(model(x.repeat(count, 1)).softmax(-1).view(count, 4, 3))
    drawn = torch.cat(passes)
    torch.testing.assert_close(result.samples, drawn)
    assert len({tuple(sample.flatten().tolist()) for sample in drawn}) == samples
    for field, value in zip(FIELDS, by_definition(drawn), strict=True):
        torch.testing.assert_close(getattr(result, field), value)


@pytest.mark.parametrize("class_dim, shape", [(1, (2, 3, 4, 5)), (-3, (2, 3, 4, 5)), (0, (3,))])
@pytest.mark.parametrize("output", ["logits", "probs"])
def test_class_dimension(output, class_dim, shape):
    drawn = [torch.randn(shape) for _ in range(5)]
    probabilities = torch.stack([one.softmax(class_dim) for one in drawn])
    given = drawn if output == "logits" else probabilities
    result = recite(given, output=output, class_dim=class_dim)
    for field, value in zip(FIELDS, by_definition(probabilities, class_dim), strict=True):
        torch.testing.assert_close(getattr(result, field), value.float(), rtol=1e-5, atol=1e-6)


def test_class_dimension_of_several_samples_in_a_pass():
    model = nn.Sequential(nn.Dropout(), nn.Conv2d(2, 3, 1))
    x = torch.randn(4, 2, 5, 6)
    results = [
        fd.mc_dropout(model, x, 4000, class_dim=dim, samples_per_pass=1000) for dim in (1, -3)
    ]
    torch.manual_seed(0)
    results.append(fd.mc_dropout(model, x, 1000, class_dim=1))
    for field in FIELDS:
        first, second, one_a_pass = (getattr(result, field) for result in results)
        assert first.shape == one_a_pass.shape
        torch.testing.assert_close(first, second, atol=0.1, rtol=0)
        torch.testing.assert_close(first, one_a_pass, atol=0.1, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_probabilities(dtype):
    """They do not add up to 1, and yet nothing is negative and agreement is no disagreement."""
    p = torch.randn(100, 50).softmax(-1).to(dtype)
    result = recite([p] * 3, output="probs")
    torch.testing.assert_close(result.mean.sum(-1), torch.ones(100))
    assert not result.mutual_information.any()


# ---------------------------------------------------------------- inputs, memory, gradients


def test_only():
    model = nn.Sequential(nn.Dropout(), nn.Linear(5, 3), nn.Dropout1d())
    x = torch.randn(4, 5)
    torch.manual_seed(6)
    result = fd.mc_dropout(model, x, 5, only="0", keep_samples=True)
    torch.manual_seed(6)
    with torch.no_grad():
        drawn = [model[1](nn.Dropout()(x)).softmax(-1) for _ in range(5)]
    torch.testing.assert_close(result.samples, torch.stack(drawn))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = fd.LinearActDropout(3, 4), nn.Dropout()

    def forward(self, a, b, scale):
        return self.first(a) + self.second(b) * scale


@pytest.mark.parametrize("samples_per_pass", [1, 4])
def test_several_inputs(samples_per_pass):
    inputs = (torch.randn(2, 3), torch.randn(2, 4), 0.5)
    options = {"output": "regression", "samples_per_pass": samples_per_pass}
    assert fd.mc_dropout(Joined(), inputs, 8, **options).mean.shape == (2, 4)


@pytest.mark.parametrize("samples_per_pass", [1, 2])
def test_first_layer_in_place(samples_per_pass):
    """Dropping what was dropped before would drop all in the end."""
    model, x = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Identity()), torch.ones(1, 4)
    result = fd.mc_dropout(
        model, x, 100, output="regression", samples_per_pass=samples_per_pass, keep_samples=True
    )
    assert torch.equal(x, torch.ones(1, 4))
    assert ((result.samples[-10:] != 0).sum() > 5).all()


@pytest.mark.parametrize("samples_per_pass", [1, 3])
def test_empty_batch(samples_per_pass):
    result = fd.mc_dropout(classifier(), torch.randn(0, 5), 3, samples_per_pass=samples_per_pass)
    assert result.mean.shape == (0, 3) and result.mutual_information.shape == (0,)


def test_layouts():
    """Of images in channels-last memory, and of views."""
    seen = []

    class Look(nn.Identity):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    model = nn.Sequential(Look(), nn.Dropout())
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for count in (1, 2):
        fd.mc_dropout(model, x, 2, output="regression", samples_per_pass=count)
    assert seen == [True] * 3
    fd.mc_dropout(model, x[:, 1:, ::2], 2, output="regression", samples_per_pass=2)


def test_samples_are_not_kept():
    assert fd.mc_dropout(classifier(), torch.randn(4, 5), 3).samples is None


def test_no_graph_by_default():
    model, x = classifier(), torch.randn(4, 5, requires_grad=True)
    result = fd.mc_dropout(model, x, 3, keep_samples=True)
    assert not any(getattr(result, field).requires_grad for field in (*FIELDS, "samples"))
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not fd.mc_dropout(model, x, 3, grad=True).mean.requires_grad


@pytest.mark.parametrize("samples_per_pass", [1, 2])
def test_gradients(samples_per_pass):
    model, x = classifier().double(), torch.randn(4, 5).double().requires_grad_()
    upstream = [torch.randn(4, 3).double()] * 2 + [torch.randn(4).double()] * 2
    options = {"samples_per_pass": samples_per_pass, "grad": True}
    torch.manual_seed(7)
    result = fd.mc_dropout(model, x, 4, **options)
    ours = torch.autograd.grad([getattr(result, field) for field in FIELDS], x, upstream)
    torch.manual_seed(7)
    with fd.mc_mode(model):
        copies = [torch.cat([x] * samples_per_pass) for _ in range(4 // samples_per_pass)]
        drawn = torch.cat([model(one).softmax(-1).unflatten(0, (-1, 4)) for one in copies])
    theirs = torch.autograd.grad(by_definition(drawn), x, upstream)
    torch.testing.assert_close(ours, theirs)


def test_flags_after_an_exception():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model = nn.Sequential(nn.Dropout(), Breaks(), nn.BatchNorm1d(3))
    model[2].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="broken"):
        fd.mc_dropout(model, torch.ones(2, 3))
    assert [module.training for module in model.modules()] == before


def test_compiled_model():
    """The same masks, as the masks of this package are the same compiled."""
    model, x = classifier(dropout=fd.Dropout).eval(), torch.randn(4, 5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for one in (model, compiled):
        torch.manual_seed(8)
        results.append(fd.mc_dropout(one, x, 5, samples_per_pass=2, keep_samples=True).samples)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast(dtype):
    with torch.autocast("cpu", dtype=dtype):
        result = fd.mc_dropout(classifier(), torch.randn(4, 5), 3)
    assert result.mean.dtype == torch.float32
    torch.testing.assert_close(result.mean.sum(-1), torch.ones(4))


# ---------------------------------------------------------------- masks that rows share


class SharedMask(nn.Dropout):
    """One outcome for the full batch, as a layer derived from torch's may make."""

    def forward(self, x):
        return x * super().forward(torch.ones_like(x[:1]))


class RowMask(SharedMask):
    independent_rows = True

    def forward(self, x):
        return nn.functional.dropout(x, self.p, self.training)


def test_shared_masks_need_a_pass_each():
    model, x = nn.Sequential(SharedMask(), nn.Linear(60, 3)), torch.randn(2, 60)
    with pytest.raises(
        ValueError, match=r"samples_per_pass is more than 1, but '0' \(SharedMask\)"
    ):
        fd.mc_dropout(model, x, 4, samples_per_pass=2)
    samples = fd.mc_dropout(model, x, 4, keep_samples=True).samples
    assert len({tuple(sample.flatten().tolist()) for sample in samples}) == 4


def test_declared_masks_of_rows():
    fd.mc_dropout(nn.Sequential(RowMask(), nn.Linear(5, 3)), torch.randn(2, 5), samples_per_pass=2)


@pytest.mark.parametrize(
    "layer", [nn.LSTM(3, 4, 2, dropout=0.5), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2, 0.5)]
)
def test_batch_in_another_dimension(layer):
    model = nn.Sequential(nn.Dropout(), layer)
    with pytest.raises(ValueError, match=r"but '1' \(.*\) has batch_first=False"):
        fd.mc_dropout(model, torch.randn(2, 5, 3), samples_per_pass=2)


# ---------------------------------------------------------------- errors


class Returns(nn.Module):
    is_dropout = independent_rows = True

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"samples": 0}, ValueError, "samples is 0, but expected at least 1"),
        ({"samples": -3}, ValueError, "samples is -3"),
        ({"samples": 2.0}, TypeError, "samples is 2.0, but expected a positive integer"),
        ({"samples_per_pass": 0}, ValueError, "samples_per_pass is 0, but expected at least 1"),
        ({"samples_per_pass": None}, TypeError, "samples_per_pass is None"),
        ({"output": "classes"}, ValueError, "output is 'classes', but expected one of logits, "),
        ({"only": "4"}, ValueError, "only has '4', but the dropout layers are '2'"),
    ],
)
def test_arguments(options, error, text):
    model, x = classifier(), torch.randn(4, 5)
    with drawing_nothing(), pytest.raises(error, match=f"mc_dropout: {text}"):
        fd.mc_dropout(model, x, **options)


def test_model_without_dropout():
    with pytest.raises(ValueError, match="mc_dropout: Linear has no dropout layer"):
        fd.mc_dropout(nn.Linear(2, 2), torch.randn(4, 2))
    with pytest.raises(TypeError, match="mc_dropout: model is of type"):
        fd.mc_dropout(torch.sin, torch.randn(4, 2))


@pytest.mark.parametrize(
    "function, options, error, text",
    [
        (lambda x: (x, x), {}, TypeError, "the model returned a tuple, but expected a floating"),
        (lambda x: x.long(), {}, TypeError, "the model returned a torch.int64 tensor"),
        (lambda x: x[:, :1], {}, ValueError, r"output has shape \(4, 1\), so 1 classes along"),
        (lambda x: x, {"class_dim": 2}, IndexError, "class_dim is 2, but the output has 2 dim"),
        (lambda x: x.sum(), {}, IndexError, "class_dim is -1, but the output has 0 dimensions"),
        (lambda x: x, {"output": "probs"}, ValueError, "output is 'probs', but .* did not return"),
        (lambda x: x.sigmoid(), {"output": "probs"}, ValueError, "their sums along class_dim betw"),
        (lambda x: x.sum(0), {"samples_per_pass": 2}, ValueError, r"\(5,\) for 2 times 4 rows"),
        (lambda x: x.sum(), {"samples_per_pass": 2}, ValueError, "rows along dimension 0"),
    ],
)
def test_outputs(function, options, error, text):
    with pytest.raises(error, match=f"mc_dropout: .*{text}"):
        fd.mc_dropout(Returns(function), torch.randn(4, 5), **options)


@pytest.mark.parametrize(
    "x", [torch.ones(()), (torch.ones(2, 3), torch.ones(3, 3)), (torch.ones(2), torch.ones(()))]
)
def test_inputs_without_a_common_batch(x):
    with pytest.raises(ValueError, match="needs a batch along dimension 0 of each tensor of x"):
        fd.mc_dropout(Returns(lambda *x: x[0]), x, output="regression", samples_per_pass=2)
