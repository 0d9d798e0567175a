"""A wheel for another Python, torch or architecture is reported before any step runs."""

import runpy
import shutil
import sys
import types
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from benchmarks.gpu_report.fit import misfit, serves
from tests.report.stubs import MACHINE, ROOT

RUNNING = "ImportError: fused_dropout was built against torch 2.13.0+cpu, but torch 2.11.0 is"
SYMBOL = "_C.so: undefined symbol: _ZN3c10"
LOADING = f"""ImportError: fused_dropout: the compiled extension does not load with torch 2.11.0:
{SYMBOL}. It was built against another torch. Rebuild it"""


def changed(**entries):
    return {**MACHINE, **entries}


def built(*architectures, cuda="13.0"):
    return changed(build_info={"cuda": cuda, "cuda_architectures": list(architectures)})


def test_one_that_fits():
    assert misfit(MACHINE) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (changed(package=None, modules=[]), "no fused_dropout is installed for Python 3.12.3"),
        (changed(modules=[]), "no compiled extension"),
        (changed(modules=["_C.cpython-311-x86_64-linux-gnu.so"]), "for another Python: it has _C."),
        (changed(modules=["_C.cpython-312-aarch64-linux-gnu.so"]), "for another Python"),
        (changed(import_error=RUNNING), "another torch: it was built against torch 2.13.0+cpu"),
        (changed(import_error=LOADING), f"another torch than 2.11.0+cu130: {SYMBOL}"),
        (changed(import_error="ValueError: odd"), "does not import: ValueError: odd"),
        (built(cuda=None), "for the CPU only"),
        (built("8.0", "10.0+PTX"), "architecture: it has 8.0, 10.0+PTX, and NVIDIA H100 has comp"),
    ],
)
def test_what_does_not_fit(found, said):
    problem = misfit(found)
    assert said in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        (None, "the wheel is for another torch than 2.11.0+cu130: cannot import name '_C'"),
        ("2.13.0+cpu", "the wheel is for another torch: it was built against torch 2.13.0+cpu"),
    ],
)
def test_what_the_package_itself_says_is_understood(tmp_path, monkeypatch, extension, said):
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    source = shutil.copy(ROOT / "fused_dropout" / "_extension.py", tmp_path)
    package = types.ModuleType("fused_dropout")
    if extension:
        package._C = types.SimpleNamespace(TORCH_VERSION=extension)
    monkeypatch.setitem(sys.modules, "fused_dropout", package)
    monkeypatch.delitem(sys.modules, "fused_dropout._C", raising=False)
    torch = types.SimpleNamespace(__version__=MACHINE["torch"])
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(ImportError) as error:
        runpy.run_path(source)
    assert misfit(changed(import_error=f"ImportError: {error.value}")).startswith(said)


def test_other_modules_beside_the_one_that_loads_do_no_harm():
    modules = ["_C.cpython-311-x86_64-linux-gnu.so", *MACHINE["modules"]]
    assert misfit(changed(modules=modules)) is None


def test_a_rehearsal_needs_no_architecture():
    assert misfit(built(cuda=None), needs_gpu=False) is None


@pytest.mark.parametrize(
    ("architecture", "capability", "expected"),
    [
        ("9.0", (9, 0), True),
        ("8.0", (8, 6), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("8.0+PTX", (7, 5), False),
        ("12.0", (12, 1), True),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("10.0f+PTX", (12, 0), False),
        ("native", (9, 0), False),
    ],
)
def test_architectures(architecture, capability, expected):
    assert serves(architecture, capability) is expected
