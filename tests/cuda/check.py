"""What can be said about the CUDA kernels without a GPU: `python tests/cuda/check.py`.

Every .cu file is compiled by nvcc, without torch, for each architecture below that the toolkit
knows and for PTX; the compiler's report and the machine code are held to budgets, and a table of
the counts is printed. nvcc, cuobjdump and nvdisasm are looked for in CUDA_HOME, on the PATH, and
among the packages of requirements-cuda.txt. The exit status is 0 only if everything was checked.
"""

import argparse
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
BUILD = ROOT / "build" / "cuda_check"
ARCHITECTURES = (80, 90, 100)
OLDEST = 75  # has no instruction for some of what the others do: one file shows that it compiles
THREADS = 128  # of a block
UNROLL = 2  # groups in one turn of the vector loops of csrc/cuda/kernels.cuh

# Issue slots per element of the bf16 vector loop, of them integer and comparison instructions (half
# rate) and special functions (an eighth). An H200 that copies at its full bandwidth has 31, 15 and
# 3.9 for the 4 bytes of a forward element, and half as many again for the 6 of a backward one.
LIGHT = ("Identity", "Relu")
HEAVY = ("Gelu", "GeluTanh", "QuickGelu", "Silu", "Sigmoid", "Tanh")
FORWARD = {**dict.fromkeys(LIGHT, 20), **dict.fromkeys(HEAVY, 28)}
BACKWARD = dict.fromkeys((*LIGHT, *HEAVY), 36)
ALU = {"forward": 13, "backward": 19}
SPECIAL = {"forward": 2, "backward": 3}


def find(tool):
    places = [os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    places += os.environ["PATH"].split(os.pathsep)
    places += [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu*/bin")]
    return shutil.which(tool, path=os.pathsep.join(places))


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
    stack: int
    spills: int


def compile_one(tools, source, architectures, target=None):
    """The compiler's report on one file, without PTX for a single architecture."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    newest = architectures[-1]
    if len(architectures) > 1:
        codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    command = [
        *(tools.nvcc, "-std=c++17", "-O3", "-Xptxas=-v", "-Werror=all-warnings", *codes),
        *("-c", str(source), "-o", str(BUILD / (target or f"{source.stem}.o"))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def resources(report):
    pattern = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?(\d+) bytes stack frame, "
        r"(\d+) bytes spill stores.*?Used (\d+) registers"
    )
    return [
        Resources(name, int(architecture), int(registers), int(stack), int(spills))
        for name, architecture, stack, spills, registers in re.findall(pattern, report, re.S)
    ]


def vector_kernel(name, direction):
    """The activation of a bf16 kernel with 16-byte accesses, None for any other kernel."""
    found = re.search(rf"{direction}_kernelINS_8BFloat16ES\d_NS_\d+([A-Z]\w*?)ELb1EEE", name)
    return found and found[1]


def resident_warps(registers):
    """Warps that run on a processor together, of the 64 that it has room for."""
    per_block = -(-registers // 8) * 8 * THREADS
    return min(64, 65536 // per_block * THREADS // 32)


def loop_counts(tools, architecture):
    """{(direction, activation): counts} of the bf16 vector kernels."""
    counts = {}
    kernels = sass.disassemble(
        tools.cuobjdump, str(BUILD / "pointwise_bfloat16.o"), f"sm_{architecture}"
    )
    for name, code in kernels.items():
        for direction in ("forward", "backward"):
            if activation := vector_kernel(name, direction):
                counts[direction, activation] = sass.main_loop(code, UNROLL)
    return counts


def check_counts(architecture, counts, registers):
    """Prints the table; returns what is over its budget."""
    wrong = []
    print(f"\nsm_{architecture}, bf16, per element of the vector loop")
    print(f"{'':10}{'activation':14}{'instructions':>14}{'of':>5}{'ALU':>7}{'of':>4}", end="")
    print(f"{'special':>9}{'of':>3}{'registers':>11}{'warps':>7}")
    for direction, budgets in (("forward", FORWARD), ("backward", BACKWARD)):
        for (side, activation), count in sorted(counts.items()):
            if side != direction:
                continue
            limit = budgets.get(activation)
            print(
                f"{direction:10}{activation:14}{count.instructions:14.2f}{limit or '-':>5}"
                f"{count.alu:7.2f}{ALU[direction]:4}{count.special:9.2f}{SPECIAL[direction]:3}"
                f"{registers[direction, activation]:11}"
                f"{resident_warps(registers[direction, activation]):7}"
            )
            where = f"sm_{architecture} {direction} {activation}"
            if limit and count.instructions > limit:
                wrong.append(f"{where}: {count.instructions:.2f} instructions, budget {limit}")
            if limit and count.alu > ALU[direction]:
                wrong.append(f"{where}: {count.alu:.2f} ALU instructions")
            if limit and count.special > SPECIAL[direction]:
                wrong.append(f"{where}: {count.special:.2f} special functions")
            tensors = 2 if direction == "backward" and activation != "Identity" else 1
            if count.wide_loads < tensors * UNROLL:
                wrong.append(f"{where}: loads of less than 16 bytes in the vector loop")
    missing = [
        f"sm_{architecture}: no {direction} kernel of {activation} was found"
        for direction, budgets in (("forward", FORWARD), ("backward", BACKWARD))
        for activation in budgets
        if (direction, activation) not in counts
    ]
    return wrong + missing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    tools = Tools.found()
    architectures = tools.architectures()
    print(f"{tools.nvcc}: sm_{', sm_'.join(map(str, architectures))} and PTX")
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = pool.map(lambda source: compile_one(tools, source, architectures), sources)
        used = [entry for report in reports for entry in resources(report)]
    if OLDEST in tools.known():
        compile_one(tools, sources[0].with_name("pointwise_bfloat16.cu"), [OLDEST], "oldest.o")
    print(f"{len(sources)} files, {len(used)} kernels compiled")

    wrong = [
        f"sm_{entry.architecture} {entry.kernel}: {entry.stack} bytes of local memory, "
        f"{entry.spills} bytes spilled"
        for entry in used
        if entry.stack or entry.spills
    ]
    for architecture in architectures:
        registers = {
            (direction, activation): entry.registers
            for entry in used
            for direction in ("forward", "backward")
            if entry.architecture == architecture
            and (activation := vector_kernel(entry.kernel, direction))
        }
        wrong += check_counts(architecture, loop_counts(tools, architecture), registers)
    print()
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
