"""Adapters of PEFT in fused models: residual, norm and dropout stay fused."""

import collections
import copy

import peft
import pytest
import torch
import transformers as hf
from torch import nn
from torchvision.models import VisionTransformer

import fused_dropout as fd
from tests.fusion.fusing import decoder_layer, encoder_layer
from tests.fusion.packages import timm_models
from tests.fusion.packages.hf_models import IMAGES, SIZES, T5, bert, build, words
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs

GPT2 = {
    **{"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
LLAMA = SIZES | {"num_key_value_heads": 2, "attention_dropout": 0.1}
VIT = IMAGES | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
BERT_LINEARS = [
    *("query", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
]


def texts():
    ids, attention_mask = words()
    return {"input_ids": ids, "attention_mask": attention_mask}


def texts_without_cache():
    return texts() | {"use_cache": False}


def pairs_of_texts():
    return texts_without_cache() | {"decoder_input_ids": texts()["input_ids"][:, :5].flip(1)}


def images():
    generator = torch.Generator().manual_seed(7)
    return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}


def tokens(*sizes):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(7))


def call_with(inputs):
    """A function for :func:`run`. The last hidden states or the logits are the output."""

    def call(model):
        output = model(**inputs)
        return [getattr(output, "last_hidden_state", getattr(output, "logits", None))], []

    return call


def classifier():
    return build(hf.BertForSequenceClassification, hf.BertConfig(**SIZES))


def seeded(make):
    torch.manual_seed(0)
    return make()


def adapted(model, config):
    """Adapters that change the result: all their parameters are random."""
    torch.manual_seed(1)
    return peft.get_peft_model(model, copy.deepcopy(config)).train()


def lora(targets, **options):
    return peft.LoraConfig(
        **{
            **{"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "init_lora_weights": False},
            **{"target_modules": targets, **options},
        }
    )


def kinds(model, inputs):
    """The numbers of dropout calls of a step: ``(of the model, of the adapters)``."""
    own, of_adapters = collections.Counter(), collections.Counter()
    sites = fd.report(model, **inputs) if isinstance(inputs, dict) else fd.report(model, *inputs)
    for site in sites.dropout_sites:
        (of_adapters if "lora_" in site.name else own)[site.kind] += 1
    return own, of_adapters


def fused_before_and_after(make, config, inputs, neighbours=None):
    """``(unfused, [fused before, fused after])`` with the same adapters and parameters.

    Args:
        neighbours: how many dropout calls are in a kernel with neighbours; as many as without
            adapters if None.
    """
    plain = seeded(make)
    fd.fuse(plain)
    wanted, _ = kinds(plain, inputs)
    if neighbours is not None:
        wanted["alone"] += wanted["neighbours"] - neighbours
        wanted["neighbours"] = neighbours
    unfused = adapted(seeded(make), config)

    before = adapted(plain, config)
    own, of_adapters = kinds(before, inputs)
    assert own == wanted and not fd.report(before).skipped
    assert of_adapters.keys() <= {"torch"}  # these layers are new
    assert list(before.state_dict()) == list(unfused.state_dict())
    fd.fuse(before, strict=True)

    after = adapted(seeded(make), config)
    fd.fuse(after, strict=True)
    for one in (before, after):
        assert list(one.state_dict()) == list(unfused.state_dict())
        own, of_fused_adapters = kinds(one, inputs)
        assert own == wanted
        assert of_fused_adapters == {"alone": of_adapters["torch"]} or not of_adapters
    return unfused, [before, after]


def assert_same_runs(unfused, fused, call, in_memory_order=False):
    got = run(fused, call, 5)
    with ExplicitMasks(in_memory_order):
        assert_equal_runs(run(unfused, call, 5), got, 5e-5)


def assert_equal_in_evaluation(unfused, fused, call):
    flags = unfused.training, fused.training
    with torch.no_grad():
        (a,), (b,) = call(unfused.eval())[0], call(fused.eval())[0]
    assert torch.equal(a, b)
    unfused.train(flags[0])
    fused.train(flags[1])


# {name: (function that makes a model, inputs, layers with adapters, neighbours)}. GPT-2's attention
# returns a tuple: with an adapter its bias is in the call, and its last dropout has no neighbour.
# T5's gate is one kernel only if its linear layers are computed together.
MODELS = {
    "bert": (bert, texts, BERT_LINEARS, None),
    "gpt2": (
        lambda: build(hf.GPT2Model, hf.GPT2Config(**GPT2)),
        texts_without_cache,
        ["c_attn", "c_proj", "c_fc"],
        2,
    ),
    "llama": (
        lambda: build(hf.LlamaModel, hf.LlamaConfig(**LLAMA)),
        texts_without_cache,
        ["q_proj", "v_proj", "up_proj", "down_proj"],
        None,
    ),
    "vit": (
        lambda: build(hf.ViTModel, hf.ViTConfig(**VIT)),
        images,
        ["q_proj", "v_proj", "fc1", "fc2"],
        None,
    ),
    "t5": (
        lambda: build(hf.T5Model, hf.T5Config(**T5)),
        pairs_of_texts,
        ["q", "v", "wi", "wo"],
        None,
    ),
    "t5 gated": (
        lambda: build(hf.T5Model, hf.T5Config(**T5, feed_forward_proj="gated-gelu")),
        pairs_of_texts,
        ["q", "v", "wi_0", "wi_1", "wo"],
        10,
    ),
}
VARIANTS = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_lora(name, variant):
    make, inputs, targets, neighbours = MODELS[name]
    inputs = inputs()
    call = call_with(inputs)
    config = lora(targets, fan_in_fan_out=name == "gpt2", **VARIANTS[variant])
    unfused, several = fused_before_and_after(make, config, inputs, neighbours)
    for fused in several:
        assert_same_runs(unfused, fused, call)
        assert_equal_in_evaluation(unfused, fused, call)


CONFIGS = {
    "embedding": lora(["word_embeddings", "query"]),
    "biases": lora(BERT_LINEARS, lora_bias=True, bias="all"),
    "saved modules": lora(["query"], modules_to_save=["classifier", "intermediate"]),
    "saved norms": lora(BERT_LINEARS, modules_to_save=["LayerNorm"]),
    "ia3": peft.IA3Config(
        target_modules=["value", "output.dense"],
        feedforward_modules=["output.dense"],
        init_ia3_weights=False,
    ),
    "prompt tuning": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "p-tuning": peft.PromptEncoderConfig(
        task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8
    ),
    "norms": peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "tokens": peft.TrainableTokensConfig(token_indices=[5, 6], target_modules=["word_embeddings"]),
    "oft": peft.OFTConfig(target_modules=["query", "dense"], oft_block_size=4),
    "loha": peft.LoHaConfig(target_modules=["query", "dense"], r=2, init_weights=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_other_adapters(name):
    call = call_with(texts())
    unfused, several = fused_before_and_after(classifier, CONFIGS[name], texts())
    for fused in several:
        assert_same_runs(unfused, fused, call)
        assert_equal_in_evaluation(unfused, fused, call)


def sequential():
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 16))


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1))


def torchvision_vit():
    model = VisionTransformer(8, 4, 1, 4, 16, 24, 0.1, 0.1, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model


# {name: (function that makes a model, inputs, layers with adapters, neighbours)}. The output of an
# attention layer that is called is transposed, so masks are in memory order there; that of the norm
# after it is too, unlike that of torch's norm, so the first layer of the MLP has no adapter. timm's
# last branch has dropout and stochastic depth, which are two kernels.
OTHERS = {
    "encoder": (encoder_layer, [tokens(2, 5, 16)], ["linear1", "linear2"], None),
    "decoder": (decoder_layer, [tokens(2, 5, 16)] * 2, ["linear1", "linear2"], None),
    "attention of an encoder": (encoder_layer, [tokens(2, 5, 16)], ["self_attn"], None),
    "attention of a decoder": (
        lambda: decoder_layer(norm_first=True),
        [tokens(2, 5, 16)] * 2,
        ["self_attn", "multihead_attn", "linear2"],
        None,
    ),
    "attention of torchvision": (
        torchvision_vit,
        [tokens(3, 3, 8, 8)],
        ["self_attention", "mlp.3"],
        None,
    ),
    "timm": (timm_models.vit, [tokens(3, 3, 16, 16)], ["qkv", "proj", "fc1", "fc2"], 5),
    "sequential": (sequential, [tokens(4, 16)], ["0", "3"], None),
    "convolutions": (convolutions, [tokens(2, 3, 8, 8)], ["0", "3"], None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_torch_timm_and_torchvision(name):
    make, inputs, targets, neighbours = OTHERS[name]
    call = with_inputs(*inputs)
    unfused, several = fused_before_and_after(make, lora(targets), inputs, neighbours)
    for fused in several:
        assert_same_runs(unfused, fused, call, in_memory_order="attention" in name)
        assert_equal_in_evaluation(unfused, fused, call)


@pytest.fixture(params=["before", "after"])
def models(request):
    """``(unfused, fused)``, a BERT with adapters, fused before or after they were put in.

    All parameters get gradients, as some tests take the adapters out of use.
    """
    unfused, several = fused_before_and_after(classifier, lora(BERT_LINEARS), texts())
    fused = several[request.param == "after"]
    return unfused.requires_grad_(), fused.requires_grad_()


CALL = call_with(texts())


@pytest.mark.parametrize("method", ["merge_and_unload", "unload"])
def test_adapters_are_taken_out(models, method):
    """The linear layers are bypassed again, or merged into the weights."""
    unfused, fused = (getattr(one, method)().train().requires_grad_() for one in models)
    assert not any("lora" in name for name, _ in fused.named_modules())
    assert fd.report(fused, strict=True).fused
    assert not any("not fused" in site.text for site in fd.report(fused).fused)
    assert_same_runs(unfused, fused, CALL)
    assert_equal_in_evaluation(unfused, fused, CALL)
    assert [type(one) for one in fd.unfuse(fused).modules()] == [
        type(one) for one in unfused.modules()
    ]


def test_merged_and_unmerged(models):
    for change in ("merge_adapter", "unmerge_adapter"):
        for one in models:
            getattr(one, change)()
        assert_same_runs(*models, CALL)


def test_disabled_adapters(models):
    unfused, fused = models
    with unfused.disable_adapter(), fused.disable_adapter():
        assert_same_runs(unfused, fused, CALL)
        plain, _ = CALL(seeded(classifier).eval())
        disabled, _ = CALL(fused.eval())
        torch.testing.assert_close(disabled, plain)
    assert_same_runs(unfused, fused.train(), CALL)


def test_several_adapters(models):
    for one in models:
        torch.manual_seed(2)
        one.add_adapter("other", lora(["query", "output.dense"]))
        one.set_adapter("other")
    unfused, fused = models
    fd.fuse(fused)
    assert kinds(fused, texts())[1].keys() == {"alone"}
    assert_same_runs(unfused, fused, CALL)
    for one in models:
        one.delete_adapter("other")
        one.set_adapter("default")
    assert_same_runs(unfused, fused, CALL)


def test_saving_and_loading_adapters(models, tmp_path):
    unfused, fused = models
    fused.save_pretrained(tmp_path)
    weights = peft.get_peft_model_state_dict(fused)
    for name, x in peft.get_peft_model_state_dict(unfused).items():
        assert torch.equal(x, weights[name])
    for fuse in (False, True):
        base = seeded(classifier)
        if fuse:
            fd.fuse(base)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
        assert list(loaded.state_dict()) == list(unfused.state_dict())
        assert_equal_in_evaluation(unfused, loaded, CALL)
        fd.fuse(loaded)
        assert_same_runs(unfused, loaded.train().requires_grad_(), CALL)


def test_gradient_checkpointing(models):
    _, fused = models
    plain = run(fused, CALL)
    fused.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    layer = fused.get_base_model().bert.encoder.layer[0].output.dense
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_equal_runs(plain, run(fused, CALL), 1e-6)
    assert len(calls) == 2  # the second in backward


def test_a_training_step_moves_the_adapters_only(models):
    unfused, fused = models
    for name, one in fused.named_parameters():
        one.requires_grad_("lora_" in name)
    before = {name: x.clone() for name, x in fused.named_parameters()}
    optimizer = torch.optim.SGD((p for p in fused.parameters() if p.requires_grad), lr=0.1)
    run(fused, CALL)
    optimizer.step()
    moved = {name for name, x in fused.named_parameters() if not torch.equal(x, before[name])}
    assert moved and all("lora_" in name for name in moved)
    unfused.load_state_dict(fused.state_dict())
    assert_equal_in_evaluation(unfused, fused, CALL)
