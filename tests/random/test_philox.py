"""`csrc/math/philox.h` in small C++ programs, against known answers and torch's own engine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fused_dropout import reference

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(torch.__file__).parent / "include"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

# Reads lines of `inputs` numbers, writes the four words of each.
PROGRAM = """
#include <cinttypes>
#include <cstdio>
#include <iostream>
{include}
int main() {{
  for (uint64_t in[{inputs}]; true;) {{
    for (uint64_t& number : in) if (!(std::cin >> number)) return 0;
    {words}
    std::printf("%08x %08x %08x %08x\\n", w[0], w[1], w[2], w[3]);
  }}
}}
"""
# Reads key words and counter words.
GENERATOR = {
    "folder": ROOT / "csrc",
    "inputs": 6,
    "include": '#include "math/philox.h"',
    "words": "const auto word = [&](int i) { return static_cast<uint32_t>(in[i]); };"
    "const auto b = fused_dropout::philox("
    "  fused_dropout::PhiloxWords<uint32_t>{word(2), word(3), word(4), word(5)}, word(0), word(1));"
    "const uint32_t w[] = {b.x, b.y, b.z, b.w};",
}
# Reads seed, group and offset.
GROUP = {
    "folder": ROOT / "csrc",
    "inputs": 3,
    "include": '#include "math/philox.h"',
    "words": "const auto b = fused_dropout::group_bits({in[0], in[2]}, in[1]);"
    "const uint32_t w[] = {b.x, b.y, b.z, b.w};",
}
# The same; the engine's offset counts blocks of four numbers.
ENGINE = {
    "folder": TORCH,
    "inputs": 3,
    "include": "#include <ATen/core/PhiloxRNGEngine.h>",
    "words": "at::philox_engine engine(in[0], in[1], in[2] / 4);"
    "uint32_t w[4]; for (uint32_t& word : w) word = engine();",
}

# Key words, counter words: output words, from Random123's kat_vectors.
KNOWN_ANSWERS = {
    "00000000 00000000  00000000 00000000 00000000 00000000": "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff  ffffffff ffffffff ffffffff ffffffff": "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "a4093822 299f31d0  243f6a88 85a308d3 13198a2e 03707344": "d16cfe09 94fdcceb 5001e420 24126ea1",
}
STATES = [
    (seed, group, 4 * block)
    for seed in (0, 1, 2**32, 2**64 - 1, 0x123456789ABCDEF0)
    for group in (0, 1, 2**32 - 1, 2**32, 2**60 - 1)
    for block in (0, 1, 2**32 - 1, 2**32, 2**61 - 1)
]


def run(folder, program, lines):
    source, binary = folder / "program.cpp", folder / "program"
    source.write_text(PROGRAM.format(**program))
    options = ["-std=c++20", "-O1", "-I", program["folder"], "-o", binary]
    subprocess.run([COMPILER, *options, source], check=True)
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    return subprocess.check_output([binary], input=text, text=True).splitlines()


def test_known_answers(tmp_path):
    lines = [[int(word, 16) for word in words.split()] for words in KNOWN_ANSWERS]
    assert run(tmp_path, GENERATOR, lines) == list(KNOWN_ANSWERS.values())


def test_the_engine_of_torch_and_the_reference(tmp_path):
    ours = run(tmp_path, GROUP, STATES)
    assert ours == run(tmp_path, ENGINE, STATES)
    assert len(set(ours)) == len(STATES)
    for (seed, group, offset), line in zip(STATES, ours, strict=True):
        words = [int(word, 16) for word in line.split()]
        halves = [half for word in words for half in (word % 65536, word // 65536)]
        j = 8 * group + torch.arange(8)
        assert reference.draws(j, (seed, offset)).tolist() == halves
