"""The results as Markdown, written between markers of docs/coverage.md."""

import re

_ONE_CALL = "torch computes all layers and the dropout between them in one call"
# {function of torch: why its dropout is not redirected}
_LEFT = {
    **dict.fromkeys(("torch.lstm", "torch.gru", "torch.rnn_tanh", "torch.rnn_relu"), _ONE_CALL),
    "F.multi_head_attention_forward": "called in a way that `fuse` does not follow",
}
_NO_REASON = "reached in a way that `fuse` does not follow"

PART = "a part of other families: no model has this configuration alone"
# Errors of families that were not run, and what they mean. The first that is found decides.
_PLAIN = (
    (r"requires the (\w+) library", r"needs the library \1, which is not installed"),
    (r"No module named '([^'.]+)'", r"needs the library \1, which is not installed"),
    (r"not ready after (\d+)(?:\.0)? s", r"takes more than \1 seconds"),
    (r"^\w+: (\d+) million parameters", r"is not made small by the rules: \1 million parameters"),
    (r"^no inputs are known", "needs inputs of a kind that is not known to the tool"),
    (r"^the unfused model cannot be trained: (.*)", r"cannot be trained without `fuse` either: \1"),
    (r"^\w+: inputs ([\w+-]+): (.*)", r"no inputs were found with which it runs: \2"),
    (r"^\w+: no output has a gradient", "no output has a gradient"),
    (r"^(\w+: )?(\w+(Error|Exception): .*)", r"no small configuration was found: \2"),
)


def markdown(results, versions):
    """The text between the markers.

    Args:
        results: {name of a family: its result}, see ``results.json``.
        versions: {name of a library: its version}.
    """
    parts = [", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    for title, chosen in (
        ("transformers", {n: r for n, r in results.items() if not n.startswith("timm/")}),
        ("timm", {n: r for n, r in results.items() if n.startswith("timm/")}),
    ):
        if chosen:
            parts += [f"## {title}", *_library(chosen)]
    return "\n\n".join(parts)


def _library(results):
    ran = {name: one for name, one in results.items() if "sites" in one}
    with_sites = {n: one for n, one in ran.items() if _calls(one)}
    yield _summary(results, ran, with_sites)
    yield _table(with_sites)
    without = sorted(ran.keys() - with_sites.keys())
    if without:
        yield "Without a dropout site: " + ", ".join(map(_short, without)) + "."
    left = _left(ran)
    if left:
        yield "### Left with torch\n\n" + left
    parts = sorted(name for name, one in results.items() if one.get("error") == PART)
    if parts:
        yield "Parts of other families, without a model of their own: " + ", ".join(parts) + "."
    not_run = _failures(results)
    if not_run:
        yield "### Not run\n\n" + "\n".join(_not_run(not_run))


def _calls(one):
    return one["sites"] or one["neighbours"] or one["alone"] or one["left"]


def _short(name):
    return name.removeprefix("timm/")


def _failures(results):
    return {n: one for n, one in results.items() if "sites" not in one and one["error"] != PART}


def _summary(results, ran, with_sites):
    def total(key):
        return f"{sum(one[key] for one in ran.values()):,}"

    failures = len(_failures(results))
    parts = len(results) - len(ran) - failures
    beside = f"; {parts} more are only parts of others" if parts else ""
    return (
        f"{len(ran)} of {len(results) - parts} families ran, {len(ran) - len(with_sites)} of them "
        f"without a dropout site; {failures} could not be run{beside}. "
        f"Of {total('sites')} sites, after `fuse` {total('neighbours')} calls run in a kernel "
        f"with neighbours, {total('alone')} alone without a mask, and {total('left')} are left "
        "with torch."
    )


def _table(results):
    lines = [
        "| family | model | sites | with neighbours | alone | left | parity | evaluation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(results.items()):
        numbers = (one[key] for key in ("sites", "neighbours", "alone", "left"))
        cells = (_short(name), one["model"], *numbers, parity(one), evaluation(one))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def parity(one):
    return "random" if one["parity"] is None else f"{one['parity']:.0e}"


def evaluation(one):
    return {True: "equal", False: "**differs**", None: "random"}[one["evaluation"]]


def _left(results):
    """The lines of code that are left, with their families."""
    places = {}
    for name, one in results.items():
        for place, count in one["places"].items():
            places.setdefault(place, {})[_short(name)] = count
    lines = []
    for place, families in sorted(places.items()):
        names = ", ".join(f"{name} ({count})" for name, count in sorted(families.items()))
        reason = _LEFT.get(place.rpartition(" ")[2], _NO_REASON)
        lines.append(f"- `{place}`: {names}: {reason}")
    return "\n".join(lines)


def _not_run(results):
    """The reasons, those that several families share on one line."""
    reasons = {}
    for name, one in sorted(results.items()):
        reasons.setdefault(_plain(one["error"]), []).append(_short(name))
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[1])):
        text = reason.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
        yield f"- {', '.join(names)}: {text}"


def _plain(error):
    """Why a family was not run, for readers who do not know its code."""
    error = re.sub(r" \([^()]*\.py:\d+\)$", "", error)
    for pattern, text in _PLAIN:
        found = re.search(pattern, error)
        if found:
            return found.expand(text)
    return error
