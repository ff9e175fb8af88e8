"""A hook of mkdocs: the pages of the site whose text is not in docs/, and links that leave docs/.

On the forge a link such as ../configs/cpu.yaml shows the file. The site has no address of the repository, so it carries a page
for each such file, which the search leaves out.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site.links import LINK, MADE_OF, PAGES, PICTURES, ROOT, place_of, target_of, targets
from docs_site.settings_page import page as settings_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose text is not in docs/, and what any page links to outside of it."""
    files.append(File.generated(config, "settings.md", content=settings_page()))
    texts = {
        f"docs/{file.src_uri}": Path(file.abs_src_path).read_text() for file in files.documentation_pages() if file.abs_src_path
    }
    texts |= {name: (ROOT / name).read_text() for name in PAGES}
    for name, place in PAGES.items():
        files.append(File.generated(config, place, content=texts[name]))
    try:
        linked = {target for name, text in texts.items() for target in targets(name, text)}
    except ValueError as error:
        raise PluginError(str(error)) from None
    for target in sorted(linked):
        if not target.startswith("docs/") and target not in PAGES | MADE_OF:
            files.append(_carried(config, target))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links that leave docs/, or come from a document outside of it, to their places on the site."""
    place = page.file.src_uri
    name = next((name for name, at in PAGES.items() if at == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(place_of(target_of(link[1], name)), posixpath.dirname(place))

    return markdown if place.startswith("source/") else LINK.sub(moved, markdown)


def _carried(config: MkDocsConfig, target: str) -> File:
    """A file of the repository as a part of the site: a picture as it is, and a text as a page that shows it."""
    path, place = ROOT / target, place_of(target)
    if target.endswith(PICTURES):
        return File.generated(config, place, content=path.read_bytes())
    listed = "\n".join(sorted(each.name for each in path.iterdir())) if path.is_dir() else path.read_text()
    kind = {".py": "python", ".yaml": "yaml", ".sh": "sh"}.get(path.suffix, "text")
    text = f"---\nsearch:\n  exclude: true\n---\n# {target}\n\n``````{kind}\n{listed.rstrip()}\n``````\n"
    return File.generated(config, place, content=text)
