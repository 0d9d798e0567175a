"""Command line: `python -m tools.coverage --help`; `make coverage` calls it."""

import argparse
import importlib.metadata
import json
import os
import sys
import warnings
from pathlib import Path

import torch

import fused_dropout as fd
from tools.coverage import table
from tools.coverage.measure import TOLERANCE, NotRun
from tools.coverage.workers import run_each
from tools.pages import replaced
from tools.torchvision_beside_cpu import import_torchvision

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coverage.md"
RESULTS = Path(__file__).with_name("results.json")
LIBRARIES = ("torch", "transformers", "timm")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.coverage", description=__doc__)
    parser.add_argument(
        "families", nargs="*", help='such as "bert", "timm/resnet18", "timm"; default: all'
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a family")
    parser.add_argument(
        "--write", action="store_true", help="write results.json and the page docs/coverage.md"
    )
    options = parser.parse_args(arguments)
    names, measure = _prepare(options.families)
    stored = json.loads(RESULTS.read_text())["families"] if RESULTS.exists() else {}
    results, failures = {}, []
    for name, seconds, result in run_each(measure, names, options.jobs, options.timeout):
        results[name] = _without_paths(result)
        failure = failed(results[name], stored.get(name))
        failures += [name] if failure else []
        mark = f"FAILED, {failure}: " if failure else ""
        print(f"{len(results)}/{len(names)} {name} {seconds:.0f} s: {mark}{line(results[name])}")
        sys.stdout.flush()
        if options.write:  # so that an interrupted run keeps what it measured
            write(stored | results)
    if options.write and not options.families:
        write(results)  # without families that are gone
    print(f"{len(results)} families, {len(failures)} failed: {' '.join(failures)}")
    return 1 if failures else 0


def _prepare(chosen):
    """The chosen names, and the function that measures one. Imports what the processes need."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_torchvision()
    import transformers

    from tools.coverage import families, timm_models
    from tools.coverage.family import measure_family, model_and_inputs

    transformers.logging.set_verbosity_error()
    # Imports the patterns and fills caches of functions that all models call.
    fd.fuse(model_and_inputs("bert")[0])
    known = {"transformers": families.all_families(), "timm": timm_models.all_models()}
    everything = [name for names in known.values() for name in names]
    names = []
    for name in chosen or known:
        if name not in known and name not in everything:
            raise SystemExit(f"coverage: no family is named {name!r}")
        names += known.get(name, [name])

    def measure(name):
        try:
            if name.startswith("timm/"):
                return timm_models.measure_timm_model(name)
            return measure_family(name)
        except NotRun as error:
            return {"error": str(error), "not_run": True}

    return list(dict.fromkeys(names)), measure


def _without_paths(result):
    """A result in which files are named from their package on."""
    folders = sorted({f"{path}/" for path in sys.path if path} | {f"{ROOT}/"}, key=len)[::-1]

    def short(text):
        for folder in folders:
            text = text.replace(folder, "")
        return text

    result = dict(result)
    if "places" in result:
        result["places"] = {short(place): count for place, count in result["places"].items()}
    if "error" in result:
        result["error"] = short(result["error"])
    if result.get("parity") is not None:
        result["parity"] = float(f"{result['parity']:.0e}")
    return result


def failed(result, stored=None):
    """What is wrong with the result of a family; None if nothing is.

    Args:
        stored: the result in the committed table; None if it has none.
    """
    if "not_run" in result:
        return "no longer runs" if stored is not None and "sites" in stored else None
    if "error" in result:
        return "crash"
    if result["parity"] is not None and not result["parity"] <= TOLERANCE:
        return "parity"
    if result["evaluation"] is False:
        return "evaluation"
    more = stored is not None and "left" in stored and result["left"] > stored["left"]
    return "more calls left with torch" if more else None


def line(result):
    if "error" in result:
        return result["error"]
    counts = ", ".join(f"{result[key]} {key}" for key in ("sites", "neighbours", "alone", "left"))
    return f"{counts}, parity {table.parity(result)}, evaluation {table.evaluation(result)}"


def write(results):
    """Writes the results and the page."""
    results = dict(sorted(results.items()))
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    document = {"versions": versions, "families": results}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    PAGE.write_text(replaced(PAGE.read_text(), "coverage", table.markdown(results, versions)))


if __name__ == "__main__":
    sys.exit(main())
