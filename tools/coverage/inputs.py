"""Inputs for a model of any family, from the names of the parameters of its ``forward``."""

import inspect
import itertools
import re

import torch

from tools.coverage.shrink import VOCABULARY, is_configuration

BATCH = 2
WORDS = 8
FRAMES = 64
SAMPLES = 4000

# Parameters that select a part of a model; each is given a value if ``forward`` has it.
_MODALITIES = (
    "input_ids",
    "pixel_values",
    "image_grid_thw",
    "input_features",
    "input_values",
    "qformer_input_ids",
    "decoder_input_ids",
    "bbox",
)


def candidate_inputs(model):
    """Yields dictionaries of inputs to try, those that reach most of the model first."""
    parameters = inspect.signature(model.forward).parameters
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    main = getattr(model, "main_input_name", "input_ids")
    main = [main] if isinstance(main, str) else list(main)
    decoder = ["decoder_input_ids"] if model.config.is_encoder_decoder else []
    seen = set()
    for names in (
        [*required, *_MODALITIES],
        [*required, *main, *decoder],
        [*required, *main],
        required,
        ["input_ids"],
        ["pixel_values"],
    ):
        names = (name for name in names if name in parameters and name not in _BESIDE)
        names = tuple(dict.fromkeys(names))
        if not names or names in seen:
            continue
        seen.add(names)
        values = [_values(name, model.config, parameters) for name in names]
        if not all(values):
            continue
        for chosen in itertools.islice(itertools.product(*values), 60):
            inputs = dict(zip(names, chosen, strict=True))
            yield inputs | _beside(inputs, parameters)


def with_placeholders(inputs, message, config):
    """Inputs with tokens for images or sounds, the numbers of them to try.

    Args:
        message: of the error that the model raised. It says how many features there are, or how
            many elements they have. If it is another message, nothing is yielded.
    """
    counts = re.search(r"tokens:? *\d*,? *(?:and )?(?:\w+ )?features:? (\d+)", message)
    kind = "audio" if "audio" in message.lower() else "image"
    token = field(config, f"{kind}_token_id", f"{kind}_token_index", default=None)
    if counts is None or token is None or "input_ids" not in inputs:
        return
    ids = inputs["input_ids"]
    features = int(counts[1]) // len(ids)
    widths = [_integer(field(part, "hidden_size", default=1)) for part in _parts(config)]
    # Some models look for the token that stands before an image.
    start = field(config, "vision_start_token_id", "image_start_token_id", default=None)
    start = torch.full((len(ids), 0 if start is None else 1), start or 0)
    for number in dict.fromkeys(max(1, features // width) for width in (1, *widths)):
        tokens = torch.full((len(ids), number), token)
        changed = {**inputs, "input_ids": torch.cat([ids[:, :1], start, tokens, ids[:, 1:]], 1)}
        if "mm_token_type_ids" in inputs:
            changed["mm_token_type_ids"] = (changed["input_ids"] == token).int()
        if "attention_mask" in inputs:
            changed["attention_mask"] = torch.ones_like(changed["input_ids"])
        yield changed


_BESIDE = {"mm_token_type_ids", "input_features_mask", "feature_attention_mask"}


def _beside(inputs, parameters):
    """Arguments that keep a step small, and those that follow from the shapes of others."""
    wanted = {"use_cache": False, "return_dict": True}
    if "input_ids" in inputs:
        wanted["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    if "input_features" in inputs:
        frames = max(inputs["input_features"].shape[1:])
        for name in ("input_features_mask", "feature_attention_mask"):
            wanted[name] = torch.ones(BATCH, frames, dtype=torch.long)
        if "feature_attention_mask" in parameters and "input_ids" in inputs:
            wanted["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return {name: value for name, value in wanted.items() if name in parameters}


def _values(name, config, parameters):
    """The values to try for a parameter; empty if it is unknown."""
    if name in ("input_ids", "decoder_input_ids", "text_input_ids", "text_ids"):
        return _words(config)
    if name == "qformer_input_ids":
        return _words(config.qformer_config)
    if name in ("pixel_values", "hidden_states") and _GRIDS.intersection(parameters):
        return [*_patches(config), *_states(config)]
    if "attention_mask" in name:
        return [torch.ones(BATCH, WORDS, dtype=torch.long)]
    if name == "bbox":
        return [torch.randint(0, 60, (BATCH, WORDS, 4)).sort(-1).values]
    makers = {
        "pixel_values": _images,
        "pixel_values_videos": _images,
        "input_features": _spectrograms,
        "input_values": _sounds,
        "past_values": _series,
        "past_time_features": _time_features,
        "past_observed_mask": lambda config: [torch.ones_like(x) for x in _series(config)],
        "future_values": lambda config: [x[:, : config.prediction_length] for x in _series(config)],
        "future_time_features": lambda config: [
            x[:, : config.prediction_length] for x in _time_features(config)
        ],
        "inputs_embeds": _states,
        "query_embeds": _states,
        "hidden_states": lambda config: [*_states(config), *_images(config)],
        "hidden_state": _states,
        "encoder_hidden_states": _states,
        "x": _states,
        "image": _images,
        "spectrogram": lambda config: [torch.randn(BATCH, FRAMES, config.model_in_dim)],
        "inputs": lambda config: [*_images(config), *_words(config), *_states(config)],
        "grid_thw": _grids,
        "image_grid_thw": _grids,
        "merge_sizes": lambda config: [torch.ones(BATCH, dtype=torch.long)],
        "audio_codes": _codes,
        "input_audio_codes": _codes,
    }
    return makers[name](config) if name in makers else []


def field(config, *names, default):
    """The first field of these names that a configuration or one of its parts has."""
    for part, name in itertools.product(_parts(config), names):
        try:
            value = getattr(part, name, None)
        except Exception:  # fields that differ between layers raise errors of their own
            continue
        if value is not None:
            return value
    return default


def _parts(config):
    return [config, *filter(is_configuration, vars(config).values())]


def _integer(value):
    return value[0] if isinstance(value, (tuple, list)) else value


def _words(config):
    vocabulary = _integer(field(config, "vocab_size", default=VOCABULARY))
    # Small ids and large ones are often tokens with a meaning, such as the place of an image.
    low, high = (8, 60) if vocabulary > 60 else (1, max(2, vocabulary))
    ids = torch.randint(low, high, (BATCH, WORDS))
    books = _integer(field(config, "num_codebooks", "n_codebooks", default=0))
    shapes = [ids]
    end = field(config, "eos_token_id", default=None)
    if isinstance(end, int) and 0 <= end < vocabulary:
        ended = ids.clone()
        ended[:, -1] = end
        shapes.append(ended)
    if books:
        shapes.append(torch.randint(low, high, (BATCH, WORDS, books)))
        shapes.append(torch.randint(low, high, (BATCH * books, WORDS)))
    shapes.append(torch.randint(low, high, (BATCH, 64)))
    return shapes


def _codes(config):
    books = _integer(field(config, "num_codebooks", "num_quantizers", "n_codebooks", default=4))
    return [torch.randint(0, 8, (BATCH, books, WORDS)), torch.randint(0, 8, (BATCH, WORDS, books))]


def _images(config):
    size = field(config, "image_size", "img_size", "input_size", default=64)
    height, width = (
        size if isinstance(size, (tuple, list)) and len(size) == 2 else [_integer(size)] * 2
    )
    channels = _integer(field(config, "num_channels", "in_channels", "in_chans", default=3))
    frames = _integer(field(config, "num_frames", "frames_per_clip", default=4))
    shapes = [
        (BATCH, channels, height, width),
        (BATCH, 3, height, width),
        (BATCH, frames, channels, height, width),
        (BATCH, channels, frames, height, width),
        (BATCH, channels, 64, 64),
        (BATCH, channels, 224, 224),
    ]
    patch = field(config, "patch_size", default=None)
    if isinstance(patch, int):
        shapes.append((BATCH, 16, channels * patch * patch))
    return [torch.randn(shape) for shape in dict.fromkeys(shapes)]


def _spectrograms(config):
    bins = _integer(
        field(
            config,
            "num_mel_bins",
            "input_feat_per_channel",
            "feature_size",
            "input_dim",
            "feature_projection_input_dim",
            "input_channels",
            default=80,
        )
    )
    frames = [FRAMES]
    positions = _integer(field(config, "max_source_positions", default=0))
    if positions:
        frames.insert(0, 2 * positions)
    spec = _integer(field(config, "spec_size", default=0))
    shapes = [shape for n in frames for shape in ((BATCH, bins, n), (BATCH, n, bins))]
    if spec:
        shapes.append((BATCH, 1, 1024, bins))
    return [*(torch.randn(shape) for shape in shapes), *_sounds(config)]


def _sounds(config):
    bins = _integer(field(config, "num_mel_bins", "model_in_dim", "input_dim", default=80))
    length = _integer(field(config, "max_length", default=FRAMES))
    shapes = [(BATCH, SAMPLES), (BATCH, 1, SAMPLES), (BATCH, length, bins), (BATCH, FRAMES, bins)]
    return [torch.randn(shape) for shape in dict.fromkeys(shapes)]


def _series(config):
    lags = max(field(config, "lags_sequence", default=[0]))
    length = _integer(field(config, "context_length", default=FRAMES)) + lags
    variables = _integer(field(config, "num_input_channels", "input_size", default=1))
    shapes = [(BATCH, length), (BATCH, length, variables)]
    return [torch.randn(shape) for shape in shapes]


def _time_features(config):
    length = _series(config)[0].shape[1]
    return [torch.randn(BATCH, length, _integer(field(config, "num_time_features", default=0)))]


def _states(config):
    width = _integer(field(config, "hidden_size", "d_model", "embed_dim", "hidden_dim", default=64))
    channels = _integer(field(config, "num_channels", "in_channels", "in_chans", default=3))
    patch = _integer(field(config, "patch_size", default=16))
    frames = _integer(field(config, "temporal_patch_size", "patch_temporal", default=1))
    inner = _integer(field(config, "input_dim", default=width))
    return [
        torch.randn(BATCH, WORDS, width),
        *([torch.randn(BATCH, WORDS, inner)] if inner != width else []),
        torch.randn(16, channels * frames * patch * patch),
        torch.randn(BATCH, width, WORDS),
        torch.randn(BATCH, width, WORDS, WORDS),
    ]


_GRIDS = {"grid_thw", "image_grid_thw"}


def _grids(config):
    return [torch.tensor([[1, 4, 4]] * BATCH)]


def _patches(config):
    """The patches of all images that :func:`_grids` describes."""
    channels = _integer(field(config, "num_channels", "in_channels", "in_chans", default=3))
    patch = _integer(field(config, "patch_size", default=16))
    frames = _integer(field(config, "temporal_patch_size", "patch_temporal", default=1))
    number = 16 * BATCH
    return [
        torch.randn(number, channels * frames * patch * patch),
        torch.randn(number, channels, patch, patch),
        torch.randn(1, number, channels, patch, patch),
        torch.randn(1, number, channels * frames * patch * patch),
    ]
