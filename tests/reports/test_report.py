"""Reports: what they say, what they hold, where they may be written, and what they withstand."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mibench
from mibench.errors import MibenchError, RequestError
from mibench.record import FLOOR_PRIOR, FLOOR_PUBLIC, GALLERY, Record, ordinal
from mibench.reports import charts
from mibench.reports.page import render_report
from mibench.reports.people import people
from mibench.reports.pictures import BEST, LOOKALIKE, MEDIAN, PRIVATE, Pictures, read_pictures
from mibench.reports.run import REPORT, report
from mibench.reports.words import verdict
from tests.kit.board_records import diverged, make
from tests.kit.command_line import invoke
from tests.kit.judged_records import ATTACK, DECOYS, LOOKUP, RANDOM, judged, pictures, run_folder

HACK = "<script>window.hacked=1</script>"


class Page(HTMLParser):
    """All elements of a page with their attributes, and its texts outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self.inside = "", "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text += data
        elif dict(self.found[-1][1]).get("id") == "data":
            self.data += data


def text_of(page: str) -> str:
    return " ".join(Page(page).text.split())


# -- what leaked, in a sentence -------------------------------------------------------------------


def level(record: Record) -> str:
    return verdict(record).level


def test_the_intervals_decide_what_leaked() -> None:
    more = verdict(judged(ATTACK, LOOKUP))
    assert more.level == "leaked"
    assert more.headline == "More leaked than looking through public pictures shows."
    assert "further than the public pictures" in more.reasons[0]
    assert more.reasons[1].startswith("For none of the 5 people the best guess is closer")
    same = verdict(judged(ATTACK, ATTACK))
    assert same.level == "public"
    assert "just as the public pictures do" in same.reasons[0]
    less = verdict(judged(LOOKUP, ATTACK))
    assert less.level == "public"
    assert "less far than" in less.reasons[0]
    assert re.search(r"the difference is −\d\.\d\d bits \[−\d\.\d\d, −\d\.\d\d\]", less.reasons[0])


def test_below_random_samples_nothing_was_found_whatever_lookup_finds() -> None:
    worst = [[99_999] * 4] * 5
    nothing = verdict(judged(RANDOM, worst))
    assert nothing.level == "nothing"
    assert "random samples" in nothing.reasons[0]


def test_people_whose_guess_is_closer_than_any_public_picture_leaked() -> None:
    """Some of five are no proof, all of them are; and random samples that win as often are none."""
    assert level(judged(ATTACK, ATTACK, closer="10000")) == "public"
    assert "For 1 of 5 people" in verdict(judged(ATTACK, ATTACK, closer="10000")).reasons[1]
    record = judged(ATTACK, ATTACK, closer="11111")
    assert verdict(record).headline.startswith("5 of 5 people leaked: their best guess is closer")
    by_chance = {"beats_lookalike": record.metrics["beats_lookalike"]}
    random = {**record.references[FLOOR_PRIOR], **by_chance}
    lucky = record.model_copy(update={"references": {**record.references, FLOOR_PRIOR: random}})
    assert level(lucky) == "public"


def test_what_cannot_be_said_is_not_said() -> None:
    unjudged = verdict(make())
    assert unjudged.level == "unmeasured"
    assert "in 50.0 %" in unjudged.reasons[1]
    data = {**make().protocol.resolved["data"], "dataset": "mnist"}
    protocol = make().protocol.model_copy(
        update={"resolved": {**make().protocol.resolved, "data": data}}
    )
    digits = make().model_copy(update={"protocol": protocol})
    assert level(digits) == "classes"
    assert verdict(diverged()).reasons == ("diverged.",)
    assert level(diverged()) == "diverged"
    absent = {"excess_bits": {"value": None, "reason": "the target is not at hand"}}
    unknown = verdict(judged(metrics=absent))
    assert unknown.level == "unmeasured"
    assert "is not known: the target is not at hand" in unknown.reasons[0]


# -- the people -----------------------------------------------------------------------------------


def test_each_person_has_ranks_bits_and_what_lookup_knows() -> None:
    first, *_, last = people(judged(closer="00001"))
    assert first.ranks == (5, 9, 40, 1)
    assert (first.best, first.median) == (5, 7)
    bits = [math.log2((DECOYS + 1) / rank) for rank in first.ranks]
    assert first.bits == pytest.approx(sum(bits) / 4)
    assert first.lookup == 250
    assert first.excess is not None
    assert first.excess > 0
    assert (first.closer, last.closer) == (False, True)
    assert (first.hits, first.samples) == (4, 4)  # the first ten of twenty are hits
    assert (last.hits, last.samples) == (0, 4)


def test_best_ranks_are_exact_for_any_rank() -> None:
    """They are stored as bits."""
    ranks = [1, 2, 3, 999, 50_000, 99_999, 100_001]
    rows = [[rank] * 4 for rank in ranks]
    with_more = judged(rows, rows, closer="0" * len(rows))
    assert [each.best for each in people(with_more)] == ranks


# -- pictures -------------------------------------------------------------------------------------


def shown(address: str) -> torch.Tensor:
    """The picture in an address, uint8 ``(3, h, w)``."""
    head, _, data = address.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        pixels = torch.tensor(list(image.convert("RGB").tobytes()), dtype=torch.uint8)
        return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def read(folder: Path, **options: Any) -> Pictures:
    record = Record.model_validate_json((folder / "record.json").read_text())
    return read_pictures(folder, record, people(record), **options)


def test_pictures_are_those_of_the_person_to_the_pixel(tmp_path: Path) -> None:
    found = read(run_folder(tmp_path, judged()))
    assert found.lacking == ()
    assert found.names[3] == "Person 3"
    assert found.lookalike_ranks[3] == 1600
    own = found.shown[3]
    assert [*own] == [PRIVATE, BEST, MEDIAN, LOOKALIKE]
    for what, seed in ((PRIVATE, 100), (BEST, 0), (MEDIAN, 2), (LOOKALIKE, 101)):
        assert torch.equal(shown(own[what]), pictures(seed)[3]), what


def test_without_the_gallery_the_reconstructions_are_shown(tmp_path: Path) -> None:
    """The best guess is the one of its rank; the median the nearest to the median rank."""
    ranks = [[rank, 3 * rank, 9 * rank, 27 * rank] for rank in (2, 4, 5, 7, 9)]
    folder = run_folder(tmp_path, judged(ranks), gallery=False)
    found = read(folder)
    (lacking,) = found.lacking
    assert "not at hand: there is no gallery.safetensors" in lacking
    assert [*found.shown[1]] == [BEST, MEDIAN]
    assert torch.equal(shown(found.shown[1][BEST]), pictures(0)[1])
    assert torch.equal(shown(found.shown[1][MEDIAN]), pictures(1)[1])
    (page,) = report(folder)
    assert lacking in text_of(page.read_text())


def test_other_reconstructions_than_the_records_are_not_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, judged())
    path = folder / "reconstructions.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3f")
    found = read(folder)
    assert found.lacking == (
        "The reconstructions are not at hand: reconstructions.safetensors is another than the "
        "record names.",
    )
    assert [*found.shown[0]] == [PRIVATE, LOOKALIKE]
    assert BEST in read(folder, check=False).shown[0]
    path.unlink()
    assert "there is no reconstructions.safetensors" in read(folder).lacking[0]


def test_no_more_pictures_than_can_be_looked_at(tmp_path: Path) -> None:
    found = read(run_folder(tmp_path, judged()), most=3)
    assert [*found.shown] == [0, 2, 4]
    assert found.lacking == ("Pictures are of 3 of 5 people, evenly chosen.",)


@pytest.mark.parametrize("damage", ["cut", "kind", "shape", "names", "place", "empty"])
def test_a_damaged_gallery_is_said_and_left_out(damage: str, tmp_path: Path) -> None:
    from mibench.store.artifact import save_tensors

    folder = run_folder(tmp_path, judged())
    path = folder / GALLERY
    tensors, names = load_file(path), json.dumps([f"Person {k}" for k in range(5)])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        if damage == "kind":
            tensors["private"] = tensors["private"].float()
        elif damage == "shape":
            tensors["lookalike"] = tensors["lookalike"][:2]
        elif damage == "place":
            tensors["best"][2] = 99
        save_tensors(path, tensors, {"names": "{" if damage == "names" else names})
    (page,) = report(folder)
    assert "is damaged" in text_of(page.read_text())


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    from mibench.reports.pictures import _address

    noise = torch.rand(3, 512, 256, generator=torch.Generator().manual_seed(0))
    assert shown(_address(noise)).shape == (3, 160, 80)
    assert len(_address(noise)) < 60_000


# -- the page -------------------------------------------------------------------------------------


def test_equal_runs_give_equal_pages_that_need_nothing_else(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / name, judged()) for name in "ab")
    pages = [page.read_bytes() for page in mibench.report(first, second)]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 120_000
    found = Page(pages[0].decode())
    addresses = [a.get(k) or "" for _, a in found.found for k in ("src", "href") if k in a]
    assert {address.partition(":")[0] for address in addresses if not address.startswith("#")} == {
        "data"
    }
    assert "http" not in re.sub(r"https?://\S+ and put|torch", "", found.text)
    ids = {a.get("id") for _, a in found.found}
    assert all(address[1:] in ids for address in addresses if address.startswith("#"))


def test_a_page_says_all_of_a_run(tmp_path: Path) -> None:
    record = judged(passed={"defense.scale": 0}, defense="bido", scale=0)
    (page,) = report(run_folder(tmp_path, record))
    text = text_of(page.read_text())
    for each in (
        "More leaked than looking through public pictures shows.",
        "of 100,001",
        "Identity bits ↑",
        "Two-choice" if "two_choice_accuracy" in record.metrics else "Median rank ↓",
        "The rank of every person",
        "How far down the list the person is found",
        "validation accuracy (private images)",
        "defense.scale",
        "attack.iterations" if "attack.iterations" in record.attack.resolved else "iterations",
        "0123456789abcdef",
        "mibench run --protocol tiny --attack gmi --defense bido --seed 0 --set defense.scale=0",
        "FID, FID (successful)" if "fid_successful" in record.metrics else "FID: no Inception",
    ):
        assert each in text, each


def test_a_page_of_a_thousand_people_stays_light() -> None:
    """Without pictures; these are of 500 people at most."""
    rows = [[k + 1, 2 * k + 1, 3 * k + 1, 4 * k + 1] for k in range(1000)]
    record = judged(rows, rows, closer="0" * 1000)
    page = render_report(record, Pictures())
    assert len(page) < 1_500_000


def test_a_diverged_run_has_a_report_without_numbers(tmp_path: Path) -> None:
    (page,) = report(run_folder(tmp_path, diverged()))
    text = text_of(page.read_text())
    assert "There is no number: training or attack diverged." in text
    assert "<img" not in page.read_text()
    assert "mibench run --protocol tiny" in text


def test_a_run_without_judges_shows_recognition_alone(tmp_path: Path) -> None:
    (page,) = report(run_folder(tmp_path, make()))
    text = text_of(page.read_text())
    assert "Whether a person leaked was not measured." in text
    assert "taken for the right person at least once" in text
    titles = [attributes.get("title") or "" for _, attributes in Page(page.read_text()).found]
    assert not any("most like the" in each for each in titles)
    assert "The rank of every person" not in text


@pytest.mark.parametrize("among", [2, 3, 11, 1001])
def test_few_decoys_are_enough_for_a_page(among: int) -> None:
    rank = judged().metrics["median_rank"]
    few = rank.model_copy(
        update={"among": among, "ranks": tuple((1, 2, 1, 2) for _ in range(5)), "value": 1.5}
    )
    record = judged()
    record = record.model_copy(update={"metrics": {**record.metrics, "median_rank": few}})
    assert "this attack" in render_report(record, Pictures())


def test_curves_go_from_nothing_to_all() -> None:
    found = charts.rank_curves(judged())
    assert found is not None
    assert [line.kind for line in found.lines] == [
        "attack", "lookup", "ceiling", "random", "chance",
    ]  # fmt: skip
    shares = dict(found.numbers)
    assert found.at == ("1", "10", "100", "1,000", "10,000")
    every = [rank for row in ATTACK for rank in row]
    expected = [100 * sum(rank <= at for rank in every) / 20 for at in (1, 10, 100, 1000, 10_000)]
    assert [float(each) for each in shares["this attack"]] == expected
    for line in found.lines:
        places = [tuple(map(float, each.split(","))) for each in line.points.split()]
        assert places == sorted(places)
        assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
        assert places[-1] == (charts.WIDE - charts.RIGHT, charts.TOP)


# -- whose eyes it is for -------------------------------------------------------------------------


def test_pictures_of_people_stay_in_the_run_folder(tmp_path: Path) -> None:
    """And their names; a page elsewhere says where they are."""
    folder = run_folder(tmp_path / "run", judged(people=True))
    (own,) = report(folder)
    assert own == folder / REPORT
    text = own.read_text()
    assert "These are pictures of real people." in text
    assert "Do not publish it" in text
    assert text.count("<img") == 20
    assert "Person 3" in text
    (other,) = report(folder, out=tmp_path / "page.html")
    text = other.read_text()
    assert "<img" not in text
    assert "Person 3" not in text
    assert "Pictures and names of people are left out" in text
    (again,) = report(folder / "record.json", out=folder / "mine.html")
    assert "<img" in again.read_text()


def test_drawn_faces_may_be_shown_anywhere(tmp_path: Path) -> None:
    (page,) = report(run_folder(tmp_path / "run", judged()), out=tmp_path / "page.html")
    assert page.read_text().count("<img") == 20
    assert "real people" not in page.read_text()


def test_several_runs_have_a_page_each(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / name, judged()) for name in ("one", "two")]
    assert report(*folders) == [folder / REPORT for folder in folders]
    out = tmp_path / "pages"
    assert report(*folders, out=out) == [out / "one.html", out / "two.html"]
    same = run_folder(tmp_path / "deeper" / "one", judged())
    with pytest.raises(RequestError, match=r"two pages would be called one\.html"):
        report(folders[0], same, out=out)


def test_wrong_requests_are_named_before_anything_is_written(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", judged())
    for wrong, reason in (
        (tmp_path / "absent", "there is no such file"),
        (tmp_path, "holds no record.json"),
    ):
        with pytest.raises(RequestError, match=reason):
            report(folder, wrong)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{}")
    with pytest.raises(MibenchError, match=r"bad/record\.json: schema_version is None"):
        report(folder, tmp_path / "bad")
    assert not (folder / REPORT).exists()
    filed = tmp_path / "filed.json"
    filed.write_text((folder / "record.json").read_text())
    with pytest.raises(RequestError, match="lies in no run folder: say by --out"):
        report(filed)
    (page,) = report(filed, out=tmp_path / "page.html")
    assert "Private images and look-alikes are not at hand" in page.read_text()


def test_the_command_prints_where_pages_are(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", judged())
    done = invoke("report", str(folder))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / REPORT)
    assert invoke("report", str(tmp_path / "absent")).exit_code == 2


# -- records and galleries of strangers -----------------------------------------------------------

EVIL = (
    HACK,
    "</td><img src=x onerror='window.hacked=1'>",
    "</script><script>window.hacked=1</script>",
    '" onmouseover="window.hacked=1',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.hacked=1",
)


def hostile() -> Record:
    """A record with markup wherever it holds a text."""
    record = judged(recipe=EVIL[1], command=EVIL[0], created=EVIL[2], passed={"defense.x": EVIL[3]})
    data = record.model_dump(mode="json")
    for part in ("protocol", "target", "defense", "attack"):
        data[part]["resolved"][EVIL[0]] = EVIL[1]
        data[part]["passed"][f"{part}.{EVIL[2]}"] = EVIL[4]
        if part != "protocol":
            data[part]["name"] = EVIL[2]
    data["metrics"]["fid"] = {"value": None, "reason": EVIL[1]}
    data["metrics"][EVIL[0]] = {"value": 1.0, "n": 3, "interval_over": EVIL[1]}
    data["references"][EVIL[1]] = {EVIL[0]: {"value": 2.0}}
    data["artifacts"][EVIL[0]] = EVIL[1]
    data["environment"]["platform"] = EVIL[2]
    maker = {**data["environment"], "commit": EVIL[3]}
    stage = {"stage": EVIL[1], "key": EVIL[0], "cached": True, "seconds": 1.0, "maker": maker}
    data["costs"] = [stage]
    data["utility"]["epsilon"] = EVIL[1]
    return Record.model_validate(data)


def test_texts_of_strangers_are_text(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, hostile(), names=EVIL[:5])
    (page,) = report(folder)
    text, clean = page.read_text(), run_folder(tmp_path / "clean", judged())
    found = Page(text)
    (plain,) = report(clean)
    tags = {tag for tag, _ in Page(plain.read_text()).found}
    assert {tag for tag, _ in found.found} <= tags | {"small"}
    assert sum(tag == "script" for tag, _ in found.found) == 2
    handlers = [name for _, attributes in found.found for name in attributes if name[:2] == "on"]
    assert handlers == []
    assert HACK not in text
    assert EVIL[4] in found.text
    assert json.loads(found.data)["people"][0]["name"] == EVIL[0]
    assert "curl" not in text
    assert "mibench run --protocol tiny" in found.text


@pytest.mark.parametrize(
    "changes",
    [
        {"per_identity": [1e300] * 5},
        {"per_identity": [-1e300] * 5},
        {"per_identity": []},
        {"per_identity": [1.0] * 4000, "hits": ["1"]},
        {"ranks": [[]], "among": 0},
        {"ranks": [[-5, 0]], "among": 7},
        {"ranks": [[10**15]], "among": 10**15},
        {"ranks": [[1]], "among": -3},
        {"value": 1e300, "interval": [-1e300, 1e300]},
        {"value": -5.0, "interval": [0.0, 0.0]},
    ],
)
@pytest.mark.parametrize(
    "key", ["identity_bits", "median_rank", "identity_bits_best", "excess_bits"]
)
def test_odd_numbers_make_a_page_or_an_error(
    key: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, judged(), gallery=False)
    data = json.loads((folder / "record.json").read_text())
    for values in (data["metrics"], data["references"][FLOOR_PUBLIC]):
        if key in values:
            values[key] |= changes
    (folder / "record.json").write_text(json.dumps(data))
    with contextlib.suppress(MibenchError):  # which says that it cannot be shown
        (page,) = report(folder)
        assert "How to repeat it" in page.read_text()


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", judged())
    victim = tmp_path / "thesis.tex"
    victim.write_text("dear")
    (folder / REPORT).symlink_to(victim)
    report(folder)
    assert victim.read_text() == "dear"
    assert not (folder / REPORT).is_symlink()


def test_ordinals_stand_below_pictures(tmp_path: Path) -> None:
    (page,) = report(run_folder(tmp_path, judged()))
    alts = [a["alt"] for tag, a in Page(page.read_text()).found if tag == "img"]
    assert alts[:4] == ["private", "best guess, 5th", "median, 7th", "look-alike, 3rd"]
    assert ordinal(1600) in page.read_text()
