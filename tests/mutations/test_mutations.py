"""Each deliberate mistake of csrc/math/mutations.h makes some tests fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
TESTS = ROOT / "tests"

# The files that notice a mistake, in each family of operators that makes it. They pass without the
# mistake.
NOTICED_BY = {
    "unmasked_bias_gradient": ("pointwise/test_bias_gradient.py", "norm/test_sums.py"),
    "periodic_mask": ("pointwise/test_masks.py", "norm/test_masks.py"),
    "repeated_state": ("pointwise/test_statistics.py", "norm/test_masks.py"),
    "nominal_scale": ("pointwise/test_statistics.py", "modules/test_gated_and_norm_modules.py"),
    "inclusive_threshold": (
        "pointwise/test_masks.py",
        "norm/test_masks.py",
        "gated/test_masks.py",
        "drop_block/test_masks.py",
    ),
    "other_backward_mask": (
        "pointwise/test_masks.py",
        "norm/test_masks.py",
        "gated/test_masks.py",
        "noise/test_masks.py",
    ),
    "leaking_zero": (
        "pointwise/test_nonfinite.py",
        "norm/test_statistics.py",
        "gated/test_nonfinite.py",
    ),
}


@pytest.fixture(scope="module")
def mutants():
    """The folder of the build with mutations."""
    if not list(BUILD.glob("fused_dropout/_C*.so")):
        pytest.fail("there is no build with mutations: run `make mutants`")
    return BUILD


def run_tests(folder, files, mutation):
    """Runs test files with the package in `folder`; returns pytest's exit status and output."""
    # Run from there, so that the package of that folder is found first.
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = [str(TESTS / name) for name in files]
    done = subprocess.run(
        [sys.executable, "-c", program, "-x", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "FUSED_DROPOUT_MUTATION": mutation},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_mutation_is_tried():
    source = (ROOT / "csrc" / "math" / "mutations.h").read_text()
    names = re.findall(r'"(\w+)"', source[source.index("kMutationNames") :])
    assert set(names) - {"FUSED_DROPOUT_MUTATION"} == set(NOTICED_BY)


def test_no_mutation_passes(mutants):
    files = sorted({file for files in NOTICED_BY.values() for file in files})
    status, output = run_tests(mutants, files, "none")
    assert status == pytest.ExitCode.OK, output


@pytest.mark.parametrize(
    "mutation, file", [(name, file) for name, files in NOTICED_BY.items() for file in files]
)
def test_mutation_fails(mutants, mutation, file):
    status, output = run_tests(mutants, [file], mutation)
    assert status == pytest.ExitCode.TESTS_FAILED, output
