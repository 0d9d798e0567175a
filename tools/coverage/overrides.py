"""What the rules of ``shrink.py`` get wrong: fields by family, with the value they need."""

_SERIES = {"prediction_length": 4, "context_length": 16, "lags_sequence": [1, 2]}

CONFIGURATIONS = {
    "autoformer": {**_SERIES, "label_length": 4, "moving_average": 3},
    "esm": {
        "vocab_size": 128,
        "position_embedding_type": "rotary",
        "mask_token_id": 4,
        "pad_token_id": 1,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "informer": _SERIES,
    "time_series_transformer": _SERIES,
}
