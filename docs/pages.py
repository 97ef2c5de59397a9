"""What `make docs` adds to the files of this folder: pages made of notebooks and of files above it.

MkDocs calls the functions `on_...`. Links are written for GitHub, where a notebook is a page as it
is and CHANGELOG.md lies above this folder; they are rewritten here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ABOVE = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook and for each file of ABOVE."""
    root = Path(config.docs_dir).parent
    for name in ABOVE:
        text = (root / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to notebooks and to files of ABOVE lead to their pages; drop other links above."""
    markdown = re.sub(r"(?<=[\w-])\.ipynb(?=[)#])", ".md", markdown)
    for name in ABOVE:
        markdown = re.sub(rf"\]\((?:\.\./)+(?={name})", "](../", markdown)
    above = "../" * (page.file.src_uri.count("/") + 1)  # source and examples are not on the site
    return re.sub(rf"\[([^\]]+)\]\({re.escape(above)}[^)]*\)", r"\1", markdown)


def as_markdown(notebook: File) -> str:
    """Return a notebook as the text of a page: its words, its code and its stored outputs."""
    cells = json.loads(notebook.content_string)["cells"]
    name = notebook.src_uri.rpartition("/")[2]
    first, *rest = (part for cell in cells for part in _parts(cell))
    download = f'<a href="{name}" download>Download this page as a notebook</a>'
    return "\n\n".join([first, download, *rest])


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    streams = [each for each in cell["outputs"] if each["output_type"] == "stream"]
    printed = "".join(line for each in streams for line in each["text"])
    shown = [_shown(each["data"]) for each in cell["outputs"] if each not in streams]
    return [f"```python\n{source}\n```", *([_fenced(printed)] if printed else []), *shown]


def _shown(data: dict[str, Any]) -> str:
    if "image/png" in data:
        return f"![What the code above draws](data:image/png;base64,{data['image/png'].strip()})"
    return _fenced("".join(data["text/plain"]))


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
