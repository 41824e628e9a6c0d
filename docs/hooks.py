"""What the site needs beyond Markdown: the examples as they are in the checkout, and docstring examples as code.

mkdocs calls `on_page_markdown`; mkdocstrings loads `PublicApi`.
"""

import ast
import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page; the page of examples gains each file of examples/, its first sentence above its code."""
    if page.file.src_path != "examples.md":
        return markdown
    return "\n\n".join([markdown, *map(_example, sorted((ROOT / "examples").glob("*.py")))])


def _example(path: Path) -> str:
    code = path.read_text()
    sentence = (ast.get_docstring(ast.parse(code)) or "").partition("\n\n")[0].replace("\n", " ")
    return f'## {path.stem}\n\n{sentence}\n\n```python title="examples/{path.name}"\n{code.rstrip()}\n```'


def fence(docstring: str) -> str:
    """Return the docstring with a code fence around each block of lines that starts with `>>>`.

    Markdown would show such lines as quotations.
    """
    blocks = re.split(r"\n{2,}", docstring)
    return "\n\n".join(f"```pycon\n{block}\n```" if block.startswith(">>>") else block for block in blocks)


class PublicApi(griffe.Extension):
    """Fence the examples of every docstring, and hide what a package does not export."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Prepare the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = fence(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Mark as private each member of a file that its package exports in part, and does not export itself."""
        for package in pkg.modules.values():
            exported = set(package.exports or ())
            for file in package.modules.values():
                members = {name for name, member in file.members.items() if not member.is_alias}
                if file.name not in exported - members and exported & members:
                    for name in members - exported:
                        file.members[name].public = False
