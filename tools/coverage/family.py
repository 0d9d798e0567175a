"""Builds a small model of one family and measures it."""

import contextlib
import time

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tools.coverage.families import model_classes
from tools.coverage.inputs import candidate_inputs, with_placeholders
from tools.coverage.measure import NotRun, P, error_text, measure, tensors
from tools.coverage.overrides import CONFIGURATIONS, INPUTS
from tools.coverage.probabilities import set_in_configuration, set_in_modules
from tools.coverage.shrink import PLANS, small
from tools.coverage.table import PART

SMALL = 3_000_000  # parameters of a model that is preferred
LARGEST = 60_000_000
CLASSES = 3  # that are tried
SEARCH_SECONDS = 20


def measure_family(family):
    """The results of :func:`measure` and the name of the model's class."""
    model, inputs = model_and_inputs(family)
    return {"model": type(model).__name__, **measure(model, inputs)}


def model_and_inputs(family):
    """The first model of a family that makes a step, and its inputs."""
    reasons = []
    try:
        classes = model_classes(family)
    except ImportError as error:
        raise NotRun(f"import: {error}") from error
    if not classes:
        raise NotRun(PART)
    end = time.monotonic() + SEARCH_SECONDS
    for cls in classes[:CLASSES]:
        for config in _configurations(cls, family, reasons):
            try:
                model = _build(cls, config)
            except Exception as error:
                reasons.append(f"{cls.__name__}: {error_text(error)}")
                continue
            for inputs in _inputs(family, model):
                try:
                    inputs, outputs = _outputs(model, inputs)
                    if any(output.requires_grad for output in outputs):
                        return model, inputs
                    reasons.append(f"{cls.__name__}: no output has a gradient")
                except Exception as error:
                    reasons.append(
                        f"{cls.__name__}: inputs {'+'.join(inputs)}: {error_text(error)}"
                    )
                if time.monotonic() > end:
                    raise NotRun(_most_telling(reasons))
    raise NotRun(_most_telling(reasons))


def _configurations(cls, family, reasons):
    """Yields the small configurations in the order to try; adds to `reasons` what fails."""
    larger = []
    for plan in PLANS:
        try:
            config = small(CONFIG_MAPPING[family], plan, CONFIGURATIONS)
            set_in_configuration(config, P)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
        except Exception as error:
            reasons.append(f"{cls.__name__}: {error_text(error)}")
            continue
        if size <= SMALL:
            yield config
        elif size <= LARGEST:
            larger.append((size, len(larger), config))
        else:
            reasons.append(f"{cls.__name__}: {size / 1e6:.0f} million parameters")
    yield from (config for _, _, config in sorted(larger))


def _build(cls, config):
    torch.manual_seed(0)
    model = cls(config).float().train()
    set_in_modules(model, P)
    return model


def _outputs(model, inputs, changes=2):
    """The inputs, changed if the model says what is wrong with them, and the outputs.

    Args:
        changes: the largest number of them: one for images, one for sounds.
    """
    torch.manual_seed(0)
    try:
        return inputs, tensors(model(**inputs))
    except Exception as error:
        if changes:
            for changed in with_placeholders(inputs, str(error), model.config):
                with contextlib.suppress(Exception):
                    return _outputs(model, changed, changes - 1)
        raise


def _inputs(family, model):
    return [INPUTS[family](model.config)] if family in INPUTS else candidate_inputs(model)


def _most_telling(reasons):
    """The first reason that is about inputs, which is further than those about building."""
    reasons = reasons or ["no inputs are known for the parameters of its forward"]
    return next((reason for reason in reasons if "inputs" in reason), reasons[0])
