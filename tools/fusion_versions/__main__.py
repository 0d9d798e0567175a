"""Which modules `fuse` finds in each version of a library; `make fusion-versions` calls it.

Without arguments it measures all versions of the committed table. A new version is compared with
the newest one of the table. The exit status is 1 if a model computes something else, or if less of
it is fused than the table says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tools.environment import ROOT, python_with
from tools.fusion_versions import table
from tools.fusion_versions.compare import differences, is_worse
from tools.pages import replaced

PAGE = ROOT / "docs" / "fused-versions.md"
RESULTS = Path(__file__).with_name("results.json")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.fusion_versions", description=__doc__)
    parser.add_argument("versions", nargs="*", help='such as "timm==1.0.31"')
    parser.add_argument(
        "--write", action="store_true", help="write results.json and docs/fused-versions.md"
    )
    options = parser.parse_args(arguments)
    stored = json.loads(RESULTS.read_text())
    status = 0
    for requirement in options.versions or list(stored):
        results = measured(requirement)
        base = baseline(requirement, stored)
        before = stored.get(base, {})
        print(f"{requirement}, compared with {base} of the table:")
        for line in list(differences(before, results)) or ["no difference"]:
            print(f"  {line}")
        status = status or int(is_worse(before, results))
        if options.write:
            write(stored | {requirement: results})
            stored[requirement] = results
    return status


def measured(requirement):
    """The results of a version, from a process in an environment of its own."""
    folder = ROOT / "build" / "versions" / requirement.replace("==", "-")
    python = python_with(folder, [requirement])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        library = requirement.partition("==")[0]
        command = [python, "-m", "tools.fusion_versions.probe", library, file]
        subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
        return json.loads(file.read_text())


def baseline(requirement, stored):
    """The version of the table to compare with: the same one, else the newest of the library."""
    if requirement in stored:
        return requirement
    library = requirement.partition("==")[0]
    same = [one for one in stored if one.partition("==")[0] == library]
    return max(same, key=table.numbers, default=None)


def write(results):
    order = sorted(results, key=lambda one: (one.partition("==")[0], table.numbers(one)))
    results = {requirement: results[requirement] for requirement in order}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = table.markdown(results, version("torch").partition("+")[0])
    PAGE.write_text(replaced(PAGE.read_text(), "versions", text))


if __name__ == "__main__":
    sys.exit(main())
