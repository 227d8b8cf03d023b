"""A table as Markdown, CSV, LaTeX or an HTML fragment, its texts escaped."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd
from tabulate import tabulate

from mibench.errors import RequestError
from mibench.leaderboard.board import Column, Table, Value
from mibench.registry import closest

_ABSENT = "—"
# Of LaTeX tables: lengths in points, of lines in characters, rows that one page holds.
_TEXTWIDTH, _COLSEP, _PAGE = 345, 2.5, 50
_HEADING, _BREAKS = 9, (20, 14, 10)
_SMALLER = 0.9  # width at \scriptsize, the gaps between columns included
_HUGE = 1e5  # numbers from here on are shown as powers of ten
# What would make a text of a record markup: HTML, entities, code, emphasis, formulas, links and
# images (with their addresses, which GitHub links by itself).
_MARKDOWN = re.compile(
    r"[\\|`*$]|&(?=#?\w+;)|~(?=~)|(?<=~)~|(?<=\])[(\[:]|(?<=http):|(?<=https):|(?<=ftp):"
    r"|(?<=www)\.|@(?=\w)",
    re.IGNORECASE,
)
# A spreadsheet takes a cell for a formula by its first character.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)
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
    if column.kind == "count":
        return f"{number:,.0f}"
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
    written = _tabulated(table, "pipe", markdown_text)
    return "\n\n".join([written, *map(markdown_text, table.notes)]) + "\n"


def _tabulated(table: Table, shape: str, escaped: Callable[[str], str]) -> str:
    return tabulate(
        [list(map(escaped, row)) for row in _texts(table)],
        [escaped(heading(column)) for column in table.columns],
        tablefmt=shape,
        colalign=["right" if _numeric(column) else "left" for column in table.columns],
        disable_numparse=True,
    )


def markdown_text(text: str) -> str:
    """Text within a line of Markdown, of which nothing is taken for markup or for a link."""
    one_line = " ".join(text.splitlines()).replace("\t", " ")
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", one_line).replace("<", "&lt;")


def csv_text(table: Table) -> str:
    """Raw numbers, accuracies as fractions; spreads and intervals in columns of their own.

    Numbers have 12 significant digits: what lies behind depends on a machine's rounding, and the
    file must not. A value without a number gives its text, an absent one nothing. Text that a
    spreadsheet would take for a formula gets an apostrophe before it.
    """
    columns = {}
    for column in table.columns:
        values = [row.get(column.key, Value()) for row in table.rows]
        columns[_no_formula(column.key)] = [_raw(value) for value in values]
        if any(value.spread is not None for value in values):
            columns[f"{column.key}_std"] = [_digits(value.spread) for value in values]
        if any(value.interval for value in values):
            for index, name in enumerate(("low", "high")):
                bounds = [value.interval[index] if value.interval else None for value in values]
                columns[f"{column.key}_{name}"] = list(map(_digits, bounds))
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def _raw(value: Value | None) -> str:
    if value is None or (value.number is None and value.text == _ABSENT):
        return ""
    return _no_formula(value.text) if value.number is None else _digits(value.number)


def _no_formula(text: str) -> str:
    formula = text.startswith(_FORMULA) and not _PLAIN_NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def _digits(number: float | None) -> str:
    return "" if number is None else f"{number:.12g}"


def latex(table: Table) -> str:
    r"""A booktabs table, ready to ``\input``, that is no wider than ``\textwidth``.

    Columns of detail and those that say nothing, or one thing in all rows (then a comment does),
    are left out, unless :func:`columns_of` chose them; headings and long texts are broken into
    lines. What is still too wide by estimate is scaled down (graphicx); more lines than a page
    holds make a ``longtable``, which gets smaller letters then, and lies on its side (pdflscape)
    if that is not enough. Notes are comments above it.
    """
    columns, said = of_a_page(table)
    texts = _texts(dataclasses.replace(table, columns=columns, rows=_without_reasons(table)))
    for most in _BREAKS:
        bodies = [
            [
                [text] if _numeric(column) else _lines(text, most)
                for column, text in zip(columns, row, strict=True)
            ]
            for row in texts
        ]
        heads = []
        for index, column in enumerate(columns):
            longest = max((len(line) for row in bodies for line in row[index]), default=0)
            heads.append(_lines(heading(column), max(_HEADING, longest)))
        width = sum(
            max(_points(line) for cell in column for line in cell) + 2 * _COLSEP
            for column in zip(heads, *bodies, strict=True)
        )
        if width <= _TEXTWIDTH:
            break
    sides = ["r" if _numeric(column) else "l" for column in columns]
    # In braces, for pandas formats them.
    titles = [
        _stacked(lines, side, "b").replace("{", "{{").replace("}", "}}")
        for lines, side in zip(heads, sides, strict=True)
    ]
    rows = [
        [_stacked(lines, side, "t") for lines, side in zip(row, sides, strict=True)]
        for row in bodies
    ]
    # After the \\ of the row above, a bracket would be its argument.
    rows = [[("{}" if row[0].startswith("[") else "") + row[0], *row[1:]] for row in rows]
    long = sum(max(map(len, row), default=1) for row in bodies) > _PAGE
    font = "scriptsize" if long and width > _TEXTWIDTH else "footnotesize"
    width *= _SMALLER if font == "scriptsize" else 1
    wide = width > _TEXTWIDTH
    turned = wide and long  # which cannot be scaled
    needs = ["booktabs", *(["longtable"] if long else ["graphicx"] if wide else [])]
    needs += ["pdflscape"] if turned else []
    lines = [f"% needs {' '.join(rf'{chr(92)}usepackage{{{name}}}' for name in needs)}"]
    if wide:
        lines.append(
            f"% about {width:.0f} pt wide, {_TEXTWIDTH} pt are there: choose fewer --columns"
            + (", or take it on its side" if long else ", or take it as it is scaled down here")
        )
    lines += [f"% {line}" for note in (*said, *table.notes) for line in note.splitlines()]
    lines += [r"\begingroup", rf"\{font}\setlength{{\tabcolsep}}{{{_COLSEP}pt}}"]
    body = pd.DataFrame(rows, columns=range(len(titles))).to_latex(
        index=False, header=titles, escape=False, column_format="".join(sides), longtable=long
    )
    if turned:
        body = rf"\begin{{landscape}}{chr(10)}{body.rstrip()}{chr(10)}\end{{landscape}}"
    elif wide:
        body = rf"\resizebox{{\textwidth}}{{!}}{{{body.rstrip()}}}"
    return "\n".join([*lines, body.rstrip(), r"\endgroup"]) + "\n"


def of_a_page(table: Table) -> tuple[tuple[Column, ...], list[str]]:
    """The columns that a table on a page needs, and what the others say of all rows."""
    if all(column.detail is None for column in table.columns):  # chosen
        return table.columns, []
    kept, said = [], []
    for column in table.columns:
        texts = {shown(column, row.get(column.key)) for row in table.rows}
        if column.detail or texts <= {_ABSENT}:
            continue
        if len(table.rows) > 1 and len(texts) == 1 and not _numeric(column):
            said.append(f"{column.title}: {texts.pop()} in all rows")
        else:
            kept.append(column)
    return tuple(kept) or table.columns, said


def _without_reasons(table: Table) -> tuple[dict[str, Value], ...]:
    """Rows with a dash where a number is missing: why stands in the notes and on the page."""
    numeric = {column.key for column in table.columns if _numeric(column)}
    return tuple(
        {
            key: Value(text=_ABSENT)
            if key in numeric and value.number is None and len(value.text) > _HEADING
            else value
            for key, value in row.items()
        }
        for row in table.rows
    )


def _lines(text: str, most: int) -> list[str]:
    """A text broken at blanks, hyphens and the like into lines of so many characters, if it can."""
    lines = [""]
    for piece in re.split(r"(?<=[\s=_/])|(?<=\w-)(?=\w)", text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > most:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _stacked(lines: Sequence[str], side: str, place: str) -> str:
    """Lines of a cell, one above the other, at the top or at the bottom of its row."""
    escaped = [latex_text(line) for line in lines]
    if len(escaped) == 1:
        return escaped[0]
    inner = r" \\ ".join(("{}" if e.startswith("[") else "") + e for e in escaped)
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{inner}\end{{tabular}}"


def _points(text: str) -> float:
    """About how wide a text is in Computer Modern at \\footnotesize (8 pt), in points."""
    narrow = sum(each in "ilj.,:;'|!()[] -" for each in text)
    broad = sum(each.isupper() or each in "mw±×→−%" for each in text)
    return 2.7 * narrow + 6.3 * broad + 4.1 * (len(text) - narrow - broad)


def latex_text(text: str) -> str:
    """Text with everything escaped that means something to LaTeX; unknown symbols stay."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _NEGATIVE.sub("$-$", escaped)


def html_fragment(table: Table) -> str:
    """A ``<table>`` with its notes, to be put into a page."""
    opening = (
        f'<table id="{html.escape(table.key)}">\n<caption>{html.escape(table.title)}</caption>'
    )
    written = _tabulated(table, "html", lambda text: text)  # which escapes them itself
    notes = [f"<p>{html.escape(note)}</p>" for note in table.notes]
    return "\n".join([written.replace("<table>", opening, 1), *notes]) + "\n"


def columns_of(table: Table, keys: Sequence[str]) -> Table:
    """A table with the chosen columns, in the order given: :func:`latex`, too, takes them all.

    Raises:
        RequestError: there is no such column; close names are offered.
    """
    known = {column.key: column for column in table.columns}
    chosen = [dataclasses.replace(_column(table, known, key), detail=None) for key in keys]
    return dataclasses.replace(table, columns=tuple(chosen))


def rows_of(table: Table, conditions: Mapping[str, Collection[str]]) -> Table:
    """A table with the rows that have one of the given texts, or numbers, in each given column.

    Raises:
        RequestError: there is no such column, or no such row; what is there is offered.
    """
    known = {column.key: column for column in table.columns}
    kept = list(range(len(table.rows)))
    for key, wanted in conditions.items():
        column = _column(table, known, key)
        digits = decimals(table, column)
        texts = [{shown(column, row.get(key), digits), _raw(row.get(key))} for row in table.rows]
        left = [index for index in kept if texts[index] & set(wanted)]
        if not left:
            there = sorted({shown(column, table.rows[i].get(key), digits) for i in kept})
            raise RequestError(
                f"no row of the table {table.key} has {key}={' or '.join(sorted(wanted))}; there "
                f"are: {', '.join(there[:20])}{' …' * (len(there) > 20)}"
            )
        kept = left
    return dataclasses.replace(
        table,
        rows=tuple(table.rows[index] for index in kept),
        files=tuple(table.files[index] for index in kept) if table.files else (),
        commands=tuple(table.commands[index] for index in kept) if table.commands else (),
    )


def _column(table: Table, known: Mapping[str, Column], key: str) -> Column:
    if key not in known:
        hint = closest(key, known) or f"columns: {', '.join(known)}"
        raise RequestError(f"the table {table.key} has no column {key!r}; {hint}")
    return known[key]


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "csv": csv_text,
    "latex": latex,
    "html": html_fragment,
}
