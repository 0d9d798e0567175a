"""Progress bars and tables of text."""

import shutil
import sys

from tqdm import tqdm


def progress(total, title):
    """Returns a progress bar on stderr. If stderr is not a terminal, it prints lines instead."""
    options = {"total": total, "desc": title, "file": sys.stderr}
    if sys.stderr.isatty():
        columns, lines = shutil.get_terminal_size()  # not 0 x 0, as some terminals report
        return tqdm(**options, ncols=min(100, columns), nrows=lines)
    line = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}]\n"
    return tqdm(**options, mininterval=10, maxinterval=10, bar_format=line)


def spread(values, digits=1):
    """Formats mean and standard deviation over the seeds."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def draw_table(header, rows, left):
    """Formats a table. The first `left` columns are left-aligned, a row None is a line."""
    widths = [max(map(len, column)) for column in zip(header, *filter(None, rows), strict=True)]
    rule = "  ".join("-" * width for width in widths)

    def line(cells):
        padded = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), rule, *(line(row) if row else rule for row in rows)])
