"""The measurement of one model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from fused_dropout.fusion import registry
from tools.coverage.measure import TOLERANCE, NotRun, measure, tensors
from tools.coverage.probabilities import is_probability, set_in_configuration, set_in_modules


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return {"output": self.drop(self.block(x)), "ids": torch.arange(3)}


def measured(model, **inputs):
    torch.manual_seed(0)
    return measure(model, inputs or {"x": torch.randn(4, 8)})


def test_counts_and_parity():
    result = measured(Net())
    assert (result["sites"], result["neighbours"], result["alone"], result["left"]) == (2, 1, 1, 0)
    assert result["places"] == {}
    assert result["parity"] < 1e-5
    assert result["evaluation"] is True


class LeftAlone(nn.Module):
    """Its dropout is reached in a way that no redirection sees."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return getattr(F, "drop" + "out")(self.fc(x), 0.1, self.training)


def test_places_of_what_is_left():
    result = measured(LeftAlone())
    assert result["left"] == 1
    (place,) = result["places"]
    assert __file__ in place


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)


class WrongInTraining(Scaled):
    def forward(self, x):
        return self.fc(x) * (1.01 if self.training else 1)


class WrongInEvaluation(Scaled):
    def forward(self, x):
        return self.fc(x) * (1 if self.training else 1.01)


class NotANumber(Scaled):
    def forward(self, x):
        return self.fc(x) * (torch.nan if self.training else 1)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_PATTERNS", list(registry._PATTERNS))
    return lambda fused: fd.register_pattern(Scaled, fused)


@pytest.mark.parametrize("fused", [WrongInTraining, NotANumber])
def test_a_wrong_training_step_is_found(registered, fused):
    registered(fused)
    result = measured(Scaled())
    assert result["parity"] > TOLERANCE
    assert result["evaluation"] is True


def test_a_wrong_evaluation_is_found(registered):
    registered(WrongInEvaluation)
    result = measured(Scaled())
    assert result["parity"] <= TOLERANCE
    assert result["evaluation"] is False


class Amplified(Scaled):
    """Subtracts nearly equal numbers, so rounding errors of its layer become large."""

    def forward(self, x):
        x = self.fc(x)
        return (x + 1e6) - 1e6


class OtherRounding(Amplified):
    def forward(self, x):
        return self.fc(x) + 1e6 - 1e6 if not self.training else self.fc(x)


def test_amplified_rounding_errors_are_told_from_mistakes(registered):
    fd.register_pattern(Amplified, OtherRounding)
    assert measured(Amplified())["parity"] < TOLERANCE


class Experts(Amplified):
    """Its kernel for experts has no float64."""

    implementation = "grouped_mm"

    def set_experts_implementation(self, name):
        self.implementation = name

    def forward(self, x):
        if self.implementation == "grouped_mm" and x.dtype == torch.float64:
            raise RuntimeError("Expected mat_a to be Float32, got Double")
        return super().forward(x)


class OtherRoundingOfExperts(Experts):
    def forward(self, x):
        return self.fc(x) if self.training else super().forward(x)


def test_experts_are_measured_in_float64(registered):
    fd.register_pattern(Experts, OtherRoundingOfExperts)
    assert measured(Experts())["parity"] < TOLERANCE


class Noise(Scaled):
    def forward(self, x):
        return self.fc(F.dropout(x, 1e-10)) + torch.rand(())


def test_a_model_with_random_numbers_of_its_own_has_no_parity():
    assert measured(Noise())["parity"] is None


class Untrainable(Scaled):
    def forward(self, x):
        return F.dropout(self.fc(x).softmax(-1), 0.1, self.training, inplace=True)


def test_a_model_that_torch_cannot_train_is_not_run():
    with pytest.raises(NotRun, match="unfused model cannot be trained: RuntimeError"):
        measured(Untrainable())


def test_tensors_of_nested_results():
    x, y = torch.zeros(2), torch.ones(3)
    assert tensors({"a": x, "b": (y, None, [torch.arange(2)])}) == [x, y]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hidden_dropout_prob", 0.0, True),
        ("attn_pdrop", 0.1, True),
        ("drop_path_rate", 0, True),
        ("dropout", 0.0, True),
        ("config", 0.1, True),
        ("layerdrop", 0.1, False),
        ("dropout_positions", 0.0, False),
        ("drop_tokens", True, False),
        ("classifier_dropout", None, False),
        ("initializer_range", 0.02, False),
    ],
)
def test_names_of_probabilities(name, value, expected):
    assert is_probability(name, value) is expected


class Configuration:
    model_type = "part"

    def __init__(self, **fields):
        vars(self).update(fields)

    def to_diff_dict(self):
        return vars(self)


def test_probabilities_of_a_configuration_and_its_parts():
    part = Configuration(attention_dropout=0.0)
    config = Configuration(
        dropout=0.0, layerdrop=0.1, drop_rate=(0.0, 0.0), text=part, apply_spec_augment=True
    )
    set_in_configuration(config, 0.2)
    assert (config.dropout, config.drop_rate, part.attention_dropout) == (0.2, (0.2, 0.2), 0.2)
    assert (config.layerdrop, config.apply_spec_augment) == (0, False)


class IntegerProbability(Configuration):
    """Refuses what is not an integer, as a strict class whose field is declared as one."""

    def __setattr__(self, name, value):
        if not isinstance(value, int):
            raise TypeError(name)
        super().__setattr__(name, value)


def test_probabilities_are_set_where_the_class_wants_integers():
    config = IntegerProbability(drop_path_rate=0)
    set_in_configuration(config, 0.2)
    assert config.drop_path_rate == 0.2


def test_probabilities_of_modules():
    model = Net()
    model.block.attention_dropout = 0.0
    model.config = Configuration(dropout=0.0)
    set_in_modules(model, 0.3)
    assert (model.drop.p, model.block[2].p, model.block.attention_dropout) == (0.3, 0.3, 0.3)
    assert model.config.dropout == 0.3
