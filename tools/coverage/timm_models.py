"""A model of each kind of network in timm, small enough for a training step on a CPU."""

import contextlib
import inspect

import torch

from tools.coverage.measure import NotRun, P, measure
from tools.coverage.probabilities import is_probability
from tools.torchvision_beside_cpu import import_torchvision

import_torchvision()

import timm  # noqa: E402, after what it imports
from timm.models import list_models  # noqa: E402

# One of the smallest of each file of timm; several where a file has blocks of several kinds.
_NAMES = """
beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny
coatnet_nano_rw_224 convformer_s18 convit_tiny convnext_atto convnextv2_atto
crossvit_tiny_240 cs3darknet_s darknet53 davit_tiny deit_tiny_distilled_patch16_224
deit3_small_patch16_224 densenet121 dla46_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_b0 efficientvit_b0 eva02_tiny_patch14_224 eva_giant_patch14_224
fastvit_t8 flexivit_small focalnet_tiny_srf gcvit_xxtiny ghostnet_050 gmixer_12_224 gmlp_ti16_224
hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_tiny levit_128s maxvit_nano_rw_256
mixer_s16_224 mixnet_s mobilenetv3_small_050 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny
nfnet_l0 pit_ti_224 poolformer_s12 pvt_v2_b0 regnetx_002 res2net50_26w_4s resmlp_12_224 resnet18
resnetv2_18 rexnet_100 sequencer2d_s swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 twins_svt_small vgg11 visformer_tiny
vit_tiny_patch16_224 vit_relpos_small_patch16_224 vit_pe_core_tiny_patch16_384
vit_small_patch16_rope_224 vitamin_small_224 volo_d1_224 xception41 xcit_nano_12_p16_224
"""

_SIZE = 64
_SMALLER = {"depth": 2, "img_size": _SIZE}
_DROPS = ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate")


def all_models():
    """The names in the list of families."""
    known = set(list_models())
    return [f"timm/{name}" for name in _NAMES.split() if name in known]


def measure_timm_model(name):
    """The results of :func:`.measure.measure` and the name of the model's class."""
    model = build(name.removeprefix("timm/"))
    return {"model": type(model).__name__, **measure(model, {"x": images_for(model)})}


def build(name):
    """A model with all dropout that its constructor takes, of two blocks and for small images."""
    parameters = inspect.signature(_class_of(name).__init__).parameters
    drops = {
        key: P
        for key, one in parameters.items()
        if key in _DROPS or (isinstance(one.default, float) and is_probability(key, one.default))
    }
    smaller = {key: value for key, value in _SMALLER.items() if key in parameters}
    depths = getattr(parameters.get("depths"), "default", None)
    if isinstance(depths, tuple):
        smaller["depths"] = tuple(min(depth, 2) for depth in depths)
    # Not every network can be that small.
    for sizes in (smaller, {k: v for k, v in smaller.items() if k == "img_size"}):
        with contextlib.suppress(Exception):
            torch.manual_seed(0)
            return timm.create_model(name, **drops, **sizes).train()
    return timm.create_model(name, **drops).train()


def _class_of(name):
    try:
        with torch.device("meta"):
            return type(timm.create_model(name))
    except RuntimeError:  # older versions read values of tensors in a constructor
        return type(timm.create_model(name))


def images_for(model):
    """Images of a small size, if the model takes it, else of its own size."""
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    for size in ((_SIZE, _SIZE), (2 * _SIZE, 2 * _SIZE), own, model.default_cfg["input_size"][1:]):
        if size is None:
            continue
        images = torch.randn(2, 3, *size)
        try:
            model(images)
        except Exception:
            continue
        return images
    raise NotRun("no size of images is accepted")
