"""Put the tables of the results files into README.md, between their markers."""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: medians, and in brackets the least and the most of the seconds.

    Rows of other columns make a table of their own.
    """
    tables: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows.items():
        columns = tuple(key for key in row if not key.endswith("runs"))
        lines = tables.setdefault(
            columns, [_line(["", *map(_title, columns)]), _line(["---"] * (len(columns) + 1))]
        )
        lines.append(_line([name, *(_cell(row, key) for key in columns)]))
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _title(key: str) -> str:
    return key.replace("_", " ").replace("bytes", "GB").replace("mpx per second", "Mpx/s")


def _cell(row: dict[str, Any], key: str) -> str:
    each = [run[key] for run in row.get("runs", []) if key in run]
    least, most = (_number(key, value) for value in (min(each, default=0), max(each, default=0)))
    spread = f" ({least}–{most})" if key == "seconds" and least != most else ""
    return _number(key, row[key]) + spread


def _number(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if "bytes" in key:
        return f"{value / 1e9:.2f}"
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def main() -> None:
    """Refresh README.md."""
    readme = HERE / "README.md"
    text = readme.read_text()
    for path in sorted(HERE.glob("*.json")):
        marker = f"<!-- {path.stem} -->"
        made = table(json.loads(path.read_text())["rows"])
        text = re.sub(
            f"{marker}.*?{marker}", lambda _, m=marker, t=made: f"{m}\n{t}\n{m}", text, flags=re.S
        )
    readme.write_text(text)


if __name__ == "__main__":
    main()
