"""The fingerprints of the transformers patterns, and the model families in which they occur."""

from pathlib import Path

import pytest
import transformers

import fused_dropout as fd
from fused_dropout.fusion.fingerprint import (
    FINGERPRINTS,
    fingerprint_of,
    fingerprints_in,
    main,
)
from fused_dropout.fusion.patterns.hugging_face import drop_path
from tests.fusion.packages.hf_models import bert

MODELS = Path(transformers.__file__).parent / "models"


@pytest.fixture(scope="module")
def classes_by_fingerprint():
    """{fingerprint of a forward: set of (family, class)}, from the source files, not imported."""
    found = {}
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        for name, fingerprint in fingerprints_in(path.read_text()).items():
            found.setdefault(fingerprint, set()).add((path.parent.name, name))
    return found


def test_fingerprints_of_files_and_of_classes_are_equal(classes_by_fingerprint):
    module = bert().encoder.layer[0]
    for part in (module.output, module.intermediate, module.attention.output):
        fingerprint = fingerprint_of(type(part).forward)
        assert ("bert", type(part).__name__) in classes_by_fingerprint[fingerprint]


def test_the_command_prints_the_fingerprint_of_a_pattern(capsys):
    fd.fuse(bert())  # imports all patterns
    name = "transformers.models.beit.modeling_beit.BeitDropPath"
    main([name])
    (fingerprint,) = FINGERPRINTS[drop_path.FusedDropPath]
    assert capsys.readouterr().out == f"{fingerprint}  {name}\n"


def test_stochastic_depth_in_the_families(classes_by_fingerprint):
    found = {
        family
        for fingerprint in FINGERPRINTS[drop_path.FusedDropPath]
        for family, _ in classes_by_fingerprint.get(fingerprint, ())
    }
    assert len(found) >= 35, sorted(found)
    assert found >= {"beit", "convnext", "dinov2", "donut", "pvt", "swinv2"}
