"""The attention layers of ``t5.py`` in transformers before 5.24, with other arguments."""

from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.patterns.hugging_face.t5 import LayerAttention


class FusedLayerSelfAttentionWithPastKeyValues(LayerAttention):
    """In transformers 5.17 and 5.20."""

    def fused_forward(
        self, hidden_states, attention_mask=None, position_bias=None, past_key_values=None, **kwargs
    ):
        kwargs |= {"position_bias": position_bias, "past_key_values": past_key_values}
        return self.run(hidden_states, attention_mask, **kwargs)


class FusedLayerCrossAttentionWithPastKeyValues(LayerAttention):
    """In transformers 5.17 and 5.20."""

    attention = "EncDecAttention"

    def fused_forward(
        self,
        hidden_states,
        key_value_states,
        attention_mask=None,
        position_bias=None,
        past_key_values=None,
        **kwargs,
    ):
        kwargs |= {"position_bias": position_bias, "past_key_values": past_key_values}
        return self.run(hidden_states, attention_mask, key_value_states=key_value_states, **kwargs)


class _OnlyNamedArguments(LayerAttention):
    """Passes the arguments in :attr:`names` to the attention, and no others.

    Attributes:
        names: the parameters of the original ``forward`` after ``hidden_states``, in their order.
        takes_others: whether the original ``forward`` accepts other arguments and ignores them.
    """

    names = ()
    takes_others = False

    def fused_forward(self, hidden_states, *args, **kwargs):
        names = set(self.names)
        if len(args) > len(names) or not (self.takes_others or kwargs.keys() <= names):
            return self.unfused_forward(hidden_states, *args, **kwargs)  # it raises the error
        options = dict(zip(self.names, args, strict=False))
        options |= {name: x for name, x in kwargs.items() if name in names}
        return self.run(hidden_states, options.pop("attention_mask", None), **options)


class FusedLayerSelfAttention510(_OnlyNamedArguments):
    """In transformers 5.10."""

    names = "attention_mask", "position_bias", "past_key_values", "use_cache", "output_attentions"
    takes_others = True


class FusedLayerCrossAttention510(_OnlyNamedArguments):
    """In transformers 5.10."""

    attention = "EncDecAttention"
    names = (
        *("key_value_states", "attention_mask", "position_bias", "past_key_values"),
        "output_attentions",
    )
    takes_others = True


class FusedLayerSelfAttention500(_OnlyNamedArguments):
    """In transformers 5.0."""

    names = (*FusedLayerSelfAttention510.names, "cache_position")


class FusedLayerCrossAttention500(_OnlyNamedArguments):
    """In transformers 5.0."""

    attention = "EncDecAttention"
    names = (
        *("key_value_states", "attention_mask", "position_bias", "past_key_values", "use_cache"),
        *("query_length", "output_attentions", "cache_position"),
    )


class FusedLayerSelfAttention457(_OnlyNamedArguments):
    """In transformers 4.57."""

    names = (
        *("attention_mask", "position_bias", "layer_head_mask", "past_key_values", "use_cache"),
        *("output_attentions", "cache_position"),
    )


class FusedLayerCrossAttention457(_OnlyNamedArguments):
    """In transformers 4.57."""

    attention = "EncDecAttention"
    names = (
        *("key_value_states", "attention_mask", "position_bias", "layer_head_mask"),
        *("past_key_values", "use_cache", "query_length", "output_attentions", "cache_position"),
    )


for _mixin, _fingerprint in (
    (FusedLayerSelfAttentionWithPastKeyValues, "693235190c7fb1bc"),
    (FusedLayerCrossAttentionWithPastKeyValues, "0fd82376c2d15c94"),
    (FusedLayerSelfAttention510, "15f40c0cd117e87a"),
    (FusedLayerCrossAttention510, "a04bb896d061ce42"),
    (FusedLayerSelfAttention500, "6b6808aa55318aa4"),
    (FusedLayerCrossAttention500, "1cbd65a7573d5a73"),
    (FusedLayerSelfAttention457, "41b5cef42f12b5d9"),
    (FusedLayerCrossAttention457, "b9f45f527eeb6fbe"),
):
    add_fingerprint_pattern("transformers", _mixin, (_fingerprint,), None, "dropout and residual")
