"""Pattern for timm's attention."""

import re

from fused_dropout import functional as FF
from fused_dropout.fusion.dropout_layers import dropout_arguments
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.patterns.timm.mlp import Branch


class FusedAttention(Branch):
    linears = ("proj",)
    drops = "attn_drop", "proj_drop"
    fused_dropouts = ("proj_drop",)

    @classmethod
    def reason_not_fusable(cls, module):
        if not module.fused_attn:
            return "fused_attn is False: attention is computed step by step"
        return super().reason_not_fusable(module)

    def last_layers(self):
        return self.proj, self.proj_drop

    def before_last(self, x, attn_mask=None, is_causal=False):
        gate = getattr(self, "gate", None)  # from timm 1.0.31
        gate = None if gate is None else gate(x).sigmoid()
        # (batch, length, 3 * width) to (3, batch, heads, length, width).
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        # timm looks at self.training; `mc_mode` sets the flag of the dropout child.
        drops = self.training or self.attn_drop.training
        x = FF.scaled_dot_product_attention(
            self.q_norm(q),
            self.k_norm(k),
            v,
            attn_mask,
            dropout_arguments(self.attn_drop)["p"] if drops else 0.0,
            is_causal,
        )
        x = x.transpose(1, 2).flatten(-2)
        if hasattr(self, "norm"):  # from timm 1.0.20
            x = self.norm(x)
        return x if gate is None else x * gate


add_fingerprint_pattern(
    "timm",
    FusedAttention,
    # 1.0.31, 1.0.26, 1.0.20, 1.0.15
    ("139bb61c8148a0ad", "e54c8a58e19d4f53", "5274391f49ea8811", "6626a436634979a9"),
    re.compile("timm.layers.attention.Attention|timm.models.vision_transformer.Attention"),
    "dropout of the attention probabilities; bias and dropout of the projection",
)
