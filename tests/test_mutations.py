"""The tests notice mistakes: each deliberate one of csrc/mutation.h makes some of them fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "mutants"
TESTS = ROOT / "tests"

# What notices which mistake. The selections are small, and pass without the mistake.
NOTICED_BY = {
    "unmasked_bias_gradient": ("test_bias_gradient.py", "rows/test_rows_sums.py"),
    "periodic_mask": ("test_mask.py", "rows/test_rows_masks.py"),
    "repeated_state": ("test_statistics.py", "rows/test_rows_masks.py"),
    "nominal_scale": ("test_statistics.py", "rows/test_rows_modules.py"),
    "inclusive_threshold": ("test_mask.py", "rows/test_rows_masks.py"),
    "other_backward_mask": ("test_mask.py", "rows/test_rows_masks.py"),
    "leaking_zero": ("test_nonfinite.py", "rows/test_rows_statistics.py"),
}


@pytest.fixture(scope="module")
def mutants():
    """The folder of the build with mutations."""
    if not list(BUILD.glob("fused_dropout/_C*.so")):
        pytest.fail("there is no build with mutations: run `make archive`")
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
    source = (ROOT / "csrc" / "mutation.h").read_text()
    names = re.findall(r'"(\w+)"', source[source.index("kMutationNames") :])
    assert set(names) - {"FUSED_DROPOUT_MUTATION"} == set(NOTICED_BY)


def test_no_mutation_passes(mutants):
    files = sorted({file for files in NOTICED_BY.values() for file in files})
    status, output = run_tests(mutants, files, "none")
    assert status == pytest.ExitCode.OK, output


@pytest.mark.parametrize("kind", [0, 1], ids=["pointwise", "rows"])
@pytest.mark.parametrize("mutation", NOTICED_BY)
def test_mutation_fails(mutants, mutation, kind):
    """Those of the elementwise operators notice it, and those of the row operators."""
    status, output = run_tests(mutants, [NOTICED_BY[mutation][kind]], mutation)
    assert status == pytest.ExitCode.TESTS_FAILED, output
