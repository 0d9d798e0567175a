"""``fused_forward`` has the parameters of the ``forward`` that it replaces."""

import ast
import inspect
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers as hf
from transformers import DynamicCache, EncoderDecoderCache

import fused_dropout as fd
from fused_dropout.fusion.fingerprint import FINGERPRINTS, fingerprints_in
from fused_dropout.fusion.registry import chosen_patterns
from tests.fusion.packages.hf_models import BART, T5, build
from tests.fusion.parity import set_p

FILES = {
    "transformers": sorted(Path(hf.__file__).parent.glob("models/*/modeling_*.py")),
    "timm": sorted(Path(timm.__file__).parent.rglob("*.py")),
    "torchvision": sorted(Path(torchvision.__file__).parent.rglob("*.py")),
}


def without_annotations(arguments):
    for one in ast.walk(arguments):
        if isinstance(one, ast.arg):
            one.annotation = None
    if arguments.kwarg is not None:
        arguments.kwarg.arg = "kwargs"
    return f"({ast.unparse(arguments)})"


def forwards_in(source):
    """{name of a class: parameters of its forward}"""
    return {
        cls.name: without_annotations(method.args)
        for cls in ast.parse(source).body
        if isinstance(cls, ast.ClassDef)
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and method.name == "forward"
    }


@pytest.mark.parametrize("library", FILES)
def test_parameters(library):
    chosen_patterns("auto")  # imports all patterns
    mixins = {one: mixin for mixin, several in FINGERPRINTS.items() for one in several}
    found = set()
    for file in FILES[library]:
        source = file.read_text(encoding="utf-8")
        classes = {
            name: mixins[fingerprint]
            for name, fingerprint in fingerprints_in(source).items()
            if fingerprint in mixins
        }
        forwards = forwards_in(source) if classes else {}
        for name, mixin in classes.items():
            found.add(mixin)
            # `fused_forward` of a branch of timm passes all arguments on.
            function = getattr(mixin, "before_last", mixin.fused_forward)
            parameters = str(inspect.signature(function)).replace(" ", "")
            assert parameters == forwards[name].replace(" ", ""), (mixin, name)
    assert len(found) >= {"transformers": 1, "timm": 14, "torchvision": 6}[library]


LAYERS = {
    "bart": lambda: build(hf.BartModel, hf.BartConfig(**BART)).decoder.layers[0],
    "mbart": lambda: build(hf.MBartModel, hf.MBartConfig(**BART)).decoder.layers[0],
    "t5": lambda: build(hf.T5Model, hf.T5Config(**T5)).decoder.block[0].layer[0],
    "t5 to encoder": lambda: build(hf.T5Model, hf.T5Config(**T5)).decoder.block[1].layer[1],
}


@pytest.mark.filterwarnings("ignore:.*past_key_values. is deprecated:FutureWarning")
@pytest.mark.parametrize("argument", ["past_key_values", "cache"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_cache_by_its_old_and_new_name(name, argument):
    """Each layer decodes three words with the cache, fused and unfused."""
    layer = LAYERS[name]().train()
    set_p(layer, 0.0)
    generator = torch.Generator().manual_seed(1)
    x, memory = (torch.randn(2, n, 32, generator=generator) for n in (3, 5))
    encoder = {"bart": "encoder_hidden_states", "mbart": "encoder_hidden_states"}
    options = {encoder.get(name, "key_value_states"): memory} if name != "t5" else {}
    results = []
    for fused in (False, True):
        if fused:
            assert fd.fuse(layer).fused
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for word in x.split(1, 1):
            result = layer(word, **options, **{argument: cache})
            results.append(result if isinstance(result, torch.Tensor) else result[0])
    for expected, got in zip(results[:3], results[3:], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
