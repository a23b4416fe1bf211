"""What `mkdocs build` adds to the pages in docs/: those of the repository beside it, and links between all of them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "apps/gan/README.md": "gan.md",
    "apps/pose_transfer/README.md": "pose_transfer.md",
    "pretrained/README.md": "models.md",
    "benchmarks/RESULTS.md": "measurements.md",
    "benchmarks/scale.png": "scale.png",
}
"""Files of the repository, and what they are called on the site."""
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)#\s:]+)(?P<place>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the files that lie beside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between pages; those to code become its name."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def on_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["target"]))
        there = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
        if there is None:
            return match["text"].strip("![]")
        return f"{match['text']}({posixpath.relpath(there, posixpath.dirname(here) or '.')}{match['place'] or ''})"

    return LINK.sub(on_site, markdown)
