"""Text in columns."""

from __future__ import annotations


def align(lines, words: int) -> str:
    """Columns of equal width; the first `words` are flush left, the numbers flush right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
