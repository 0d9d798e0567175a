"""Checks the machine code of the CUDA kernels without a GPU: `python tools/cuda_check/check.py`.

nvcc compiles every .cu file, without torch, to PTX and for each architecture below that the toolkit
knows. The check compares the instructions, registers and local memory of the kernels with budgets,
and prints a table of the counts. With `--objects` it reads the object files of a build and compiles
only for the architectures that these lack. It looks for nvcc, cuobjdump and nvdisasm in CUDA_HOME,
on the PATH, and in the packages of requirements-cuda.txt. The exit status is 0 only if everything
was checked and is within its budget.
"""

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sass

ROOT = Path(__file__).parent.parent.parent
CUDA = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "cuda_check"
ARCHITECTURES = (80, 90, 100)
FLAGS = ["-std=c++17", "-O3", "-Werror=all-warnings", f"-I{ROOT / 'csrc'}"]
OLDEST = 75  # lacks instructions that the others have: one file shows that the kernels compile
THREADS = 128  # per thread block
# The norm kernels without 16-byte accesses, for rows of more than 4,096 numbers. A thread holds 32
# numbers of a row and their gradients, in fp64 too. Only these kernels may use local memory.
LONG_ROWS = re.compile(r"norm_\w+_kernelI\w+Lb\dELb0ELi4")
MAX_LOCAL = 416  # bytes

LIGHT = ("Identity", "Relu")
HEAVY = ("Gelu", "GeluTanh", "QuickGelu", "Silu", "Sigmoid", "Tanh")
# Elements of a large tensor that a thread handles. The instructions before its loop are spread over
# them. A column loop has kMaxRows groups (csrc/cuda/device/column_loop.cuh). A thread of a norm
# kernel has one group of each of its rows: 8 rows in forward, more in backward (norm_grid in
# csrc/cuda/device/row_group.cuh).
ELEMENTS_PER_THREAD = 8 * 16
FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 8 * 8, 8 * 16


@dataclass
class Loop:
    """The main loop of a family's kernels with 16-byte accesses, and its budgets.

    The budgets count instructions per element: all of them, integer and comparison instructions
    (half the issue rate), and special functions (an eighth). An H200 that copies at its full
    bandwidth can issue 7.7, 3.8 and 1 of them per byte. The instructions before the loop count too,
    spread over the elements of a thread.
    """

    family: str
    direction: str  # empty if the name of the kernel has none
    types: str  # the template arguments of the kernel, mangled; a group names the activation
    unroll: int  # groups of eight elements in one iteration
    loads: int  # of 16 bytes, at least, in one iteration
    stores: int
    instructions: dict  # by activation
    alu: float
    special: float
    counters: int | None = None  # Philox counters in one iteration; default: one for each group
    dtype: str = "bfloat16"
    vectors: int = 0  # loads of 16 bytes before the loop: biases, or a first row
    spread: int = ELEMENTS_PER_THREAD

    def activation_of(self, kernel):
        """The activation of a kernel, or None if the kernel is not one of these."""
        name = "_".join(filter(None, (self.family, self.direction, "kernel")))
        found = re.search(rf"\d{name}I{self.types}EE", kernel)
        if found is None:
            return None
        return found[1] if found.groups() else "Identity"

    def vectors_of(self, activation):
        """`vectors` of a typical call: plain dropout has no bias."""
        plain = self.family == "pointwise" and activation == "Identity"
        return 0 if plain else self.vectors

    def loads_of(self, activation):
        """`loads` of a kernel: only the derivative of the identity does not read x."""
        both = self.family == "pointwise" and self.direction == "backward"
        return 2 * self.loads if both and activation != "Identity" else self.loads

    @property
    def object(self):
        return f"{self.family}_{self.dtype}"


TYPES = {"bfloat16": r"NS_8BFloat16E", "float32": "f"}
ONE_TYPE = {dtype: rf"{name}NS_\d+([A-Z]\w*?)ELb1" for dtype, name in TYPES.items()}
TWO_TYPES = {
    "bfloat16": r"NS_8BFloat16ES\d_NS_\d+([A-Z]\w*?)ELb1",
    "float32": r"ffNS_\d+([A-Z]\w*?)ELb1",
}
# The group names the functor of csrc/math/noise.h.
NOISE = {
    functor: rf"NS_8BFloat16ENS_5noise\d+({functor})ELb1"
    for functor in ("Gaussian", "ConcreteForward", "ConcreteBackward", "Standout")
}
ROWS = {"bfloat16": r"NS_8BFloat16ES\d_S\d_Lb1ELb1ELi1", "float32": "fffLb1ELb1ELi1"}
GATED = {
    **dict.fromkeys(LIGHT, 30),
    **dict.fromkeys(("Silu", "Sigmoid", "QuickGelu"), 30),
    **dict.fromkeys(("Gelu", "GeluTanh", "Tanh"), 36),
}
LOOPS = [
    Loop(
        "pointwise", "forward", TWO_TYPES["bfloat16"], unroll=2, loads=2, stores=2, vectors=1,
        instructions={"Identity": 18, "Relu": 19, **dict.fromkeys(HEAVY, 30)}, alu=13, special=2,
    ),
    Loop(
        "pointwise", "backward", TWO_TYPES["bfloat16"], unroll=2, loads=2, stores=2, vectors=1,
        instructions=dict.fromkeys((*LIGHT, *HEAVY), 40), alu=19, special=3,
    ),
    Loop(
        "gated", "forward", ONE_TYPE["bfloat16"], unroll=2, loads=4, stores=2, vectors=2,
        instructions=GATED, alu=15, special=3,
    ),
    Loop(
        "gated", "backward", ONE_TYPE["bfloat16"], unroll=1, loads=3, stores=2, vectors=2,
        instructions=dict.fromkeys((*LIGHT, *HEAVY), 54), alu=22, special=3,
    ),
    # 2.4 instructions correct the rounding of the mean. sm_100 needs 63, sm_90 59, sm_80 55 in all
    # (nvcc 13.0).
    Loop(
        "norm", "forward", ROWS["bfloat16"], unroll=1, loads=2, stores=2, vectors=2,
        spread=FORWARD_ELEMENTS, instructions={"Identity": 66}, alu=24, special=2,
    ),
    Loop(
        "norm", "backward", ROWS["bfloat16"], unroll=1, loads=3, stores=2, vectors=3,
        spread=BACKWARD_ELEMENTS, instructions={"Identity": 68}, alu=26, special=2,
    ),
    # Each element draws a 32-bit word, so that a group needs two counters.
    Loop(
        "noise", "", NOISE["Gaussian"], unroll=1, loads=1, stores=1,
        instructions={"Gaussian": 34}, alu=16, special=3, counters=2,
    ),
    Loop(
        "noise", "", NOISE["ConcreteForward"], unroll=1, loads=1, stores=1,
        instructions={"ConcreteForward": 42}, alu=17, special=5, counters=2,
    ),
    Loop(
        "noise", "", NOISE["ConcreteBackward"], unroll=1, loads=2, stores=1,
        instructions={"ConcreteBackward": 50}, alu=20, special=5, counters=2,
    ),
    Loop(
        "noise", "", NOISE["Standout"], unroll=2, loads=4, stores=2,
        instructions={"Standout": 62}, alu=20, special=3,
    ),
    # fp32 has twice the bytes per element, and so twice the budget.
    Loop(
        "pointwise", "forward", TWO_TYPES["float32"], unroll=2, loads=4, stores=4, vectors=1,
        instructions=dict.fromkeys((*LIGHT, *HEAVY), 60), alu=26, special=4, dtype="float32",
    ),
    Loop(
        "pointwise", "backward", TWO_TYPES["float32"], unroll=2, loads=4, stores=4, vectors=1,
        instructions=dict.fromkeys((*LIGHT, *HEAVY), 80), alu=38, special=6, dtype="float32",
    ),
]  # fmt: skip


@dataclass
class RowLoop:
    """The loop over rows of a norm kernel: how it hides the latency of its loads."""

    direction: str
    dtype: str
    groups: int  # of a row, per thread
    tensors: int  # that a call reads, at most

    # Each tensor has at least two loads in flight: words of one row, or one word of two rows.
    @property
    def loads(self):
        return 2 * self.tensors

    def matches(self, kernel):
        types = ROWS[self.dtype].replace("Li1", f"Li{self.groups}")
        return re.search(rf"\dnorm_{self.direction}_kernelI{types}EE", kernel) is not None

    @property
    def label(self):
        return f"norm {self.direction} {self.dtype} {self.groups} groups"


# Forward reads x and residual. Backward reads dy, dh, x, and h or the residual.
ROW_LOOPS = [
    RowLoop(direction, dtype, groups, tensors)
    for direction, tensors in (("forward", 2), ("backward", 4))
    for dtype in ROWS
    for groups in (1, 4)
]
# At width 1,024 with many rows, backward has thread blocks of 512 threads (kMaxRowGroup in
# row_group.cuh), and more of them than fit on the multiprocessors. Each thread prefetches dy, dh
# and h of two rows, and sums the gradients of weight and norm bias.
ROW_THREADS = 512
ROW_SHARED = ROW_THREADS * (2 * 3 * 16 + 2 * 8 * 4)
MIN_WARPS = 32  # that have to be resident on a multiprocessor
SHARED = {80: 164, 90: 228, 100: 228}  # KiB of a multiprocessor; each thread block takes one more


def find(tool):
    folders = [os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    folders += os.environ["PATH"].split(os.pathsep)
    folders += [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu*/bin")]
    return shutil.which(tool, path=os.pathsep.join(folders))


@dataclass
class Tools:
    nvcc: str
    cuobjdump: str

    @classmethod
    def found(cls):
        paths = {tool: find(tool) for tool in ("nvcc", "cuobjdump", "nvdisasm")}
        missing = [tool for tool, path in paths.items() if path is None]
        if missing:
            sys.exit(
                f"NOT CHECKED: {', '.join(missing)} not found.\n"
                "Set CUDA_HOME, or pip install -r requirements-cuda.txt."
            )
        os.environ["PATH"] += os.pathsep + os.path.dirname(paths["nvdisasm"])
        return cls(paths["nvcc"], paths["cuobjdump"])

    def known(self):
        text = subprocess.run([self.nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout
        return {int(number) for number in re.findall(r"sm_(\d+)\b", text)}

    def architectures(self):
        known = self.known()
        return [number for number in ARCHITECTURES if number in known]


@dataclass
class Resources:
    kernel: str
    architecture: int
    registers: int
    local: int  # bytes of local memory, including spilled registers


def compile_one(tools, source, architectures, target=None):
    """Returns the object file. It has PTX too, unless there is a single architecture."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    newest = architectures[-1]
    if len(architectures) > 1:
        codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    file = BUILD / (target or f"{source.stem}.o")
    command = [tools.nvcc, *FLAGS, *codes, "-c", source]
    done = subprocess.run([*command, "-o", file], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
    return file


def object_in(folder, stem):
    """The object file of a source file, anywhere below the folder of a build."""
    return next(folder.rglob(f"{stem}.o"))


def compile_all(tools, sources, architectures, jobs):
    print(f"{tools.nvcc}: sm_{', sm_'.join(map(str, architectures))} and PTX")
    BUILD.mkdir(parents=True, exist_ok=True)
    if OLDEST in tools.known():
        source = CUDA / "instantiations" / "pointwise_bfloat16.cu"
        compile_one(tools, source, [OLDEST], "oldest.o")
    with ThreadPoolExecutor(jobs) as pool:
        return list(
            pool.map(
                lambda source: compile_one(tools, source, architectures_of(source, architectures)),
                sources,
            )
        )


def architectures_of(source, architectures):
    """One architecture for fp16: it differs from bf16 in the conversions only."""
    return architectures[-1:] if "_float16" in source.stem else architectures


def resources(tools, file):
    """Resources of every kernel in an object file."""
    command = [tools.cuobjdump, "--dump-resource-usage", file]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = []
    for part in text.split("Fatbin elf code:")[1:]:
        architecture = int(re.search(r"arch = sm_(\d+)", part)[1])
        pattern = r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
        found += [
            Resources(name, architecture, int(registers), int(stack) + int(local))
            for name, registers, stack, local in re.findall(pattern, part)
        ]
    return found


def resident_warps(registers, threads=THREADS):
    """Warps that are resident on a multiprocessor together, 64 at most."""
    per_block = -(-registers // 8) * 8 * threads
    return min(64, 65536 // per_block * threads // 32)


@functools.cache
def disassembled(cuobjdump, file, architecture):
    return sass.disassemble(cuobjdump, str(file), f"sm_{architecture}")


def counts_of(tools, file, loop, architecture):
    """{activation: (counts, instructions per element before the loop)}"""
    found = {}
    for name, code in disassembled(tools.cuobjdump, file, architecture).items():
        activation = loop.activation_of(name)
        if activation is None:
            continue
        try:
            loads = loop.loads_of(activation)
            count = sass.main_loop(code, loop.unroll, loads, loop.stores, loop.counters)
            before = sass.prologue(code, count.first, loop.vectors_of(activation))
        except ValueError as error:
            sys.exit(f"sm_{architecture} {name}: {error}")
        found[activation] = count, len(before) / loop.spread
    return dict(sorted(found.items()))


def check_loop(loop, architecture, counts, registers):
    """Prints the counts. Returns a message for each one that is over its budget."""
    wrong = []
    where = f"{loop.family:10}{loop.direction:9}{loop.dtype:9}"
    for activation, (count, before) in counts.items():
        limit = loop.instructions.get(activation)
        total = count.instructions + before
        print(
            f"{where}{activation:17}{count.instructions:7.2f}{before:8.2f}{total:7.2f}"
            f"{limit or '-':>4}"
            f"{count.alu:7.2f}{loop.alu:4}{count.special:9.2f}{loop.special:3}"
            f"{registers[activation]:11}{resident_warps(registers[activation]):7}"
        )
        what = f"sm_{architecture} {where} {activation}"
        if limit and total > limit:
            wrong.append(f"{what}: {total:.2f} instructions, budget {limit}")
        if limit and count.alu > loop.alu:
            wrong.append(f"{what}: {count.alu:.2f} ALU instructions")
        if limit and count.special > loop.special:
            wrong.append(f"{what}: {count.special:.2f} special functions")
    missing = [
        f"sm_{architecture} {where}: no kernel of {activation} was found"
        for activation in loop.instructions
        if activation not in counts
    ]
    return wrong + missing


def check_rows(tools, loop, file, architecture, used):
    """Prints loads in flight, sums and warps. Returns a message for each failure."""
    kernels = disassembled(tools.cuobjdump, file, architecture)
    name = next((name for name in kernels if loop.matches(name)), None)
    what = f"sm_{architecture} {loop.label}"
    if name is None:
        return [f"{what}: no kernel was found"]
    code = kernels[name]
    first, last = max(sass.loops(code), key=lambda ends: ends[1] - ends[0])
    loads = sass.loads_in_flight(code, first)
    chain = sass.has_chain_of_shared_loads(code, first, last)
    registers = next(
        one.registers for one in used if (one.kernel, one.architecture) == (name, architecture)
    )
    threads = ROW_THREADS if loop.direction == "backward" else THREADS
    warps = resident_warps(registers, threads)
    is_narrow = loop.direction == "backward" and loop.groups == 1 and loop.dtype == "bfloat16"
    if is_narrow:
        blocks = SHARED[architecture] * 1024 // (ROW_SHARED + 1024 + 1280)
        warps = min(warps, blocks * ROW_THREADS // 32)
    print(
        f"{loop.label:34}{loads:6} of{loop.loads:3}{'chain' if chain else 'shuffles':>10}"
        f"{registers:11}{warps:7}"
    )
    wrong = []
    if loads < loop.loads:
        wrong.append(f"{what}: {loads} loads before the first use, expected {loop.loads}")
    if chain:
        wrong.append(f"{what}: the sums over a row are a chain of loads from shared memory")
    if is_narrow and architecture >= 90 and warps < MIN_WARPS:
        wrong.append(f"{what}: {warps} warps on a multiprocessor, expected {MIN_WARPS}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "--objects",
        type=Path,
        metavar="FOLDER",
        help="folder with the object files of a build, for some of the architectures",
    )
    options = parser.parse_args()
    tools = Tools.found()
    architectures = tools.architectures()
    sources = sorted(CUDA.rglob("*.cu"))
    used, folders = [], {}  # by architecture
    if options.objects:
        for source in sources:
            used += resources(tools, object_in(options.objects, source.stem))
        folders = dict.fromkeys((entry.architecture for entry in used), options.objects)
    if missing := [number for number in architectures if number not in folders]:
        for file in compile_all(tools, sources, missing, options.jobs):
            used += resources(tools, file)
        folders |= dict.fromkeys(missing, BUILD)
    print(f"{len(sources)} files, {len(used)} kernels")

    wrong = [
        f"sm_{entry.architecture} {entry.kernel}: {entry.local} bytes of local memory"
        for entry in used
        if entry.local > (MAX_LOCAL if LONG_ROWS.search(entry.kernel) else 0)
    ]
    for architecture in architectures:
        print(f"\nsm_{architecture}, instructions per element")
        print(f"{'':28}{'activation':17}{'loop':>7}{'before':>8}{'sum':>7}{'of':>4}", end="")
        print(f"{'ALU':>7}{'of':>4}{'special':>9}{'of':>3}{'registers':>11}{'warps':>7}")
        for loop in LOOPS:
            registers = {
                loop.activation_of(entry.kernel): entry.registers
                for entry in used
                if entry.architecture == architecture
            }
            file = object_in(folders[architecture], loop.object)
            counts = counts_of(tools, file, loop, architecture)
            wrong += check_loop(loop, architecture, counts, registers)
        print(
            f"\n{'loads of a thread before one is used':46}{'sums':>9}{'registers':>11}{'warps':>7}"
        )
        for loop in ROW_LOOPS:
            file = object_in(folders[architecture], f"norm_{loop.dtype}")
            wrong += check_rows(tools, loop, file, architecture, used)
    print()
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
