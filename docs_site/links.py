"""The links between the project's documents and to its files, and where the site has what is outside docs/."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/RESULTS.md": "results.md",
}
"""Documents outside docs/ that are pages of the site, with their places there."""
MADE_OF = {"vlrl/config.py": "settings.md"}
"""Files of the repository that the site shows as a page made of them."""
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def target_of(link: str, name: str) -> str:
    """The file or folder of the repository to which a document's relative link leads.

    >>> target_of("../configs/cpu.yaml", "docs/data.md")
    'configs/cpu.yaml'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def targets(name: str, text: str) -> Iterator[str]:
    """The files and folders that a document links to, from the repository's root. Raises ValueError if one is missing."""
    for link in LINK.findall(text):
        if not (ROOT / (target := target_of(link, name))).exists():
            raise ValueError(f"{name} links to {link}, and there is no {target}; correct the link")
        yield target


def place_of(target: str) -> str:
    """Where the site has a file of the repository."""
    if place := (PAGES | MADE_OF).get(target):
        return place
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"source/{target}" if target.endswith(PICTURES) else f"source/{target}.md"
