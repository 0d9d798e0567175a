"""Plots the result: time as a multiple of the time of a copy, for each case and provider."""

from __future__ import annotations

from .report import elements_of

_PROVIDERS = ("fused", "eager", "compile")
_DIRECTIONS = ("fwd", "fwd+bwd")


def save(rows: list[dict], path: str) -> None:
    """Plots the largest shape, with a panel for each memory mode, direction and dtype."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [r for r in rows if r.get("vs_copy") and r["provider"] in _PROVIDERS]
    if not rows:
        raise ValueError("nothing to plot: the copy provider and one other must have run")
    largest = max((r["shape"] for r in rows), key=elements_of)
    rows = [r for r in rows if r["shape"] == largest]
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    lines = [(m, d) for m in dict.fromkeys(r["memory"] for r in rows) for d in _DIRECTIONS]

    cases = list(dict.fromkeys(r["case"] for r in rows))
    size = (7 * len(dtypes), (1 + 0.42 * len(cases)) * len(lines))
    figure, axes = plt.subplots(len(lines), len(dtypes), figsize=size, squeeze=False)
    for (memory, direction), line in zip(lines, axes, strict=True):
        for dtype, axis in zip(dtypes, line, strict=True):
            panel = [
                r
                for r in rows
                if (r["memory"], r["direction"], r["dtype"]) == (memory, direction, dtype)
            ]
            _draw(axis, panel)
            axis.set_title(f"{direction}, {dtype}, {memory} memory", fontsize=10)
    figure.suptitle(f"{largest}: time as a multiple of a copy", x=0.02, ha="left")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", ncols=4)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw(axis, panel: list[dict]) -> None:
    cases = list(dict.fromkeys(r["case"] for r in panel))
    height = 0.8 / len(_PROVIDERS)
    for i, provider in enumerate(_PROVIDERS):
        lengths = {r["case"]: r["vs_copy"] for r in panel if r["provider"] == provider}
        positions = [cases.index(c) + (i - 1) * height for c in lengths]
        bars = axis.barh(positions, lengths.values(), height, label=provider)
        axis.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axis.axvline(1, color="black", linewidth=0.8, linestyle="--", label="copy")
    axis.set_yticks(range(len(cases)), cases, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
