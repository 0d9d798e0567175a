"""The versions as Markdown tables, written between the markers of docs/fused-versions.md."""

import re

from tools.fusion_versions.compare import wrong

COUNTS = ("neighbours", "alone", "left")


def markdown(results, torch):
    """The text between the markers.

    Args:
        results: {requirement, such as "timm==1.0.31": {family: its result}}.
        torch: the version of torch.
    """
    libraries = {}
    for requirement, families in results.items():
        library, _, version = requirement.partition("==")
        libraries.setdefault(library, {})[version] = families
    parts = [f"Measured with torch {torch}."]
    for library, versions in libraries.items():
        parts += [f"## {library}", _table(versions), *_lost(versions)]
    return "\n\n".join(parts)


def numbers(requirement):
    """The version as a list of numbers, to sort by."""
    return [int(part) for part in re.findall(r"\d+", requirement.partition("==")[2])]


def _table(versions):
    families = dict.fromkeys(family for results in versions.values() for family in results)
    lines = ["| | " + " | ".join(versions) + " |", "|---" * (len(versions) + 1) + "|"]
    for family in families:
        cells = [_cell(results.get(family)) for results in versions.values()]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result):
    if result is None:
        return ""
    if "error" in result:
        return "not run"
    text = " + ".join(str(result[key]) for key in COUNTS)
    return f"**wrong** {text}" if wrong(result) else text


def _lost(versions):
    """What the newest version fuses and an older one does not, or skips for a reason of its own."""
    *older, newest = versions
    lines = []
    for version in reversed(older):
        found = {}  # {what is said of modules: {class: None}}
        for family, result in versions[version].items():
            best = versions[newest].get(family, {})
            if "error" in result:
                found.setdefault(result["error"], {})[family] = None
            elif "fused" in best:
                for text, key in (("not fused", "fused"), ("skipped", "skipped")):
                    one, other = (result, best) if key == "skipped" else (best, result)
                    for site in one[key].keys() - other[key].keys():
                        cls, _, what = site.partition(": ")
                        found.setdefault(f"{text}: {what.replace(cls, 'the class')}", {})[cls] = (
                            None
                        )
        for text, classes in sorted(found.items()):
            lines.append(f"- {version}, {text} ({', '.join(sorted(classes))})")
    if lines:
        yield f"Differences from {newest}:\n\n" + "\n".join(lines)
