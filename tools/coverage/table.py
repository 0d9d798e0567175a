"""The results as Markdown, written between markers of docs/coverage.md."""


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
    yield _summary(ran, with_sites)
    yield _table(with_sites)
    without = sorted(ran.keys() - with_sites.keys())
    if without:
        yield "Without a dropout site: " + ", ".join(map(_short, without)) + "."
    left = _left(ran)
    if left:
        yield "### Left with torch\n\n" + left
    not_run = {name: one for name, one in results.items() if "sites" not in one}
    if not_run:
        yield "### Not run\n\n" + "\n".join(_not_run(not_run))


def _calls(one):
    return one["sites"] or one["neighbours"] or one["alone"] or one["left"]


def _short(name):
    return name.removeprefix("timm/")


def _summary(ran, with_sites):
    def total(key):
        return f"{sum(one[key] for one in ran.values()):,}"

    return (
        f"{len(ran)} families ran, {len(ran) - len(with_sites)} of them without a dropout site. "
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
        lines.append(f"- `{place}`: {names}")
    return "\n".join(lines)


def _not_run(results):
    """The reasons, those that several families share on one line."""
    reasons = {}
    for name, one in sorted(results.items()):
        reasons.setdefault(one["error"], []).append(_short(name))
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[1])):
        text = reason.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
        yield f"- {', '.join(names)}: {text}"
