"""Reads SASS, the machine code in a cubin, and counts what the main loop of a kernel executes."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass

# By the pipes of sm_80 to sm_100: half of the issue rate for ALU, an eighth for special functions.
# Multiplications and additions of floats, and integer multiply-add, have a pipe of their own.
ALU = {
    *("LOP3", "IADD3", "IADD", "VIADD", "ISETP", "SHF", "PRMT", "SEL", "LEA", "IMNMX", "VIMNMX"),
    *("PLOP3", "IABS", "SGXT", "BMSK", "LOP", "P2R", "R2P", "VOTE", "FLO", "POPC", "IDP"),
    *("FSEL", "FMNMX", "FSETP", "FSET", "F2FP"),
}
SPECIAL = ["MUFU", "F2I", "I2F", "F2F", "FRND"]
# 0xD2511F53, and the same as a negative number.
PHILOX_MULTIPLIERS = ("0xd2511f53", "-0x2daee0ad")


@dataclass
class Instruction:
    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        """Of a branch, else None."""
        if self.name != "BRA":
            return None
        found = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(found[1], 16) if found else None

    @property
    def always_jumps(self):
        return self.name == "BRA" and not self.predicate and "P" not in self.operands

    @property
    def ends_path(self):
        return self.name in ("EXIT", "RET", "BRX", "CALL") and not self.predicate


def disassemble(cuobjdump, path, architecture):
    """{mangled name of the kernel: its instructions}, of an object file's code for sm_*."""
    command = [cuobjdump, "-sass", "-arch", architecture, path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kernels, current = {}, None
    for line in text.splitlines():
        if found := re.match(r"\s*Function : (\S+)", line):
            current = kernels.setdefault(found[1], [])
        elif found := re.match(
            r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", line
        ):
            current.append(Instruction(int(found[1], 16), found[2] or "", found[3], found[4]))
    return kernels


def loops(code):
    """(first, last) index of each loop's instructions, by its backward branch."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    return [
        (at[instruction.target], i)
        for i, instruction in enumerate(code)
        if instruction.target in at and at[instruction.target] <= i and at[instruction.target] != i
    ]


def shortest_path(code, first, last, rounds):
    """Indices of the shortest way through a loop that passes `rounds` rounds of Philox.

    A loop has side paths for uniform conditions: no dropout, shared masks, a residual. What is
    wanted is the way of a plain call, and that is the shortest one that draws all its random bits.
    """
    at = {code[i].address: i for i in range(first, last + 1)}
    best = {(first, 0): (0, None)}  # (index, rounds so far): (length, predecessor)
    for i in range(first, last + 1):
        for seen in [r for (k, r) in best if k == i]:
            length, _ = best[i, seen]
            instruction = code[i]
            now = seen + any(m in instruction.operands.lower() for m in PHILOX_MULTIPLIERS)
            followers = []
            if not instruction.always_jumps and not instruction.ends_path:
                followers.append(i + 1)
            if instruction.target in at:
                followers.append(at[instruction.target])
            if i == last and now == rounds:
                best["end"] = (length + 1, (i, seen))
            for follower in followers:
                key = (follower, now)
                ahead = max(first, i) < follower <= last and now <= rounds
                if ahead and (key not in best or best[key][0] > length + 1):
                    best[key] = (length + 1, (i, seen))
    if "end" not in best:
        return None
    path, key = [], best["end"][1]
    while key is not None:
        path.append(key[0])
        key = best[key][1]
    return path[::-1]


@dataclass
class Count:
    elements: int
    instructions: float  # of each kind, executed per element
    alu: float
    special: float
    wide_loads: int
    wide_stores: int


def main_loop(code, unroll, group=8):
    """What one turn of the vector loop executes, per element."""
    candidates = []
    for first, last in loops(code):
        # The first of the ten rounds may have left the loop: it starts from what never changes.
        for rounds in range(9 * unroll, 10 * unroll + 1):
            path = shortest_path(code, first, last, rounds)
            if path and any(".128" in code[i].opcode for i in path):
                candidates.append(path)
    if not candidates:
        raise ValueError("no loop with 16-byte accesses and Philox was found")
    path = min(candidates, key=len)
    mix = Counter(code[i].name for i in path)
    elements = group * unroll
    return Count(
        elements,
        len(path) / elements,
        sum(mix[name] for name in ALU) / elements,
        sum(mix[name] for name in SPECIAL) / elements,
        sum(code[i].name == "LDG" and ".128" in code[i].opcode for i in path),
        sum(code[i].name == "STG" and ".128" in code[i].opcode for i in path),
    )
