"""Hooks of mkdocs: documents and files outside of docs/ are a part of the site, without a copy.

Links in the documents are relative paths of the repository. The site has another layout, so every
link is rewritten. A file that is no page, such as a source file, is published under `files/`.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "csrc/README.md": "csrc.md",
}
SOURCES = {page: source for source, page in PAGES.items()}

# A fenced block, which stays as it is, or the target of a link.
LINK = re.compile(r"^```.*?^```$|(?<=\]\()(?![a-z]+://|[#/])[^)]+", re.MULTILINE | re.DOTALL)


def source_of(page):
    """The path in the repository of a page of the site."""
    return SOURCES.get(page, f"docs/{page}")


def site_path(source):
    """The path in the site of a file of the repository."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return PAGES.get(source, f"files/{source}")


def linked_source(page, target):
    """The path in the repository that a link on a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source_of(page)), target))


def on_files(files, config):
    def add(source):
        # mkdocs names the pages that link to a missing file.
        if (ROOT / source).is_file() and files.get_file_from_path(site_path(source)) is None:
            files.append(File.generated(config, site_path(source), abs_src_path=str(ROOT / source)))

    for source in PAGES:
        add(source)
    for page in [file for file in files if file.is_documentation_page()]:
        for match in LINK.finditer(page.content_string):
            if match[0].startswith("```"):
                continue
            add(linked_source(page.src_uri, match[0].partition("#")[0]))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri

    def rewritten(match):
        if match[0].startswith("```"):
            return match[0]
        target, hash_sign, anchor = match[0].partition("#")
        path = site_path(linked_source(here, target))
        return posixpath.relpath(path, posixpath.dirname(here) or ".") + hash_sign + anchor

    return LINK.sub(rewritten, markdown)
