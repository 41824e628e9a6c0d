"""Rows of measurements in a file of JSON, and tables of them in the pages of the documentation."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from guided_jax.storage.files import replacing

Rows = list[dict[str, Any]]


def row_lines(rows: Rows) -> str:
    """A list of JSON, a row a line, numbers of four digits."""
    return "[\n" + ",\n".join(json.dumps({k: short(v) for k, v in row.items()}) for row in rows) + "\n]"


def known_rows(path: Path) -> Rows:
    """The rows of a file of `row_lines`; none where it is not there."""
    return json.loads(path.read_text()) if path.exists() else []


def keep_rows(path: Path, rows: Rows, place: Callable[[dict[str, Any]], Any], ordered: bool = False) -> None:
    """Write the rows into a file of `row_lines`, instead of those that have the same place; ordered: by it."""
    places = [place(row) for row in rows]
    found = [row for row in known_rows(path) if place(row) not in places] + rows
    with replacing(path) as file:
        file.write(f"{row_lines(sorted(found, key=place) if ordered else found)}\n".encode())


def short(value: Any) -> Any:
    """Four digits of a number, or of each."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [short(each) for each in value] if isinstance(value, list) else value


def where(rows: Rows, **wanted: Any) -> Rows:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def names(rows: Rows, column: str) -> list[Any]:
    """What stands in a column, each once, in order."""
    return list(dict.fromkeys(row[column] for row in rows if column in row))


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    head = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)).replace(
        "| --- ", "|---"
    )


def fill(page: str, tables: dict[str, str]) -> str:
    """The page with each table in the place that is marked for it. Raises ValueError for a table without a place."""
    for name, text in tables.items():
        mark = re.escape(f"<!-- measured: {name} -->")
        if not re.search(f"{mark}\n.*?<!-- end -->", page, flags=re.DOTALL):
            raise ValueError(
                f"the page has no mark <!-- measured: {name} --> with <!-- end --> after it; add both where the table goes"
            )
        page = re.sub(f"({mark}\n).*?(<!-- end -->)", lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}",
                      page, flags=re.DOTALL)  # fmt: skip
    return page


def fill_page(path: Path, tables: dict[str, str]) -> None:
    """Put each table into the page, as `fill` does."""
    with replacing(path) as file:
        file.write(fill(path.read_text(), tables).encode())
