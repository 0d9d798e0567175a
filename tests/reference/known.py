"""Known answers, and helpers of the tests of the reference.

The reference's numbers are held to the published known answers of Philox, to values printed by
`at::philox_engine`, to memory positions as torch lays tensors out, and to formulas and small cases
worked by hand.
"""

import torch

STATE = (0x1234, 8)
PROBABILITIES = (1e-3, 0.003, 0.1, 0.25, 0.33, 0.5, 0.75, 0.999)
# Philox4x32-10: (key, counter, words), from Random123's kat_vectors.
KNOWN_ANSWERS = [
    ("00000000 00000000", "00000000 " * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff", "ffffffff " * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "a4093822 299f31d0",
        "243f6a88 85a308d3 13198a2e 03707344",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
# The first four words of at::philox_engine(seed, group, offset / 4).
ENGINE = [
    (0x123456789ABCDEF0, 0, 3, "7c3fc739 a3e7e272 7b5e8a32 c0b07bf4"),
    (-5, 4 * 7, 1 << 33, "6ca4d4b2 8aad18c8 d77afabd f86180cb"),
    (42, 4 * ((1 << 40) + 12345), 0x0370734413198A2E, "b34202ec 9a1f31b2 303fe92f ccd1541a"),
]
# The draws of seed 0, offset 0, group 0: the halves of the first known answer, low half first.
FIRST_DRAWS = [0xE8D5, 0x6627, 0xC58D, 0xE169, 0xAC4C, 0xBC57, 0xDBD8, 0x9B00]


def words_of(text):
    return tuple(int(word, 16) for word in text.split())


def halves_of(words):
    return [half for word in words for half in (word % 65536, word // 65536)]


def permuted(shape, order):
    """A tensor of the given shape whose dimensions lie in memory in the given order."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.empty([shape[dim] for dim in order]).permute(inverse)
