"""A record as tables: numbers, reasons, notes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mibench.cli.show.record import show_record
from mibench.metrics import near_chance
from mibench.progress import duration, size
from mibench.record import (
    CEILING,
    FLOOR_PRIOR,
    FLOOR_PUBLIC,
    INCOMPLETE,
    LOOKALIKE,
    NOMINAL,
    MetricValue,
    Part,
    Record,
    missing,
)
from mibench.reports.words import (
    leak_in_words,
    missing_reasons,
    notes,
    number,
    warnings,
    with_interval,
)
from tests.kit.command_line import KEY, make_record


def shown(record: Record, folder: Path) -> str:
    out = io.StringIO()
    show_record(record, Console(file=out, width=160), folder, Path("the-store"))
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if re.match(rf"│ {re.escape(name)}", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_record_is_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    text = shown(make_record(), tmp_path)
    assert "improved-kedmi (white-box) against test_resnet under bido" in text
    assert "synthfaces-32 v3 · seed 7" in text
    assert row(text, "Attack accuracy (top-1)") == [
        "Attack accuracy (top-1) ↑",
        "43.1 % [38.1, 48.2]",
        "—",
        "1.2 %",
    ]
    assert row(text, "KNN distance") == ["KNN distance ↓", "1,234.6", "—", "—"]
    assert "of 500 reconstructions" in text
    assert "Typical rank" not in text  # there was no judge
    assert "│ FID" not in text  # no column has a number: the line below the table says why
    assert "— FID, FID (successful): no Inception weights" in text
    assert "95 % intervals over identities" in text
    assert row(text, "natural accuracy")[1] == "95.3 %"
    assert row(text, "evaluator accuracy")[1] == "98.1 %"
    assert row(text, "formal guarantee")[1] == "none"
    assert row(text, "target") == ["target", "cached (1 min 23 s then)", "940", "—", "—"]
    assert row(text, "prior") == ["prior", "4.0 s", "—", "12,345", "—"]
    assert "record.json" in text
    assert "reconstructions.png" not in text  # it was not written
    assert "the-store" in text


def test_what_leaked_leads_in_words_then_in_bits(tmp_path: Path) -> None:
    """The attack beside look-up, look-alike and ceiling, best guesses with an n of their own."""

    def known(rank: float, bits: float) -> dict[str, MetricValue]:
        return {
            "median_rank": MetricValue(value=rank, n=500, among=100_001),
            "identity_bits": MetricValue(value=bits, n=500, interval=(bits - 0.4, bits + 0.4)),
        }

    references = {
        FLOOR_PRIOR: known(41_000, 1.29),
        FLOOR_PUBLIC: known(229.5, 6.6),
        LOOKALIKE: known(14, 12.88),
        CEILING: known(1, 16.59),
    }
    best = {"identity_bits_best": MetricValue(value=6.9, n=100)}
    record = make_record(metrics={**known(263, 6.2), **best}, references=references)
    text = shown(record, tmp_path)
    rank, bits = leak_in_words(record)
    assert rank == (
        "Typical rank of the person 263 of 100,001; looking through public pictures 230; chance "
        "50,001"
    )
    assert bits == (
        "Known of who the person is: 6.20 [5.80, 6.60] bits; chance 1.3, look-up 6.6, ceiling 16.6"
    )
    assert text.index(rank) < text.index(bits) < text.index("What leaked")
    two = record.protocol.model_copy(
        update={"resolved": {**record.protocol.resolved, "judges": [{}, {}]}}
    )
    assert leak_in_words(record.model_copy(update={"protocol": two}))[0].endswith("50,001 or more")
    for decoys, who in NOMINAL.items():
        resolved = {**record.protocol.resolved, "data": {"decoys": decoys}}
        card = record.protocol.model_copy(update={"resolved": resolved})
        nominal = record.model_copy(update={"protocol": card})
        assert leak_in_words(nominal)[0].endswith("41,000")
        assert any(f"nominal: the decoys are {who}" in note for note in notes(nominal))
    assert not any("nominal" in note for note in notes(record))
    header = next(line for line in text.splitlines() if "look-alike" in line)
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == [
        "metric",
        "attack [95 % interval]",
        "look-up",
        "look-alike",
        "ceiling",
        "random",
    ]
    assert row(text, "Median rank") == ["Median rank ↓", "263", "230", "14", "1", "41,000"]
    best_row = row(text, "Identity bits (best guess)")
    assert best_row == ["Identity bits (best guess) ↑ (n = 100)", "6.90", "—", "—", "—", "—"]


def test_reasons_of_missing_numbers_are_named_once() -> None:
    assert missing_reasons(make_record()) == [
        "— FID, FID (successful): no Inception weights",
        "— Attack accuracy (top-1) (ceiling): too few images",
    ]


def test_a_guarantee_is_shown_with_its_unit(tmp_path: Path) -> None:
    utility: dict[str, Any] = {"natural_accuracy": 0.9, "epsilon": 7.996}
    utility |= {"delta": 1.234e-4, "privacy_unit": "example"}
    text = shown(make_record(utility=utility), tmp_path)
    assert row(text, "formal guarantee")[1] == "ε = 8, δ = 0.00012, for each example"


def test_a_weak_evaluator_is_noted() -> None:
    weak, strong = ({"evaluator_accuracy": value} for value in (0.8999, 0.9))
    (note,) = notes(make_record(utility=weak))
    assert "shown but not ranked" in note
    assert notes(make_record(utility=strong)) == []


def test_pictures_that_lack_are_noted() -> None:
    lacking = {INCOMPLETE: "a" * 64, "metrics": KEY}
    (note,) = notes(make_record(utility={"evaluator_accuracy": 1.0}, artifacts=lacking))
    assert "prepared with --incomplete" in note
    assert "boards refuse this record" in note


def test_real_people_are_not_to_be_published(tmp_path: Path) -> None:
    assert "must not be published" in shown(make_record(people=True), tmp_path)
    assert "must not be published" not in shown(make_record(), tmp_path)


def test_a_diverged_cell_shows_dashes(tmp_path: Path) -> None:
    metrics = {"attack_accuracy_top1": missing("the target diverged: loss is NaN")}
    utility = {"natural_accuracy": None, "evaluator_accuracy": None}
    record = make_record(status="diverged", metrics=metrics, references={}, utility=utility)
    text = shown(record, tmp_path)
    assert row(text, "natural accuracy")[1] == "—"
    assert "— Attack accuracy (top-1): the target diverged: loss is NaN" in text
    assert "Training or attack diverged: there is no number." in text


def test_numbers() -> None:
    assert number("attack_accuracy_both", 0.5) == "50.0 %"
    assert number("evaluator_agreement", 1.0) == "100.0 %"
    assert number("precision", 0.5) == "0.500"
    assert with_interval("knn_distance", MetricValue(value=1.0, interval=(0.5, 150.0))) == (
        "1.000 [0.500, 150.0]"
    )
    assert [duration(s) for s in (3.21, 59.94, 59.96, 125, 3600 * 2 + 299)] == [
        "3.2 s",
        "59.9 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 04 min",
    ]
    assert [size(n) for n in (0, 1023, 1536, 2**20, 1023.99 * 2**20, 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "1.0 GiB",
        "1.0 TiB",
    ]


@pytest.mark.parametrize(
    ("accuracy", "images", "classes", "near"),
    [
        (0.023, 1000, 100, True),
        (0.01, 1000, 100, True),
        (0.0, 1000, 100, True),
        (0.12, 1000, 100, True),  # 10.05 % is the lower end, 9.1 % of the way to 1
        (0.13, 1000, 100, False),
        (0.95, 1000, 100, False),
        (1.0, 20, 10, False),
        (0.3, 20, 10, True),  # 12 % is the lower end: 20 images cannot tell
        (0.3, 2000, 10, False),
        (0.26, 5000, 5, True),
        (0.35, 5000, 5, False),
        (0.8, 1000, 2, False),
    ],
)
def test_a_target_near_chance(accuracy: float, images: int, classes: int, near: bool) -> None:
    assert near_chance(accuracy, images, 1 / classes) == near
    utility = {
        "natural_accuracy": 0.9,
        "evaluator_accuracy": 0.95,
        "validation_accuracy": accuracy,
        "validation_images": images,
        "chance_accuracy": 1 / classes,
    }
    found = warnings(make_record(utility=utility))
    assert bool(found) == near
    if near:
        assert f"right on {100 * accuracy:.1f} % of {images:,} validation images" in found[0]
        assert f"guessing on {100 / classes:.1f} %" in found[0]
        assert found[0] in " ".join(shown(make_record(utility=utility), Path()).split())


def test_records_that_do_not_tell_get_no_warning() -> None:
    assert warnings(make_record()) == []


def test_validation_accuracy_is_shown() -> None:
    """Strengths are chosen by it."""
    record = make_record(utility={**make_record().utility, "validation_accuracy": 0.871})
    assert row(shown(record, Path()), "validation accuracy")[1] == "87.1 %"
    assert row(shown(make_record(), Path()), "validation accuracy")[1] == "—"


def test_nothing_in_a_record_is_markup(tmp_path: Path) -> None:
    part = Part(name="[red]x[/]", passed={}, resolved={})
    value = {"attack_accuracy_top1": missing("[/] no [bold]reason")}
    record = make_record(target=part, metrics=value, references={"[/]floor[red]": value})
    text = shown(record, tmp_path / "[red]folder[/]")
    for each in ("[red]x[/]", "[/] no [bold]reason", "[/]floor[red]", "[red]folder[/]"):
        assert each in text
