"""Reads SASS, the machine code in a cubin, and counts the instructions of a kernel's main loop."""

import operator
import re
import subprocess
from collections import Counter
from dataclasses import dataclass

# Pipes of sm_80 to sm_100. ALU instructions run at half of the issue rate, special functions at an
# eighth. Multiplications and additions of floats, and integer multiply-add, have another pipe.
ALU = {
    *("LOP3", "IADD3", "IADD", "VIADD", "ISETP", "SHF", "PRMT", "SEL", "LEA", "IMNMX", "VIMNMX"),
    *("PLOP3", "IABS", "SGXT", "BMSK", "LOP", "P2R", "R2P", "VOTE", "FLO", "POPC", "IDP"),
    *("FSEL", "FMNMX", "FSETP", "FSET", "F2FP"),
}
SPECIAL = ["MUFU", "F2I", "I2F", "F2F", "FRND"]
# 0xD2511F53, unsigned and as a negative number.
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
        """The address that a branch jumps to; None for other instructions."""
        if self.name != "BRA":
            return None
        found = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(found[1], 16) if found else None

    @property
    def always_jumps(self):
        # BRA.DIV jumps only if the threads of a warp have diverged.
        certain = not self.predicate and "P" not in self.operands and ".DIV" not in self.opcode
        return self.name == "BRA" and certain

    def is_wide(self, *names):
        """True for a 16-byte access of one of these kinds."""
        return self.name in names and ".128" in self.opcode

    @property
    def registers(self):
        """The numbers of its registers. The first one is written; -1 if none is."""
        target, _, sources = self.operands.partition(",")
        written = re.match(r"\s*R(\d+)", target)
        # The first operand of a store is an address, which is read.
        read = sources if written else self.operands
        return [int(written[1]) if written else -1, *map(int, re.findall(r"\bR(\d+)", read))]

    @property
    def is_wide_load(self):
        """True for a load of 16 bytes, to registers or to shared memory."""
        # LD is a load from an address that the compiler does not know to be global.
        return self.is_wide("LDG", "LD", "LDGSTS")

    @property
    def ends_path(self):
        return self.name in ("EXIT", "RET", "BRX", "CALL") and not self.predicate


def disassemble(cuobjdump, path, architecture):
    """{mangled name of a kernel: its instructions} for one sm_* architecture of an object file."""
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
    """(first, last) index of the instructions of each loop, found by its backward branch."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    return [
        (at[instruction.target], i)
        for i, instruction in enumerate(code)
        if instruction.target in at and at[instruction.target] <= i and at[instruction.target] != i
    ]


def shortest_path(code, first, last, marks, goal):
    """Indices of the shortest path from one instruction to another that passes `goal` marks.

    ``marks(instruction)`` is a tuple of 0 and 1. Along the path the tuples have to add up to
    ``goal``; the last number may also exceed its goal.

    Kernels branch on uniform conditions: no dropout, shared masks, a residual, no gradient wanted.
    The marks select the path of a plain call, for example by the stores of all its results.
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
    """Marks of an instruction: a Philox round, a wide store, a wide load."""
    operands = instruction.operands.lower()
    is_round = any(multiplier in operands for multiplier in PHILOX_MULTIPLIERS)
    return is_round, instruction.is_wide("STG"), instruction.is_wide_load


def prologue(code, first, loads):
    """Indices of the instructions executed before the loop at `first`, with `loads` wide loads."""
    path = shortest_path(code, 0, first, lambda one: (one.is_wide_load,), (loads,))
    if not path:
        raise ValueError(f"no path to the loop with {loads} loads of 16 bytes")
    return path[:-1]


def loads_in_flight(code, first):
    """How many 16-byte loads of tensors the code issues before it uses the first of them.

    Copies to shared memory count up to the first wait for copies. If there are none, loads count
    from `first` on, up to the first instruction that reads a register that one of them writes.
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
    """True if a loop within this one reads shared memory."""
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
    """Counts the instructions per element of one iteration of the main loop.

    An iteration handles `unroll` groups. It has at least `loads` loads and exactly `stores` stores
    of 16 bytes, and computes `counters` Philox counters (default: one for each group). Loops within
    it count as one iteration.
    """
    counters = unroll if counters is None else counters
    candidates = []
    for first, last in loops(code):
        # The compiler may move the first of the ten rounds out of the loop: its input is constant.
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
