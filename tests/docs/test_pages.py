"""The pages under docs/: their code runs, their commands parse, their links exist."""

import re
from pathlib import Path

import pytest
import torch

from fused_dropout.sweep.__main__ import parse_arguments

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, language):
    """(first line number, text) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)), match[1]


def test_there_are_pages():
    assert PAGES


@every_page
def test_code(page):
    """The blocks of a page are one program. Line numbers of errors are those of the page."""
    namespace = {}
    with torch.random.fork_rng(devices=()):
        for line, code in blocks(page, "python"):
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


@every_page
def test_commands(page):
    for _, text in blocks(page, "sh"):
        for command in re.findall(r"^python -m fused_dropout\.sweep(.*)$", text, re.MULTILINE):
            parse_arguments(command.split())


@every_page
def test_links(page):
    text = page.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), target
