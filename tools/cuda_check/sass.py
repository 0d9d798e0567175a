"""Reads SASS, the machine code in a cubin, and counts what the main loop of a kernel executes."""

import operator
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
        # BRA.DIV is taken where the threads of a warp are apart.
        certain = not self.predicate and "P" not in self.operands and ".DIV" not in self.opcode
        return self.name == "BRA" and certain

    def is_wide(self, *names):
        """Whether it is one of these kinds of access, to 16 bytes."""
        return self.name in names and ".128" in self.opcode

    @property
    def registers(self):
        """The numbers of those named, the one that is written first; -1 for none."""
        target, _, sources = self.operands.partition(",")
        written = re.match(r"\s*R(\d+)", target)
        # An address, as the first operand of a store, is read.
        read = sources if written else self.operands
        return [int(written[1]) if written else -1, *map(int, re.findall(r"\bR(\d+)", read))]

    @property
    def is_wide_load(self):
        """Of 16 bytes, to registers or to shared memory."""
        # LD is a load whose address the compiler cannot tell to be a global one.
        return self.is_wide("LDG", "LD", "LDGSTS")

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


def shortest_path(code, first, last, marks, goal):
    """Indices of the shortest way from one instruction to another that passes `goal` marks.

    `marks(instruction)` is a tuple of 0 and 1; along the way they have to add up to `goal`, the
    last of them to that or more.
    There are side paths for uniform conditions: no dropout, shared masks, a residual, no gradient
    wanted. Marks of what a plain call does, such as stores of all its results, tell its way from
    them.
    """
    at = {code[i].address: i for i in range(first, last + 1)}
    start = (first, (0,) * len(goal))
    best = {start: (0, None)}  # (index, marks before it): (length, predecessor)
    reached = {first: [start]}
    end = None
    for i in range(first, last + 1):
        instruction = code[i]
        for state in reached.get(i, ()):
            length = best[state][0] + 1
            now = tuple(map(operator.add, state[1], marks(instruction)))
            now = (*now[:-1], min(now[-1], goal[-1]))
            if i == last and now == goal:
                end = state
            if any(map(operator.gt, now, goal)):
                continue
            followers = []
            if not instruction.always_jumps and not instruction.ends_path:
                followers.append(i + 1)
            if instruction.target in at:
                followers.append(at[instruction.target])
            for follower in followers:
                key = (follower, now)
                if i < follower <= last:
                    if key not in best:
                        reached.setdefault(follower, []).append(key)
                    if key not in best or best[key][0] > length:
                        best[key] = (length, state)
    path = []
    while end is not None:
        path.append(end[0])
        end = best[end][1]
    return path[::-1]


def loop_marks(instruction):
    """A round of Philox, a wide store, a wide load."""
    operands = instruction.operands.lower()
    is_round = any(multiplier in operands for multiplier in PHILOX_MULTIPLIERS)
    return is_round, instruction.is_wide("STG"), instruction.is_wide_load


def prologue(code, first, loads):
    """Indices of what is executed before the loop at `first`, with so many wide loads or more."""
    path = shortest_path(code, 0, first, lambda one: (one.is_wide_load,), (loads,))
    if not path:
        raise ValueError(f"no way to the loop with {loads} loads of 16 bytes")
    return path[:-1]


def loads_in_flight(code, first):
    """How many 16-byte loads of tensors stand before the first use of one of them.

    Copies to shared memory are used after a wait for them. Other loads are counted in the loop from
    `first` on, up to the first instruction that reads what one of them writes.
    """
    copies = [i for i, one in enumerate(code) if one.is_wide("LDGSTS")]
    if copies:
        wait = next(i for i, one in enumerate(code) if one.name == "DEPBAR" and i > copies[0])
        return sum(i < wait for i in copies)
    count, loaded = 0, set()
    for one in code[first:]:
        target, *sources = one.registers
        if loaded.intersection(sources):
            break
        if one.is_wide("LDG", "LD"):
            count += 1
            loaded.update(range(target, target + 4))
    return count


def has_chain_of_shared_loads(code, first, last):
    """Whether a loop within this one reads shared memory."""
    return any(
        first < begin and end < last and any(one.name == "LDS" for one in code[begin : end + 1])
        for begin, end in loops(code)
    )


@dataclass
class Count:
    instructions: float  # executed per element
    alu: float
    special: float
    first: int  # the indices of the loop's first and last instruction
    last: int


def main_loop(code, unroll, loads, stores, counters=None, group=8):
    """What one turn of a loop, of `unroll` groups, executes per element.

    It has at least so many loads and exactly so many stores of 16 bytes, and draws the bits of so
    many counters, one for each group unless given. Loops within it count as one turn.
    """
    counters = unroll if counters is None else counters
    candidates = []
    for first, last in loops(code):
        # The first of the ten rounds may have left the loop: it starts from what never changes.
        for rounds in range(9 * counters, 10 * counters + 1):
            path = shortest_path(code, first, last, loop_marks, (rounds, stores, loads))
            if path:
                candidates.append(path)
    if not candidates:
        raise ValueError(f"no loop with Philox, {loads} loads and {stores} stores of 16 bytes")
    path = min(candidates, key=len)
    mix = Counter(code[i].name for i in path)
    elements = group * unroll
    return Count(
        len(path) / elements,
        sum(mix[name] for name in ALU) / elements,
        sum(mix[name] for name in SPECIAL) / elements,
        path[0],
        path[-1],
    )
