"""Runs beside each other: what compares, paired differences, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mibench
from mibench.errors import MibenchError, RequestError
from mibench.metrics import paired_interval
from mibench.record import FLOOR_PUBLIC, Record
from mibench.reports.comparison import Comparison, compared
from tests.kit.board_records import diverged, make
from tests.kit.command_line import invoke
from tests.kit.judged_records import ATTACK, LOOKUP, judged, run_folder

A, B = Path("a/record.json"), Path("b/record.json")


def beside(*records: Record) -> Comparison:
    return compared([(Path(f"{k}/record.json"), each) for k, each in enumerate(records)])


def row(comparison: Comparison, metric: str) -> Any:
    return next(each for each in comparison.rows if each.metric == metric)


def test_differences_are_paired_by_person() -> None:
    one, other = judged(LOOKUP, LOOKUP), judged(ATTACK, LOOKUP, attack="kedmi")
    found = beside(one, other)
    bits = row(found, "identity_bits")
    values = [each.metrics["identity_bits"].per_identity for each in (one, other)]
    assert values[0] is not None
    assert values[1] is not None
    apart = [b - a for a, b in zip(*values, strict=True)]
    mean, low, high = paired_interval(torch.tensor(apart, dtype=torch.float64))
    (difference,) = bits.differences
    assert (difference.number, difference.interval) == (mean, (low, high))
    assert low > 0
    assert bits.leaks(0) == "more"
    assert bits.shown(0) == f"+{mean:.2f} [{low:.2f}, {high:.2f}]"
    assert found.headlines == (f"B (kedmi) leaks more than A (gmi): {bits.shown(0)} bits.",)
    back = beside(other, one)
    assert back.headlines[0].startswith("B (gmi) leaks less than A (kedmi): −")
    # The mean over people of differences of ranks would be that of the few who are far down.
    assert row(found, "median_rank").differences == (None,)
    assert row(found, "median_rank").shown(0) == "—"


def test_lower_distances_leak_more() -> None:
    nearer = {"knn_distance": {**make().metrics["knn_distance"].model_dump(mode="json")}}
    nearer["knn_distance"] |= {"per_identity": [1.0, 2.0, 3.0, 2.0, 1.0], "value": 1.8}
    found = beside(judged(), judged(attack="kedmi", metrics=nearer))
    assert row(found, "knn_distance").leaks(0) == "more"
    assert row(found, "knn_distance").shown(0).startswith("−")


def test_equal_runs_show_no_difference() -> None:
    found = beside(judged(), judged())
    assert found.headlines == ("No difference is shown between B and A: 0.00 [0.00, 0.00] bits.",)
    assert "B has the same reconstructions as A." in found.notes


def test_of_one_target_differences_are_between_attacks() -> None:
    found = beside(judged(), judged(attack="kedmi"))
    assert found.same_target
    assert found.notes[0].startswith("All runs attack the same trained target")
    assert row(found, "excess_bits").values[0] != "—"
    assert row(found, "excess_bits").differences == (None,)


@pytest.mark.parametrize("changes", [{"defense": "bido"}, {"seed": 1}])
def test_of_other_targets_excess_is_never_compared(changes: dict[str, Any]) -> None:
    """Another defense or seed is another target, whose look-up found other images."""
    theirs = [[rank + 1 for rank in row] for row in LOOKUP]
    found = beside(judged(), judged(attack="kedmi"), judged(lookup=theirs, **changes))
    assert not found.same_target
    assert found.notes[0].startswith("Targets differ (A, C)")
    assert "not paired by target" in found.notes[0]
    assert "Excess over look-up is left out" in found.notes[1]
    assert not [each for each in found.rows if each.metric.startswith("excess")]
    assert "excess" not in json.dumps(found.as_json()["runs"])


def edited(record: Record, part: str, **changes: Any) -> Record:
    own = getattr(record, part).model_copy(update=changes)
    return record.model_copy(update={part: own})


def test_what_does_not_compare_is_refused() -> None:
    record, few = judged(), judged(ATTACK[:4], LOOKUP[:4], closer="0000")
    resolved = {**record.protocol.resolved, "digest": "f" * 64}
    fewer = record.metrics["median_rank"].model_copy(update={"among": 1001})
    for other, reason in (
        (edited(record, "protocol", name="celeba-64"), "their protocols are tiny and celeba-64"),
        (edited(record, "protocol", version=2), "of tiny in the versions 1 and 2"),
        (edited(record, "protocol", source="a" * 64), "are not one card"),
        (edited(record, "protocol", resolved=resolved), "cards differ"),
        (edited(record, "protocol", passed={"budget": 0.05}), "changed: nothing; of the other bud"),
        (record.model_copy(update={"rules": 3}), "by the rules of version 1 and 3"),
        (few, "attack 5 and 4 identities"),
        (record.model_copy(update={"people": True}), "whether it shows people"),
        (
            record.model_copy(update={"metrics": {**record.metrics, "median_rank": fewer}}),
            "how many people its ranks are among",
        ),
        (
            record.model_copy(update={"artifacts": {**record.artifacts, "split": "b" * 64}}),
            "the split",
        ),
    ):
        with pytest.raises(MibenchError, match=reason):
            compared([(A, record), (B, other)])
    for some in ([], [(A, record)], [(A, record)] * 27):
        with pytest.raises(RequestError, match="name 2 to 26 runs"):
            compared(some)


def test_a_diverged_run_stands_without_numbers() -> None:
    found = beside(judged(), diverged(attack="kedmi"))
    assert "a run that diverged has no numbers" in found.headlines[0]
    assert row(found, "identity_bits").differences == (None,)
    assert row(found, "identity_bits").values[1] == "—"
    assert "B diverged: it has no numbers." in found.notes


def test_without_judges_recognition_is_compared() -> None:
    found = beside(make(10), make(15, attack="kedmi"))
    assert found.headlines[0].endswith("points.")
    assert "recognised" in found.headlines[0] or "No difference" in found.headlines[0]


def test_where_intervals_are_over_seeds_one_run_has_none() -> None:
    records = []
    for attack in ("gmi", "kedmi"):
        record = make(10 + 2 * (attack == "kedmi"), attack=attack)
        board = {"headline": "gmi", "worst_case": [], "interval": "seeds"}
        records.append(
            edited(record, "protocol", resolved={**record.protocol.resolved, "board": board})
        )
    found = beside(*records)
    (difference,) = row(found, "attack_accuracy_top1").differences
    assert difference.interval is None
    assert found.headlines[0].endswith("without an interval.")
    assert any("over seeds" in note for note in found.notes)


def test_the_command_shows_a_table_json_and_a_page(tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a", judged(LOOKUP, LOOKUP))
    b = run_folder(tmp_path / "b", judged(ATTACK, LOOKUP, attack="[red]kedmi[/]"))
    page = tmp_path / "page.html"
    done = invoke("compare", str(a), str(b), "--html", str(page))
    assert done.exit_code == 0, done.output
    assert "B ([red]kedmi[/]) leaks more than A (gmi)" in done.stdout
    assert "[red]kedmi[/]" in done.stdout
    assert "Identity bits ↑" in done.stdout
    assert page.read_text().count("<img") == 15  # private, A and B of five people
    done = invoke("compare", str(a), str(b), "--json")
    told = json.loads(done.stdout)
    assert [run["letter"] for run in told["runs"]] == ["A", "B"]
    (bits,) = [each for each in told["differences"] if each["metric"] == "identity_bits"]
    assert bits["leaks"] == "more"
    assert bits["interval"][0] < bits["mean"] < bits["interval"][1]
    assert "leaks more than A (gmi)" in done.stderr
    assert invoke("compare", str(a)).exit_code == 2
    c = run_folder(tmp_path / "c", edited(judged(), "protocol", name="other"))
    refused = invoke("compare", str(a), str(c))
    assert refused.exit_code == 1
    assert "do not compare: their protocols are tiny and other" in refused.stderr


def test_a_page_of_people_has_no_pictures_of_them(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / attack, judged(people=True, attack=attack)) for attack in "ab"]
    found = mibench.compare(*folders, html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<img" not in text
    assert "Person 3" not in text
    assert "Pictures and names of people are left out" in text
    assert found.same_target


def test_texts_of_strangers_are_text(tmp_path: Path) -> None:
    evil = "</script><script>window.hacked=1</script>"
    metrics = {evil: {"value": 1.0}, "fid": {"value": None, "reason": evil}}
    record = judged(attack=evil, metrics=metrics, recipe=evil, passed={"attack.x": evil})
    folders = [run_folder(tmp_path / "a", judged()), run_folder(tmp_path / "b", record, [evil] * 5)]
    mibench.compare(*folders, html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert evil not in text
    assert text.count("<script") == 2
    assert "hacked=1" in text


def test_odd_records_are_an_error_that_names_them(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", judged())
    data = json.loads((folder / "record.json").read_text())
    del data["protocol"]["resolved"]["digest"]
    data["references"][FLOOR_PUBLIC]["median_rank"]["ranks"] = []
    other = tmp_path / "b"
    other.mkdir()
    (other / "record.json").write_text(json.dumps(data))
    with pytest.raises(MibenchError, match="cannot be compared: KeyError"):
        mibench.compare(folder, other)
