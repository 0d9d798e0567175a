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
from fused_dropout.fusion.patterns.hugging_face import (
    bart,
    bert_outputs,
    drop_path,
    feed_forward,
    gpt2,
    t5,
    vit,
)
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
    main(["transformers.models.vit.modeling_vit.ViTLayer"])
    (fingerprint,) = FINGERPRINTS[vit.FusedViTLayer]
    wanted = f"{fingerprint}  transformers.models.vit.modeling_vit.ViTLayer\n"
    assert capsys.readouterr().out == wanted


def test_the_patterns_for_this_version_occur_in_the_library(classes_by_fingerprint):
    fd.fuse(bert())  # imports all patterns
    for mixin in FAMILIES:
        assert classes_by_fingerprint.keys() & set(FINGERPRINTS[mixin]), mixin


# {mixin: (minimum number of families with the code, names of some of them)}
FAMILIES = {
    bert_outputs.FusedAddNormOutput: (
        40,
        """altclip bert bert_generation big_bird blip_2 bros camembert canine convbert data2vec
        deberta deberta_v2 electra ernie fnet git layoutlm layoutlmv3 lilt longformer luke markuplm
        roberta roformer splinter xlm_roberta""",
    ),
    bert_outputs.FusedAddOutput: (8, "esm flava roberta_prelayernorm vilt videomae yolos"),
    bert_outputs.FusedOutput: (9, "donut swinv2 timesformer"),
    bert_outputs.FusedOutputOfTwo: (12, "donut swinv2 vilt videomae yolos"),
    feed_forward.FusedIntermediate: (
        50,
        "bert camembert deberta electra ernie layoutlm mpnet rembert roberta xlm_roberta yolos",
    ),
    feed_forward.FusedMLP: (70, "beit blip clip deit dinov2 owlvit vit"),
    feed_forward.FusedFeedForward: (12, "hubert speecht5 unispeech wav2vec2 wavlm"),
    gpt2.FusedGPT2MLP: (5, "gpt2 gpt_bigcode gpt_neo imagegpt"),
    vit.FusedViTLayer: (7, "audio_spectrogram_transformer deit vit vit_mae vit_msn vivit"),
    drop_path.FusedDropPath: (35, "beit convnext dinov2 donut pvt swinv2"),
    t5.FusedDense: (7, "longt5 mt5 switch_transformers t5 udop umt5"),
    t5.FusedGatedDense: (6, "mt5 pix2struct t5 udop umt5"),
    t5.FusedLayerFF: (7, "longt5 mt5 pix2struct t5 udop umt5"),
    t5.FusedLayerSelfAttention: (6, "longt5 mt5 switch_transformers t5 udop"),
    t5.FusedLayerCrossAttention: (6, "longt5 mt5 switch_transformers t5 udop"),
    bart.FusedEncoderLayer: (6, "bart blenderbot_small marian plbart"),
    bart.FusedDecoderLayer: (6, "bart blenderbot_small marian plbart"),
    bart.FusedPreNormEncoderLayer: (10, "blenderbot m2m_100 mbart pegasus whisper"),
    bart.FusedPreNormDecoderLayer: (
        11,
        "blenderbot m2m_100 mbart musicgen pegasus speech_to_text whisper xglm",
    ),
}


@pytest.mark.parametrize("mixin", FAMILIES, ids=lambda mixin: mixin.__name__)
def test_families(mixin, classes_by_fingerprint):
    minimum, names = FAMILIES[mixin]
    found = {
        family
        for fingerprint in FINGERPRINTS[mixin]
        for family, _ in classes_by_fingerprint.get(fingerprint, ())
    }
    assert len(found) >= minimum, sorted(found)
    assert found >= set(names.split())
