"""What `fuse` does with the installed version of a library.

`python -m tools.fusion_versions.probe` runs in an environment of `tools.environment`
and writes a JSON file.
"""

import argparse
import copy
import json
import warnings
from collections import Counter
from pathlib import Path

import torch

import fused_dropout as fd
from tools.coverage.measure import measure
from tools.fusion_versions.models import BUILDERS


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=BUILDERS)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    families, build = BUILDERS[options.library]
    results = {family: _probe(build, family) for family in families}
    options.file.write_text(json.dumps(results))


def _probe(build, family):
    """{"fused": {class of modules: number}, "skipped": {class and reason: number}, ...}.

    The other keys are those of :func:`.measure.measure`; "error" stands alone.
    """
    try:
        model, inputs = build(family)
        report = fd.fuse(copy.deepcopy(model))
        fused = Counter(f"{site.module}: {site.text}" for site in report.fused)
        skipped = Counter(f"{site.module}: {site.text}" for site in report.skipped)
        return {
            "fused": dict(sorted(fused.items())),
            "skipped": dict(sorted(skipped.items())),
            **measure(model, inputs),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


if __name__ == "__main__":
    main()
