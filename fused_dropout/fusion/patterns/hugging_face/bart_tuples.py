"""The layers of ``bart.py`` in transformers before 5.10, where they return tuples."""

import torch
from transformers.utils.deprecation import deprecate_kwarg

from fused_dropout.fusion.patterns.hugging_face.bart import (
    FusedDecoderLayer,
    FusedEncoderLayer,
    add_layer_patterns,
)

# In transformers 4.57.
_RENAMED = deprecate_kwarg("past_key_value", "4.58", new_name="past_key_values")


class FusedEncoderLayerWithTuple(FusedEncoderLayer):
    """In transformers 5.0."""

    def fused_forward(self, hidden_states, attention_mask, output_attentions=False):
        return self._encode_to_tuple(hidden_states, attention_mask, output_attentions)

    def _encode_to_tuple(self, hidden_states, attention_mask, output_attentions, **kwargs):
        if hidden_states.dtype == torch.float16:
            # The original layer clamps its result in float16.
            return self.unfused_forward(
                hidden_states, attention_mask, output_attentions=output_attentions, **kwargs
            )
        hidden_states, weights = self._encode(
            hidden_states,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
            **kwargs,
        )
        with_weights = output_attentions or self.norm_first
        return (hidden_states, weights) if with_weights else (hidden_states,)


class FusedPreNormEncoderLayerWithTuple(FusedEncoderLayerWithTuple):
    norm_first = True


class FusedEncoderLayerWithHeadMask(FusedEncoderLayerWithTuple):
    """In transformers 4.57."""

    def fused_forward(
        self, hidden_states, attention_mask, layer_head_mask, output_attentions=False
    ):
        return self._encode_to_tuple(
            hidden_states, attention_mask, output_attentions, layer_head_mask=layer_head_mask
        )


class FusedPreNormEncoderLayerWithHeadMask(FusedEncoderLayerWithHeadMask):
    norm_first = True


class FusedDecoderLayerWithTuple(FusedDecoderLayer):
    """In transformers 5.0."""

    @_RENAMED
    def fused_forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        output_attentions=False,
        use_cache=True,
        cache_position=None,
    ):
        both = {"past_key_values": past_key_values, "output_attentions": output_attentions}
        return self._decode_to_tuple(
            hidden_states,
            encoder_hidden_states,
            {"attention_mask": attention_mask, "cache_position": cache_position, **both},
            {"attention_mask": encoder_attention_mask, **both},
        )

    def _decode_to_tuple(self, x, encoder_hidden_states, options, cross_options):
        x, weights = self._decode(x, encoder_hidden_states, options, cross_options)
        if not options["output_attentions"]:
            return (x,)
        return (x, *weights) if len(weights) == 2 else (x, *weights, None)


class FusedPreNormDecoderLayerWithTuple(FusedDecoderLayerWithTuple):
    norm_first = True


class FusedDecoderLayerWithHeadMask(FusedDecoderLayerWithTuple):
    """In transformers 4.57."""

    @_RENAMED
    def fused_forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        layer_head_mask=None,
        cross_attn_layer_head_mask=None,
        past_key_values=None,
        output_attentions=False,
        use_cache=True,
        cache_position=None,
    ):
        both = {"past_key_values": past_key_values, "output_attentions": output_attentions}
        return self._decode_to_tuple(
            hidden_states,
            encoder_hidden_states,
            {
                "attention_mask": attention_mask,
                "layer_head_mask": layer_head_mask,
                "cache_position": cache_position,
                **both,
            },
            {
                "attention_mask": encoder_attention_mask,
                "layer_head_mask": cross_attn_layer_head_mask,
                **both,
            },
        )


class FusedPreNormDecoderLayerWithHeadMask(FusedDecoderLayerWithHeadMask):
    norm_first = True


add_layer_patterns(
    {
        FusedEncoderLayerWithTuple: (("a9b11a2ebf94fd51",), None),
        FusedPreNormEncoderLayerWithTuple: (("b44a4c3189de5557",), None),
        FusedEncoderLayerWithHeadMask: (("1029c4f207e5b044",), None),
        FusedPreNormEncoderLayerWithHeadMask: (("59d73fb0938edced",), None),
        FusedDecoderLayerWithTuple: (("f046c74c43f26e9c",), None),
        # Also PegasusX in 4.57. Some classes pass cache_position to the attention to the encoder,
        # which ignores it.
        FusedPreNormDecoderLayerWithTuple: (("fbcb729891737163", "ff37c2c35bd60afc"), None),
        FusedDecoderLayerWithHeadMask: (("972bfbf256b50127",), None),
        FusedPreNormDecoderLayerWithHeadMask: (("2bb8156004c88464", "576958b5cf2787aa"), None),
    }
)
