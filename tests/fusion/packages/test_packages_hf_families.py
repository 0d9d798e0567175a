"""Which families of transformers' models have blocks that are recognised."""

import ast
import re
from pathlib import Path

import pytest
import transformers

from fused_dropout.fusion._forms import RECOGNISED, digest, form_of
from fused_dropout.fusion.hugging_face import bart, drop_path, feed_forward, gpt2, outputs, t5, vit
from tests.fusion.packages.hf_models import bert

MODELS = Path(transformers.__file__).parent / "models"


@pytest.fixture(scope="module")
def classes_by_form():
    """{digest of a forward: set of (family, class)}, read from the files; nothing is imported."""
    found = {}
    block = re.compile(
        r"^class (\w*(?:Output|Intermediate|MLP|Mlp|FeedForward|Layer|LayerFF|LayerSelfAttention|"
        r"LayerCrossAttention|ActDense|DropPath))\(.*\):\n(?:(?:    .*)?\n)+",
        re.MULTILINE,
    )
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        for match in block.finditer(path.read_text()):
            (cls,) = ast.parse(match.group()).body
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == "forward":
                    found.setdefault(digest(node), set()).add((path.parent.name, cls.name))
    return found


def test_the_digests_read_from_files_are_those_of_the_classes(classes_by_form):
    module = bert().encoder.layer[0]
    for part in (module.output, module.intermediate, module.attention.output):
        assert ("bert", type(part).__name__) in classes_by_form[form_of(type(part).forward)]


# At least so many families, and these among them.
FAMILIES = {
    outputs.FusedAddNormOutput: (
        40,
        """altclip bert bert_generation big_bird blip_2 bros camembert canine convbert data2vec
        deberta deberta_v2 electra ernie fnet git layoutlm layoutlmv3 lilt longformer luke markuplm
        roberta roformer splinter xlm_roberta""",
    ),
    outputs.FusedAddOutput: (8, "esm flava roberta_prelayernorm vilt videomae yolos"),
    outputs.FusedOutput: (15, "donut swinv2 timesformer vilt videomae yolos"),
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
    bart.FusedPreNormDecoderLayer: (7, "blenderbot m2m_100 mbart pegasus"),
}


@pytest.mark.parametrize("mixin", FAMILIES, ids=lambda mixin: mixin.__name__)
def test_families(mixin, classes_by_form):
    least, names = FAMILIES[mixin]
    found = {family for form in RECOGNISED[mixin] for family, _ in classes_by_form.get(form, ())}
    assert len(found) >= least, sorted(found)
    assert found >= set(names.split())


def test_every_pattern_is_listed_here():
    ours = {mixin for mixin in RECOGNISED if ".hugging_face." in mixin.__module__}
    assert ours == set(FAMILIES)
