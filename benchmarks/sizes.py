"""Sizes and precisions of the models whose training steps are timed.

On a GPU the sizes are large enough that kernels take the time and not their launches. The precision
is the usual one for training on the device.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """Size of a layer of `benchmarks.training_step`. `batches` are (examples, length)."""

    width: int
    heads: int
    batches: tuple[tuple[int, int], ...]


class Text(NamedTuple):
    """Size of an encoder of `benchmarks.end_to_end`."""

    layers: int
    width: int
    heads: int
    texts: int
    words: int

    def __str__(self):
        return f"{_layers(self)}, {self.texts} texts of {self.words} words"


class Images(NamedTuple):
    """Size of the vision transformer of `benchmarks.end_to_end`. Images are `size` x `size`."""

    layers: int
    width: int
    heads: int
    images: int
    size: int

    def __str__(self):
        images = f"{self.images} images of {self.size} x {self.size}"
        return f"{_layers(self)}, {images} in patches of 16 x 16"


def _layers(size: Text | Images) -> str:
    width = size.width
    return f"{size.layers} layers, {width} wide, {size.heads} heads, {4 * width} hidden"


class Sizes(NamedTuple):
    layer: Layer
    text: Text
    images: Images


SIZES = {
    "cpu": Sizes(
        Layer(512, 8, ((16, 128), (4, 512))),
        Text(layers=6, width=256, heads=4, texts=16, words=128),
        Images(layers=6, width=384, heads=6, images=8, size=224),
    ),
    "cuda": Sizes(
        Layer(2048, 16, ((16, 512),)),
        Text(layers=4, width=2048, heads=16, texts=16, words=512),
        Images(layers=6, width=1024, heads=16, images=64, size=224),
    ),
}
QUICK = Sizes(
    Layer(512, 8, ((2, 64),)),
    Text(layers=6, width=256, heads=4, texts=2, words=32),
    Images(layers=6, width=384, heads=6, images=2, size=64),
)
# One short text: the calls cost more than the arithmetic.
SMALL = tuple(
    Sizes(QUICK.layer, Text(layers=12, width=width, heads=4, texts=1, words=8), QUICK.images)
    for width in (32, 64, 128)
)
PRECISIONS = ("float32", "autocast")  # autocast to bfloat16, with float32 parameters
PRECISION = {"cpu": "float32", "cuda": "autocast"}
