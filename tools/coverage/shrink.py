"""Makes a small configuration of any transformers family, from the names of its fields.

All widths are divided by one number, so sums and quotients of them stay right: the heads of an
attention layer still fit its width, and the parts of a rotary embedding still fit a head. Depths,
vocabularies, images and numbers of experts get small values of their own. Fields whose default is
None are left out, so the configuration derives them from the others.
"""

import inspect
import re
from typing import NamedTuple


class Plan(NamedTuple):
    """How much smaller a configuration gets.

    Attributes:
        divisor: of the widths.
        layers: the largest depth.
        image: the size of images in pixels; None for the default of the family.
        experts: the largest number of experts.
    """

    divisor: int = 8
    layers: int = 2
    image: int | None = 64
    experts: int = 8


# In the order to try: a family takes the first one with which it makes a step and is small enough.
PLANS = (
    Plan(),
    Plan(divisor=32),
    Plan(divisor=4),
    Plan(layers=4),
    Plan(divisor=32, layers=4),
    Plan(image=None),
    Plan(divisor=16, layers=12),
    Plan(divisor=1, image=None),
)

VOCABULARY = 128
POSITIONS = 64
WINDOW = 16
QUERIES = 20  # of a detector; it chooses them among the places of a small image
GROUPED = 32  # channels, in autoencoders whose norms have so many groups

_HEADS = ("num_heads", "num_attention_heads")

# The first rule whose pattern is found in the name of a field decides.
_KEPT = re.compile(
    r"kernel|stride|padding|merge|window_kernel|codebook_dim|every|interval|period|offset|num_mel|"
    r"mel_bins|feature_size$|input_dim|in_chans|num_channels|max_ep_len|hop|context_length|"
    r"prediction_length|group_size|loss|cost|temperature|num_residual_layers|"
    r"feature_layer|first_k|sinkhorn|factor|ratio|state_dim|act_dim|max_seq_len|distance|buckets"
)
_VOCABULARY = re.compile(r"vocab(_size)?(_|$)|vocab_size")
_TOKEN = re.compile(r"(token|_tok|bos|eos|pad|sep|cls|mask)_?(token_)?(id|index|ids)$|^(boi|eoi)_")
_POSITIONS = re.compile(
    r"max\w*_position|^max_length$|n_positions|max_2d_position|max_source|max_target|n_ctx"
)
_EXPERTS = re.compile(r"(num|n)_(local_|routed_)?experts$|^(moe_)?num_experts$|n_routed_experts")
_CHOSEN_EXPERTS = re.compile(r"experts_per_tok|top_?k_experts|moe_topk|moe_k$|^topk$|^top_k$")
_IMAGE = re.compile(r"^(pretrain_|crop_|max_)?(image|img|input|spatial)_(size|resolution)$")
_QUERIES = re.compile(r"^num_queries$|num_proposals$")
_CHUNK = re.compile(r"^(mamba_)?chunk_size$")
_WINDOW = re.compile(r"^(sliding_window|attention_window|local_attention)")
_DEPTH = re.compile(
    r"(^|_)(n_?)?(layers|layer|blocks|depth|depths|num_block_repeats)$|max_window_layers|n_layers?$"
)
_LAYER_NUMBERS = re.compile(r"(indexes|indices|_idx|out_features|_ids|attn_layers|_layers_idx)$")
_WIDTH = re.compile(
    r"(size|sizes|dim|dims|channels|rank|width|widths|filters|units|hidden|upsample_groups)$|"
    r"^d_(model|kv|ff|inner|embed|latents)|_d_(model|inner)$|^n_(embd|inner)$|^dim|_dim_|conv_dim|num_pos_feats"
)
_NOT_WIDTH = re.compile(r"patch|block_size|chunk|window|batch|spec_size|pool|codebook|bbox")


def small(cls, plan, overrides=None):
    """A small configuration.

    Args:
        cls: a configuration class of transformers.
        plan: a :class:`Plan`.
        overrides: {family: function that returns fields with their values}, for what the rules get
            wrong. They hold for a family alone and as a part of another.
    """
    return _small(cls(), plan, overrides or {})


def _small(config, plan, overrides):
    cls = type(config)
    fixed = overrides.get(cls.model_type, dict)()
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in fixed:
            continue
        value = vars(config).get(name)
        if is_configuration(value):
            arguments[name] = _small(value, plan, overrides)
        elif isinstance(parameter.default, (int, float, tuple, list)):
            value = parameter.default
            new = small_value(name, value, plan)
            if new != value:
                arguments[name] = new
        elif isinstance(value, dict) and "mrope_section" in value:
            # The parts of a rotary embedding, which fill half of a head.
            parts = [part // plan.divisor for part in value["mrope_section"]]
            arguments[name] = {**value, "mrope_section": parts}
        elif name == "num_experts_per_tok" and value is None:
            arguments[name] = 2
    # A backbone with stages keeps the choice of its outputs: the number of stages stays the same.
    if isinstance(vars(config).get("depths"), (tuple, list)) and "out_features" in dir(config):
        arguments.pop("out_indices", None)
        arguments["out_features"] = list(config.out_features)
    # Parts that are no parameter of their own.
    for name, value in vars(config).items():
        if is_configuration(value) and name not in arguments and name not in fixed:
            arguments[name] = _small(value, plan, overrides)
    # What a tower for images hands to the model for text has its width.
    text = arguments.get("text_config")
    for part in arguments.values():
        if is_configuration(part) and text is not None and "out_hidden_size" in vars(part):
            part.out_hidden_size = text.hidden_size
    config = cls(**arguments, **fixed)
    heads = _fitting_heads(config)
    if heads is not None and heads.keys().isdisjoint(fixed):
        config = cls(**{**arguments, **heads}, **fixed)
    _complete(config)
    return config


def _fitting_heads(config):
    """Fewer heads, where those of a small tower do not fit its width or its rotary embedding.

    Returns:
        dict: the field with the number of heads; None if it stays as it is.
    """
    if not {"head_dim", "num_key_value_heads"}.isdisjoint(dir(config)):
        return None
    name = next((name for name in _HEADS if _field(config, name)), None)
    width = _field(config, "embed_dim") or _field(config, "hidden_size")
    if name is None or not width or width % (4 * getattr(config, name)) == 0:
        return None
    heads = getattr(config, name)
    fitting = [number for number in range(1, heads) if width % (4 * number) == 0]
    return {name: fitting[-1]} if fitting else None


def _complete(config):
    """Sets fields that a model reads although the default of its configuration lacks them."""
    fields = vars(config)
    heads = _field(config, "num_attention_heads")
    width = _field(config, "head_dim") or (heads and (_field(config, "hidden_size") or 0) // heads)
    if not width:
        return
    if fields.get("head_dim", width) is None:
        config.head_dim = width
    rope = fields.get("rope_parameters")
    if "mrope_section" in getattr(config, "ignore_keys_at_rope_validation", ()) and rope:
        half = int(width * rope.get("partial_rotary_factor", 1)) // 2
        if sum(rope.get("mrope_section", ())) != half:
            rope["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]


def _field(config, name):
    """The value of a field; None if it is missing or no integer."""
    try:
        value = getattr(config, name, None)
    except Exception:  # fields that differ between layers raise errors of their own
        return None
    return value if isinstance(value, int) else None


def is_configuration(value):
    """Whether a value is a configuration of transformers."""
    return hasattr(value, "to_diff_dict") and hasattr(value, "model_type")


def small_value(name, value, plan):
    """The value of a field in a small configuration; `value` itself if no rule applies."""
    if isinstance(value, (tuple, list)):
        if _LAYER_NUMBERS.search(name) and all(type(one) is int for one in value):
            return type(value)(range(min(plan.layers, len(value))))
        return type(value)(small_value(name, one, plan) for one in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _KEPT.search(name):
        return value
    if _TOKEN.search(name):
        return value if value < VOCABULARY else VOCABULARY - 1 - value % 64
    if _VOCABULARY.search(name):
        return min(value, VOCABULARY)
    if _POSITIONS.search(name):
        return min(value, POSITIONS)
    if _EXPERTS.search(name):
        return min(value, plan.experts)
    if _CHOSEN_EXPERTS.search(name):
        return min(value, 2)
    if _QUERIES.search(name):
        return min(value, QUERIES)
    if name == "n_group":
        return min(value, 2)
    if name == "topk_group":
        return min(value, 1)
    if _IMAGE.search(name):
        return value if plan.image is None else min(value, plan.image)
    if _WINDOW.search(name) or _CHUNK.search(name):
        return min(value, WINDOW)
    if _DEPTH.search(name):
        return min(value, plan.layers)
    if name == "base_channels":
        return min(value, GROUPED)
    if _WIDTH.search(name) and not _NOT_WIDTH.search(name) and value >= 32:
        return value // plan.divisor if value % plan.divisor == 0 else value
    return value
