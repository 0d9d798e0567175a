"""Small models of timm, and assertions for them."""

import torch
from timm.models.vision_transformer import VisionTransformer

from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "num_heads": 4, "num_classes": 3}
DROPS = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1}


def vit(**options):
    return VisionTransformer(**{**TINY, **DROPS, "depth": 2, **options})


def tokens(*sizes):
    return with_inputs(torch.randn(*(sizes or (6, 5, 16))))


def by_name(report):
    return {site.name: site for site in report.sites}


def assert_same_masks(unfused, fused, call, tolerance=2e-5):
    got = run(fused, call, 5)
    with ExplicitMasks():
        assert_equal_runs(run(unfused, call, 5), got, tolerance)
