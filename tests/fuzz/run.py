"""Runs the fuzz tests of this folder for some minutes, on each instruction set in turn.

The package is the one in `--package`; `--sanitizers` says which it was built with.
Rounds grow. Their seeds are 0, 1, 2 and so on, or random ones. The first round that fails ends it:
what pytest and the sanitizers say, and the call that did it, are saved in build/fuzz.

`--replay FILE` runs one saved call.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "tests" / "fuzz"
OUT = ROOT / "build" / "fuzz"

# What has to be loaded before anything else, and the options.
LIBRARY = {"memory": "libasan.so", "threads": "libtsan.so"}
OPTIONS = {
    # Python frees little at its end. An impossible size is an error of the allocation, as ever.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66",
}


def environment(sanitizers):
    variables = {**os.environ, "OMP_NUM_THREADS": "2"}
    if sanitizers:
        # libstdc++ too, as its exceptions are intercepted.
        names = (LIBRARY[sanitizers], "libstdc++.so.6")
        found = [
            subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
            for name in names
        ]
        variables |= {"LD_PRELOAD": " ".join(found), **OPTIONS}
    return variables


def capabilities(package, variables):
    program = "import fused_dropout as fd; print(*fd.build_info()['cpu_capabilities'])"
    command = [sys.executable, "-c", program]
    return subprocess.check_output(command, cwd=package, env=variables, text=True).split()


def run_round(package, variables, capability, seed, examples, call):
    """Returns pytest's exit status and its output."""
    # Sanitizers write to the process's own stderr just before they end it.
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    how = ("-x", "--tb=short", "--capture=sys", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-c", program, *how, f"--hypothesis-seed={seed}", str(FOLDER)],
        cwd=package,
        env={
            **variables,
            "FUSED_DROPOUT_CPU_CAPABILITY": capability,
            "FUSED_DROPOUT_FUZZ_EXAMPLES": str(examples),
            "FUSED_DROPOUT_FUZZ_CALL": str(call),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=ROOT)
    parser.add_argument("--sanitizers", choices=LIBRARY)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--random", action="store_true", help="other seeds every time")
    parser.add_argument("--replay", type=Path)
    options = parser.parse_args()
    package, variables = options.package.resolve(), environment(options.sanitizers)
    if options.replay:
        replay = [sys.executable, "-m", "tests.fuzz.replay", options.replay.resolve()]
        # Run from there, so that the package of that folder is found first.
        search = os.pathsep.join([str(ROOT), variables.get("PYTHONPATH", "")])
        environ = {**variables, "PYTHONPATH": search}
        sys.exit(subprocess.run(replay, cwd=package, env=environ).returncode)

    OUT.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    names = capabilities(package, variables)
    turn, first = 0, random.randrange(2**32) if options.random else 0
    while turn < len(names) or time.monotonic() < end:
        capability, seed = names[turn % len(names)], first + turn // len(names)
        examples = 10 * 2 ** min(turn // len(names), 4)
        call = OUT / f"{capability}-{seed}.txt"
        status, output = run_round(package, variables, capability, seed, examples, call)
        if status:
            log = call.with_suffix(".log")
            log.write_text(output)
            print(output[-20000:])
            print(f"{capability}, seed {seed}: {log} says what is wrong, {call} is the call:")
            print(call.read_text() if call.exists() else "none was made")
            sys.exit(1)
        call.unlink(missing_ok=True)
        print(f"{capability}, seed {seed}: {examples} examples of each test passed", flush=True)
        turn += 1


if __name__ == "__main__":
    main()
