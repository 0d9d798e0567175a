"""The steps of a report, the most valuable first, because time may run out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .workspace import ROOT

# Cases of the benchmarks: those that take most of a model's time, and the others.
CORE = (
    *("dropout", "bias_relu_dropout", "bias_gelu_dropout", "bias_dropout_add"),
    *("dropout_add_layer_norm", "dropout_add_layer_norm_prenorm", "dropout_add_rms_norm_prenorm"),
    *("bias_swiglu_dropout", "bias_geglu_dropout"),
)
KINDS = (
    *("dropout2d", "alpha_dropout", "locked_dropout", "drop_path", "token_dropout"),
    *("embedding_dropout", "weight_dropout", "drop_block", "gaussian_dropout"),
    *("concrete_dropout", "standout", "mc_dropout", "dropout_composition"),
    *("bias_gelu_dropout_gradient", "bias_gelu_dropout_jvp", "bias_gelu_dropout_vmap"),
    "bias_gelu_dropout_vmap_grad",
)
COMPILED = (
    *("dropout", "bias_gelu_dropout", "dropout_add_layer_norm_prenorm", "bias_swiglu_dropout"),
)
LARGE = (32768, 4096)
NORM_SHAPES = ((32768, 1024), (8192, 8192))
TINY = (64, 256)
# Skipped for cases that have no Triton kernel.
TRITON = ("triton", "triton4")

# Tests that take long, and tests that need a library that not every machine has.
LONG_TESTS = ("graphs", "fusion", "large")
LAST_TESTS = ("curand",)

_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")

PLAIN_EFFORT = {"budget_s": 0.4, "min_samples": 7, "max_samples": 31, "sample_ms": 2.0}
QUICK_EFFORT = {"budget_s": 0.05, "min_samples": 3, "max_samples": 7, "sample_ms": 0.5}


@dataclass(frozen=True)
class Settings:
    """Settings of all steps.

    folder: absolute path of the folder of the report.
    device: "cuda", or "cpu" for a rehearsal.
    installed: whether an installed package is used.
    program: path of the program of `make gpu-sanitize-program`.
    architecture: that of the GPU, such as "9.0".
    cores: number of CPU cores.
    """

    folder: Path
    device: str
    installed: bool
    program: Path
    architecture: str
    cores: int

    @property
    def rows(self) -> str:
        return str(self.folder / "results.jsonl")


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other, with one time limit."""

    name: str
    limit_s: float
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    needed: bool = False  # if it fails, the report ends


NAMES = (
    *("build", "facts", "tests", "benchmarks", "ncu", "long_tests", "compile", "sanitizers"),
    *("training", "rest"),
)


def steps(settings: Settings) -> list[Step]:
    """Returns all steps. The first one builds the package, unless it is installed or rehearsed."""
    rehearsal = settings.device == "cpu"
    found = [
        _facts(settings),
        _tests(settings),
        _benchmarks(settings),
        _ncu(settings),
        _long_tests(settings),
        _compile(settings),
        _sanitizers(settings),
        _training(settings),
        _rest(settings),
    ]
    if not (rehearsal or settings.installed):
        found.insert(0, _build(settings))
    return found


def _own(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.gpu_report.{name}", *arguments]


def _build(settings: Settings) -> Step:
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return Step("build", 600, [build], {"FORCE_CUDA": "1"}, needed=True)


def _facts(settings: Settings) -> Step:
    command = _own("facts", "--device", settings.device, "--rows", settings.rows)
    return Step("facts", 30, [command], needed=True)


def _gpu_tests() -> dict[str, str]:
    """Returns {name: path} of the test files, where test_<name>.py is the file."""
    files = sorted((ROOT / "tests" / "gpu").glob("test_*.py"))
    return {file.stem.removeprefix("test_"): f"tests/gpu/{file.name}" for file in files}


def _pool(settings: Settings, names: list[str], *options: str) -> list[str]:
    files = [file for name, file in _gpu_tests().items() if name in names]
    processes = 2 if settings.device == "cpu" else min(6, max(2, settings.cores // 2))
    rows = ("--rows", settings.rows, "--processes", str(processes))
    return _own("pool", *files, *rows, "--", *options)


def _test_step(settings: Settings, name: str, limit_s: float, *commands: list[str]) -> Step:
    return Step(name, limit_s, list(commands), {"FUSED_DROPOUT_TEST_DEVICE": settings.device})


def _few(settings: Settings, every: int) -> tuple[str, ...]:
    """Returns options for pytest that select every Nth test in a rehearsal."""
    if settings.device != "cpu":
        return ()
    return ("-p", "benchmarks.gpu_report.every", "--every", str(every))


def _tests(settings: Settings) -> Step:
    names = [name for name in _gpu_tests() if name not in (*LONG_TESTS, *LAST_TESTS)]
    options = ("-k", "not inductor", *_few(settings, 100))
    if settings.device != "cpu":
        return _test_step(settings, "tests", 75, _pool(settings, names, *options))
    # A process needs most of its time to start, so one process runs all files but the first.
    others = [_gpu_tests()[name] for name in names[1:]]
    commands = [_pool(settings, names[:1], *options), [*_PYTEST, *others, *options]]
    return _test_step(settings, "tests", 75, *commands)


def _long_tests(settings: Settings) -> Step:
    if settings.device != "cpu":
        commands = [
            _pool(settings, list(LONG_TESTS)),
            _pool(settings, ["random"], "-k", "inductor"),
        ]
    else:
        commands = [
            _pool(settings, list(LONG_TESTS), *_few(settings, 40)),
            [*_PYTEST, "--collect-only", _gpu_tests()["random"]],
        ]
    return _test_step(settings, "long_tests", 50, *commands)


def _units(cases, dtypes, shapes) -> list[dict]:
    return [
        {"case": case, "rows": rows, "cols": columns, "dtype": dtype}
        for dtype in dtypes
        for rows, columns in shapes
        for case in cases
    ]


def _measure(settings: Settings, name: str, providers, units: list[dict]) -> list[str]:
    """Writes a plan and returns the command that measures it."""
    plan = {
        "device": settings.device,
        "providers": list(providers),
        "memory": "default",
        "effort": QUICK_EFFORT if settings.device == "cpu" else PLAIN_EFFORT,
        "compile_s": 1e9,
        "units": units,
        "head": {"step": name},
    }
    file = settings.folder / f"{name}_plan.json"
    file.write_text(json.dumps(plan) + "\n")
    return [sys.executable, "-m", "benchmarks.child", str(file), settings.rows]


def _benchmarks(settings: Settings) -> Step:
    if settings.device == "cpu":
        units = _units(("dropout", CORE[-1]), ("bfloat16",), (TINY,))
    else:
        units = []
        norms = [case for case in CORE if "norm" in case]
        for dtype in ("bfloat16", "float32"):
            units += _units(CORE, (dtype,), (LARGE,)) + _units(norms, (dtype,), NORM_SHAPES)
    providers = ("fused", "eager", "copy", *TRITON)
    return Step("benchmarks", 65, [_measure(settings, "benchmarks", providers, units)])


def _compile(settings: Settings) -> Step:
    if settings.device == "cpu":
        units = _units(COMPILED[:1], ("float32",), (TINY,))
    else:
        units = _units(COMPILED, ("bfloat16",), (LARGE,))
    providers = ("fused", "eager", "compile", "copy")
    return Step("compile", 75, [_measure(settings, "compile", providers, units)])


def _ncu(settings: Settings) -> Step:
    if settings.device == "cpu":
        return Step("ncu", 45, [_own("ncu_target", "--device", "cpu")])
    file = str(settings.folder / "ncu.csv")
    return Step("ncu", 45, [_own("ncu", "--csv", file, "--rows", settings.rows)])


def _sanitizers(settings: Settings) -> Step:
    program = ("--program", str(settings.program), "--arch", settings.architecture)
    emulated = ("--emulated",) if settings.device == "cpu" else ()
    command = _own("sanitize", *program, "--rows", settings.rows, *emulated)
    return Step("sanitizers", 65, [command])


def _training(settings: Settings) -> Step:
    command = [sys.executable, "-m", "benchmarks.training_step", "--device", settings.device]
    if settings.device == "cpu":
        command += ["--quick", "--models", "encoder_layer"]
    else:
        command += ["--samples", "11"]
    providers = [f"{kind}, p = {p}" for p in ("0", "0.1") for kind in ("unfused", "fused")]
    command += ["--providers", *providers, "--rows", settings.rows]
    return Step("training", 45, [command])


def _rest(settings: Settings) -> Step:
    python, folder = sys.executable, settings.folder
    picture = ["--load", settings.rows, "--plot", str(folder / "results.png")]
    commands = [[python, "-m", "benchmarks", *picture]]
    cpu_tests = [*_PYTEST, "tests/pointwise/test_masks.py"]
    sanitized = _own("sanitize", "--script", "tests/gpu/sanitized.py")
    if settings.device == "cpu":
        kinds = _units(KINDS[:1], ("float32",), (TINY,))
        commands += [_measure(settings, "kinds", ("fused", "eager", "copy"), kinds)]
        last = [_gpu_tests()[name] for name in LAST_TESTS]
        commands += [[*cpu_tests, *last, "--collect-only"], [*sanitized, "--emulated"]]
    else:
        kinds = _units(KINDS, ("bfloat16", "float32"), (LARGE,))
        commands += [_pool(settings, list(LAST_TESTS))]
        commands += [_measure(settings, "kinds", ("fused", "eager", "copy"), kinds), cpu_tests]
        commands += [sanitized]
    return _test_step(settings, "rest", 30, *commands)
