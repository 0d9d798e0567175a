"""Builds a program for compute-sanitizer from sanitize.cpp and the kernels, without torch."""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check import find

ROOT = Path(__file__).resolve().parent.parent.parent
# Line numbers for the reports. Compressed, because the program is copied to the machine with a GPU.
FLAGS = ("-std=c++17", "-O3", "-lineinfo", "-Xfatbin=-compress-all")


def code_for(architecture):
    """The nvcc option for a compute capability such as "9.0"."""
    number = architecture.replace(".", "")
    return f"-gencode=arch=compute_{number},code=sm_{number}"


def build(nvcc, architecture, output, objects, jobs):
    """Builds the program. Raises CalledProcessError if a file does not compile."""
    kernels = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:

        def compiled(source):
            target = Path(folder, f"{source.name}.o")
            command = [nvcc, *FLAGS, code_for(architecture), f"-I{ROOT / 'csrc'}"]
            subprocess.run([*command, "-c", source, "-o", target], check=True)
            return target

        sources = [ROOT / "tests" / "cuda_emulator" / "sanitize.cpp"]
        files = []
        if objects is not None:
            files = [next(objects.rglob(f"{source.stem}.o")) for source in kernels]
        with ThreadPoolExecutor(jobs) as pool:
            files += pool.map(compiled, sources if objects else [*sources, *kernels])
        subprocess.run([nvcc, code_for(architecture), *files, "-o", output], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="9.0", help="compute capability; default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_sanitize" / "sanitize")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "--objects", type=Path, metavar="FOLDER", help="link the kernels of this build"
    )
    options = parser.parse_args()
    nvcc = find("nvcc")
    if nvcc is None:
        sys.exit("nvcc was not found: set CUDA_HOME, or pip install -r requirements-cuda.txt")
    try:
        build(nvcc, options.arch, options.output, options.objects, options.jobs)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} ended with status {error.returncode}")
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB for sm {options.arch}")


if __name__ == "__main__":
    main()
