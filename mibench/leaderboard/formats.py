"""A table as Markdown, CSV, LaTeX or an HTML fragment."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence

from mibench.errors import RequestError
from mibench.leaderboard.board import Column, Table, Value
from mibench.registry import closest

_ABSENT = "—"
_HUGE = 1e5  # numbers from here on are shown as powers of ten
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "\n": " "}
_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "ε": r"$\varepsilon$",
    "δ": r"$\delta$",
    "β": r"$\beta$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "\n": " ",
}


def heading(column: Column) -> str:
    """What stands above a column: its title, with the unit where numbers are shown in per cent."""
    return f"{column.title} %" if column.kind == "percent" else column.title


def shown(column: Column, value: Value | None, digits: int = 1) -> str:
    """A value as readers see it: ``63.1 ± 1.2``, ``+21.8 [18.3, 25.5]``, or its text.

    Args:
        column: its column; fractions are shown in per cent.
        value: None for a row that has nothing there.
        digits: decimals, :func:`decimals` of the column.
    """
    if value is None or (value.number is None and not value.text):
        return _ABSENT
    if value.number is None:
        return value.text
    text = _number(column, value.number, digits)
    if value.interval is not None:
        low, high = (_number(column, bound, digits) for bound in value.interval)
        return f"{'' if text.startswith('-') else '+'}{text} [{low}, {high}]"
    return text if value.spread is None else f"{text} ± {_number(column, value.spread, digits)}"


def decimals(table: Table, column: Column) -> int:
    """Decimals of a column, the same in all its rows: about three significant digits."""
    if column.kind == "percent":
        return 1
    if column.kind == "count":
        return 0
    numbers = (row[column.key].number for row in table.rows if column.key in row)
    sizes = [abs(number) for number in numbers if number is not None]
    largest = max((size for size in sizes if size < _HUGE), default=0.0)
    return next((d for d, bound in enumerate((1000, 100, 1, 0.1)) if largest >= bound), 4)


def _number(column: Column, number: float, digits: int) -> str:
    if column.kind == "number" and abs(number) >= _HUGE:
        return f"{number:.2e}"
    return f"{100 * number if column.kind == 'percent' else number:.{digits}f}"


def _texts(table: Table) -> list[list[str]]:
    """All cells as readers see them, row by row."""
    places = [(column, decimals(table, column)) for column in table.columns]
    return [
        [shown(column, row.get(column.key), digits) for column, digits in places]
        for row in table.rows
    ]


def _numeric(column: Column) -> bool:
    return column.kind != "text"


def markdown(table: Table) -> str:
    """A GitHub table with the notes below it."""
    lines = [
        "| " + " | ".join(_pipe(heading(column)) for column in table.columns) + " |",
        "|" + "|".join("---:" if _numeric(column) else "---" for column in table.columns) + "|",
    ]
    lines += ["| " + " | ".join(map(_pipe, row)) + " |" for row in _texts(table)]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _pipe(text: str) -> str:
    for character, safe in _MARKDOWN.items():
        text = text.replace(character, safe)
    return text


def csv_text(table: Table) -> str:
    """Raw numbers, accuracies as fractions; spreads and intervals in columns of their own.

    Numbers have 12 significant digits: what lies behind depends on a machine's rounding, and the
    file must not. A value without a number gives its text, an absent one nothing.
    """
    rows = [[row.get(column.key) for row in table.rows] for column in table.columns]
    columns: list[tuple[str, list[str]]] = []
    for column, values in zip(table.columns, rows, strict=True):
        columns.append((column.key, [_raw(value) for value in values]))
        if any(value and value.spread is not None for value in values):
            spreads = [value.spread if value else None for value in values]
            columns.append((f"{column.key}_std", [_digits(each) for each in spreads]))
        if any(value and value.interval for value in values):
            for index, name in enumerate(("low", "high")):
                bounds = [v.interval[index] if v and v.interval else None for v in values]
                columns.append((f"{column.key}_{name}", [_digits(each) for each in bounds]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([name for name, _ in columns])
    writer.writerows(zip(*(values for _, values in columns), strict=True))
    return buffer.getvalue()


def _raw(value: Value | None) -> str:
    if value is None:
        return ""
    return (
        ""
        if value.number is None and value.text == _ABSENT
        else (value.text if value.number is None else _digits(value.number))
    )


def _digits(number: float | None) -> str:
    return "" if number is None else f"{number:.12g}"


def latex(table: Table) -> str:
    r"""A booktabs ``tabular``, ready to ``\input``; notes are comments above it."""
    notes = [f"% {line}" for note in table.notes for line in note.splitlines()]
    align = "".join("r" if _numeric(column) else "l" for column in table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        *notes,
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(latex_text(heading(column)) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in _texts(table):
        cells = " & ".join(map(latex_text, row))
        # After the \\ of the row above, a bracket would be its argument.
        lines.append(("{}" if cells.startswith("[") else "") + cells + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """Text with everything escaped that means something to LaTeX; unknown symbols stay."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _NEGATIVE.sub("$-$", escaped)


def html_fragment(table: Table) -> str:
    """A ``<table>`` with its notes, to be put into a page."""
    lines = [f'<table id="{html.escape(table.key)}">']
    lines.append(f"<caption>{html.escape(table.title)}</caption>")
    lines.append("<thead><tr>")
    for column in table.columns:
        title = f' title="{html.escape(column.help)}"' if column.help else ""
        lines.append(f'<th scope="col"{title}>{html.escape(heading(column))}</th>')
    lines.append("</tr></thead>")
    lines.append("<tbody>")
    for row in _texts(table):
        cells = (
            f'<td style="text-align: right">{html.escape(text)}</td>'
            if _numeric(column)
            else f"<td>{html.escape(text)}</td>"
            for column, text in zip(table.columns, row, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>")
    lines.append("</table>")
    lines += [f"<p>{html.escape(note)}</p>" for note in table.notes]
    return "\n".join(lines) + "\n"


def columns_of(table: Table, keys: Sequence[str]) -> Table:
    """A table with the chosen columns, in the order given.

    Raises:
        RequestError: there is no such column; close names are offered.
    """
    known = {column.key: column for column in table.columns}
    for key in keys:
        if key not in known:
            hint = closest(key, known) or f"columns: {', '.join(known)}"
            raise RequestError(f"the table {table.key} has no column {key!r}; {hint}")
    return dataclasses.replace(table, columns=tuple(known[key] for key in keys))


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "csv": csv_text,
    "latex": latex,
    "html": html_fragment,
}
