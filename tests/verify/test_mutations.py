"""Every number of a real record, changed one at a time: who notices, ``add`` or ``verify``?"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench import protocols
from mibench.errors import MibenchError
from mibench.leaderboard.parsing import parse
from mibench.leaderboard.records import Filed, disagreements, file_name, survey
from mibench.record import FLOOR_PUBLIC
from mibench.verify.recompute import Place, evaluation_of, read_images, recompute
from mibench.verify.settings import check
from tests.conftest import TINY

Step = str | int
Data = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]

# What nothing can know of a record: where it was made, and what that took.
UNKNOWABLE = ("costs.", "environment.")
# What only a second run of the cell can tell, where the new number is a share of as many images.
UNTIL_RETRAINED = ("utility.natural_accuracy", "utility.validation_accuracy")
# Which public images the target scores highest only the target knows, and an interval that ends
# at 0 does not tell its middle.
OPEN_INTERVAL = re.compile(rf"references\.{FLOOR_PUBLIC}\.f\w+\.(value|interval\.1)")


def leaves(value: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """Numbers and rows of hits of a record's JSON, by their paths."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from leaves(each, (*path, key))
    elif type(value) in (int, float) or (isinstance(value, str) and "hits" in path):
        yield path, value


def changed(value: Any) -> Any:
    """Another number of the same kind, near by; of a row of hits the first one turned."""
    if isinstance(value, str):
        return "10"[int(value[0])] + value[1:]
    return value + 1 if isinstance(value, int) else value + max(1e-5, abs(value) * 1e-3)


def mutated(data: Data, path: tuple[Step, ...], value: Any) -> str:
    result = copy.copy(data)
    place: Any = result
    for step in path[:-1]:
        place[step] = copy.copy(place[step])
        place = place[step]
    place[path[-1]] = value
    return json.dumps(result)


def add_notices(text: str, others: list[Filed]) -> bool:
    """Whether the checks of ``add`` refuse a record, beside those that are filed."""
    try:
        record = parse(text)
    except MibenchError:
        return True
    name = file_name(record)
    return bool(check(record)) or name in disagreements([*others, Filed(name, record)])


def verify_notices(text: str, folder: Path, store: Path) -> bool:
    """Whether computing the metrics anew refuses a record that ``add`` took."""
    record = parse(text)
    try:
        images = read_images(record, folder / "record.json", store)
        assert images is not None
        found = recompute(record, images, evaluation_of(record, Place(store, device="cpu")))
    except MibenchError:
        return True
    return any(each.verdict != "agrees" for each in found)


def group(path: tuple[Step, ...]) -> str:
    """What a number is, for counting: ``"metrics: per_identity"``."""
    first, *rest = map(str, path)
    if first in ("metrics", "references"):
        kind = next(step for step in reversed(rest) if not step.isdigit())
        return f"{first}: {kind}"
    if first in ("protocol", "target", "defense", "attack"):
        return f"{first}: {rest[0]}"
    return first if first in ("costs", "environment") else ".".join([first, *rest])


def _is_open(data: Data, name: str) -> bool:
    if not OPEN_INTERVAL.fullmatch(name):
        return False
    metric = data["references"][FLOOR_PUBLIC][name.split(".")[2]]
    return bool(metric["interval"][0] == 0)


def mutate_each(
    data: Data, paths: list[tuple[Step, ...]], others: list[Filed], folder: Path, store: Path | None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Counts by group and by who noticed; and the numbers that nobody noticed, but should have."""
    known = dict(leaves(data))
    counts: Counter[tuple[str, str]] = Counter()
    missed = []
    for path in paths:
        text = mutated(data, path, changed(known[path]))
        name = ".".join(map(str, path))
        if add_notices(text, others):
            who = "add"
        elif name.startswith(UNKNOWABLE) or _is_open(data, name):
            who = "nobody"
        elif store is not None and verify_notices(text, folder, store):
            who = "verify"
        else:
            who = "nobody"
            missed.append(name)
        counts[group(path), who] += 1
    return counts, missed


@pytest.fixture(scope="module")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Run folder and store of a cell with a guarantee."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "tiny", TINY)
        store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out")
        mibench.run(
            protocol="tiny", attack="gmi", defense="dp-sgd", store=store, out=out, device="cpu"
        )
        yield out, store


def spread(paths: list[tuple[Step, ...]], most: int) -> list[tuple[Step, ...]]:
    """At most so many of each group, evenly."""
    grouped: dict[str, list[tuple[Step, ...]]] = {}
    for path in paths:
        grouped.setdefault(group(path), []).append(path)
    return [p for each in grouped.values() for p in each[:: -(-len(each) // most)]]


def test_some_numbers_of_every_kind(private_run: tuple[Path, Path]) -> None:
    folder, store = private_run
    data = json.loads((folder / "record.json").read_text())
    assert data["utility"]["epsilon"] > 0
    assert not add_notices(json.dumps(data), [])
    assert not verify_notices(json.dumps(data), folder, store)
    paths = spread([path for path, _ in leaves(data)], 3)
    _, missed = mutate_each(data, paths, [], folder, store)
    assert missed == []


@pytest.mark.slow
def test_every_number(private_run: tuple[Path, Path]) -> None:
    folder, store = private_run
    data = json.loads((folder / "record.json").read_text())
    counts, missed = mutate_each(data, [path for path, _ in leaves(data)], [], folder, store)
    for (what, who), count in sorted(counts.items()):
        print(f"| {what} | {who} | {count} |")
    assert missed == []


def test_what_only_a_second_run_tells(private_run: tuple[Path, Path]) -> None:
    """The list of it is complete, and each is on it for a reason: nobody notices."""
    folder, store = private_run
    data = json.loads((folder / "record.json").read_text())
    for name, images in zip(UNTIL_RETRAINED, (20, 10), strict=True):
        first, key = name.split(".")
        value = data[first][key]
        text = mutated(data, (first, key), value + (1 / images if value < 1 else -1 / images))
        assert not add_notices(text, [])
        assert not verify_notices(text, folder, store)


FILED = ROOT / "leaderboards/records/synthfaces-32"


def without_reconstructions(most: int | None) -> tuple[Counter[tuple[str, str]], list[str]]:
    """A filed record without its reconstructions, beside the others of its board."""
    path = FILED / "improved-kedmi_dp-sgd_test_resnet_seed0.json"
    data = json.loads(path.read_text())
    pattern = re.compile(r"_dp-sgd_test_resnet_seed0|_none_test_resnet_seed[01]")
    board = survey(ROOT / "leaderboards")[0]["synthfaces-32"]
    others = [each for each in board if pattern.search(each.path) and path.name not in each.path]
    assert not add_notices(json.dumps(data), others)
    paths = [path for path, _ in leaves(data)]
    return mutate_each(data, spread(paths, most) if most else paths, others, FILED, None)


@pytest.mark.slow
def test_numbers_of_a_filed_record_beside_its_board() -> None:
    """Without reconstructions, and with no second run: what is consistent stays self-reported."""
    counts, missed = without_reconstructions(60)
    for (what, who), count in sorted(counts.items()):
        print(f"| {what} | {who} | {count} |")
    assert missed == []
