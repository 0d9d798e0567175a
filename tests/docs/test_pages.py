"""The documents: their code runs, their commands parse, their links and file names are right."""

import pkgutil
import re
from pathlib import Path

import pytest
import torch

import fused_dropout as fd
from examples.sweep.__main__ import parse_arguments
from fused_dropout import functional, reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for path in (ROOT / "benchmarks/README.md", ROOT / "csrc/README.md") if path.exists()),
]
CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CONSTANTS = {
    *("fused_dropout.functional.ACTIVATIONS", "fused_dropout.functional.MODES"),
    *("fused_dropout.reference.ACTIVATIONS", "fused_dropout.reference.MODES"),
    "fused_dropout.reference.ALPHA_PRIME",
}
NEW_FILES = {  # that a recipe tells to write
    "csrc/ops/uniform_noise.h",
    "csrc/ops/uniform_noise.cpp",
    "csrc/ops/uniform_noise_autograd.cpp",
}
FOLDERS = "benchmarks|csrc|docs|examples|fused_dropout|tests|tools"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(page, language):
    """(first line number, text) of each fenced block."""
    text = text_of(page)
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start(1)), match[1]


PROGRAMS = [page for page in PAGES if any(blocks(page, "python"))]


def test_there_are_pages():
    names = set(map(name_of, PAGES))
    assert {"README.md", "CONTRIBUTING.md", "docs/quickstart.md", "docs/api/fuse.md"} <= names
    assert {"README.md", "docs/quickstart.md"} <= set(map(name_of, PROGRAMS))


@pytest.mark.parametrize("page", PROGRAMS, ids=name_of)
def test_code(page):
    """The blocks of a page are one program. Line numbers of errors are those of the page."""
    namespace = {}
    with torch.random.fork_rng(devices=()):
        for line, code in blocks(page, "python"):
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


@every_page
def test_commands(page):
    for _, text in blocks(page, "sh"):
        for command in re.findall(r"^python -m examples\.sweep(.*)$", text, re.MULTILINE):
            parse_arguments(command.split())


@every_page
def test_make_targets(page):
    """Every `make target` that a page names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    in_blocks = "\n".join(CODE.findall(text_of(page)))
    for target in (
        *re.findall(r"`make ([a-z-]+)[^`]*`", text_of(page)),
        *re.findall(r"^make ([a-z-]+)", in_blocks, re.MULTILINE),
    ):
        assert target in targets, target


def anchors(page):
    """As GitHub makes them. Those of mkdocs are the same unless there is more than a space."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links(page):
    for target in re.findall(r"\]\(([^)]+)\)", CODE.sub("", text_of(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of
)
def test_files_exist(page):
    """Every path in backticks that begins with a folder of the project leads somewhere."""
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text_of(page)):
        assert path in NEW_FILES or (ROOT / path).exists(), path


def test_every_public_name_is_on_an_api_page():
    pages = "\n".join(text_of(page) for page in (ROOT / "docs/api").glob("*.md"))
    entries = []
    for module, name in re.findall(r"^::: (\S+)\.(\w+)$", pages, re.MULTILINE):
        entries.append(pkgutil.resolve_name(f"{module}:{name}"))
        # mkdocs reads the files without importing them: it must find the name where it is defined.
        assert getattr(entries[-1], "__module__", module) == module, name
    missing = {
        f"{package.__name__}.{name}"
        for package in (fd, functional, reference)
        for name in package.__all__
        if not any(getattr(package, name) is entry for entry in entries)
    }
    assert missing == {"fused_dropout.functional", *CONSTANTS}
