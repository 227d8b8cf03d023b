"""Pictures of boards: drawn from the reconstructions that a record names, or not there."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from mibench import protocols
from mibench.data.identity_division import IdentityDivision
from mibench.errors import MibenchError
from mibench.leaderboard.build import build
from mibench.leaderboard.galleries import MOST_BYTES, fault, make_gallery
from mibench.record import MetricValue
from mibench.verify import filing
from mibench.verify.filing import add
from tests.conftest import TINY
from tests.kit.board_records import CARDS, IDENTITIES, SAMPLES, file_all, make, record_data

pytestmark = pytest.mark.usefixtures("tiny")

IMAGES = "reconstructions.safetensors"
CELL = "tiny/gmi_none_test_resnet_seed0"


def images(value: float = 0.5) -> Tensor:
    return torch.full((IDENTITIES, SAMPLES, 3, 32, 32), value)


PRIVATE, NAMES = torch.ones(IDENTITIES, 3, 32, 32), ["Pa$$ion"] * IDENTITIES
SHOWN = SimpleNamespace(data=SimpleNamespace(train=None), labels=None)


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that were made up for a test agree with whatever images."""
    monkeypatch.setattr(filing, "evaluation_of", lambda *_: SHOWN)
    monkeypatch.setattr(filing, "private_images", lambda *_: (PRIVATE, NAMES))
    monkeypatch.setattr(filing, "recompute", lambda *_: [])


def run_folder(path: Path, stored: Tensor | bytes | None = None, **changes: Any) -> Path:
    """A run folder whose record names the reconstructions beside it."""
    stored = images() if stored is None else stored
    data = (
        stored
        if isinstance(stored, bytes)
        else save({"images": stored.contiguous(), "labels": torch.arange(IDENTITIES)})
    )
    path.mkdir(parents=True)
    (path / IMAGES).write_bytes(data)
    artifacts = {"target": "0" * 64, IMAGES: hashlib.sha256(data).hexdigest()}
    record = record_data(**{"epochs": 1, "artifacts": artifacts, **changes})
    (path / "record.json").write_text(json.dumps(record))
    return path


def galleries(board: Path) -> list[str]:
    return [p.relative_to(board).as_posix() for p in (board / "galleries").rglob("*.png")]


@pytest.mark.usefixtures("agreeing")
def test_the_gallery_is_drawn_from_the_reconstructions(tmp_path: Path) -> None:
    board = tmp_path / "board"
    run = run_folder(tmp_path / "run", images(0.4))
    # What else lies in the run folder is not looked at.
    Image.new("RGB", (64, 64), (255, 0, 0)).save(run / "reconstructions.png")
    other = run_folder(tmp_path / "other", images(0.3), seed=1)
    assert [each.status for each in add([run, other], board)] == ["filed", "filed"]
    assert galleries(board) == [f"galleries/{CELL}.png"]
    place = board / f"galleries/{CELL}.png"
    assert place.stat().st_size < MOST_BYTES
    assert fault(place) == ""
    colours = {colour for _, colour in Image.open(place).convert("RGB").getcolors(1 << 20) or []}
    assert (102, 102, 102) in colours  # 0.4
    assert (255, 0, 0) not in colours


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def green(data: bytes) -> int:
    """Pixels of marks."""
    counted = pixels(data).getcolors(1 << 20) or []
    return sum(n for n, (red, high, blue) in counted if high > red + 60 and high > blue + 20)


def test_hits_are_marked_and_private_images_stand_before_them() -> None:
    def gallery(hits: int) -> bytes:
        return make_gallery(make(hits), images(), PRIVATE, NAMES)

    some, more = (green(gallery(hits)) for hits in (4, 8))
    assert more == 2 * some > 0
    colours = {c for _, c in Image.open(io.BytesIO(gallery(4))).convert("RGB").getcolors(1 << 20)}
    assert (128, 128, 128) in colours
    with pytest.raises(MibenchError, match="images of 3 identities, hits of 5"):
        make_gallery(make(4), images()[:3], PRIVATE, NAMES)


def test_ranks_stand_below_where_there_are_judges() -> None:
    """Underlined are those within a hundredth of all people, whatever the evaluator says."""

    def gallery(rank: int) -> bytes:
        record = make(8)
        ranks = tuple((rank,) * SAMPLES for _ in range(IDENTITIES))
        found = MetricValue(value=float(rank), n=20, ranks=ranks, among=1001)
        judged = record.model_copy(update={"metrics": {**record.metrics, "median_rank": found}})
        return make_gallery(judged, images(), PRIVATE, NAMES)

    near, edge, far = gallery(7), gallery(10), gallery(11)
    assert green(near) == green(edge) > 0 == green(far)
    assert pixels(near).tobytes() != pixels(edge).tobytes()  # the numbers


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (images(float("nan")), "are not in [0, 1]"),
        (images(1.5), "are not in [0, 1]"),
        (images()[:4], "the reconstructions are (4, 4, 3, 32, 32)"),
        (images()[:, :2], "the reconstructions are (5, 2, 3, 32, 32)"),
        (torch.zeros(IDENTITIES), "the reconstructions are (5,)"),
        (torch.zeros(IDENTITIES, SAMPLES, 3, 0, 0), "the reconstructions are (5, 4, 3, 0, 0)"),
        (b"no tensors", "safetensors"),
        (save({"pictures": images()}), "['pictures'] beside images and labels"),
    ],
    ids=["nan", "range", "identities", "samples", "flat", "empty", "garbage", "another name"],
)
def test_filing_is_all_or_nothing(stored: Tensor | bytes, reason: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", stored)
    (outcome,) = add([run], tmp_path / "board")
    assert outcome.status == "refused"
    assert reason in outcome.reasons[0]
    assert not (tmp_path / "board").exists()


def test_other_reconstructions_than_the_records_are_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", artifacts={"target": "0" * 64, IMAGES: "0" * 64})
    (outcome,) = add([run], tmp_path / "board")
    assert outcome.status == "refused"
    assert "is not what the record was made from: its SHA-256 is" in outcome.reasons[0]
    linked = run_folder(tmp_path / "linked")
    (linked / IMAGES).rename(tmp_path / "elsewhere")
    (linked / IMAGES).symlink_to(tmp_path / "elsewhere")
    (outcome,) = add([linked], tmp_path / "board")
    assert outcome.status == "refused"
    assert "it is a link" in outcome.reasons[0]
    assert not (tmp_path / "board").exists()


@pytest.mark.usefixtures("agreeing")
def test_a_record_that_cannot_be_written_leaves_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise MibenchError("no space")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(filing, "write_atomic", write)
    (outcome,) = add([run_folder(tmp_path / "run")], tmp_path / "board")
    assert (outcome.status, outcome.reasons) == ("refused", ("no space",))
    assert galleries(tmp_path / "board") == []


def test_there_is_no_gallery_without_reconstructions(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / IMAGES).unlink()
    Image.new("RGB", (400, 300)).save(run / "reconstructions.png")
    (outcome,) = add([run], tmp_path / "board")
    assert outcome.status == "filed"
    assert not (tmp_path / "board" / "galleries").exists()


def people(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The part of a record that says it is of photographs."""
    card = TINY.model_copy(update={"data": IdentityDivision(dataset="lfw"), "name": "people"})
    monkeypatch.setitem(protocols.PROTOCOLS, "people", card)
    resolved = {**card.model_dump(mode="json"), "digest": card.digest}
    return {"name": "people", "version": 1, "passed": {}, "resolved": resolved}


@pytest.mark.usefixtures("agreeing")
def test_no_gallery_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(tmp_path / "run", protocol=people(monkeypatch), people=True)
    (outcome,) = add([run], tmp_path / "board")
    assert outcome.status == "filed", outcome.reasons
    assert not (tmp_path / "board" / "galleries").exists()


# -- pictures that a pull request brings ----------------------------------------------------------


def png(width: int, height: int, body: bytes) -> bytes:
    """A PNG that claims a size, of bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(body, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def sound() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (9, 99, 200)).save(buffer, format="PNG")
    return buffer.getvalue()


def two_headers() -> bytes:
    """A picture that states its size twice; decoders take the second one."""
    small, bomb = png(8, 8, bytes(16)), png(2**31 - 1, 2**31 - 1, b"")
    return small[:33] + bomb[8:33] + small[33:]


BOMB = png(13_000, 13_000, bytes(13_000 * 1_626))  # 169 megapixels in 21 kB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (sound(), ""),
        (sound()[:-30], "it is damaged"),
        (two_headers(), "it states two sizes|it is damaged"),
        (sound()[:20], "it is no PNG|it is damaged"),
        (b"", "it is no PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no PNG"),
        (BOMB, "13000 × 13000 pixels"),
        (png(0, 0, b""), "0 × 0 pixels"),
        (sound() + bytes(MOST_BYTES), "more than"),
        (sound().replace(b"IDAT", b"IDAX"), "it is damaged"),
    ],
    ids=[
        "sound",
        "cut",
        "two headers",
        "header",
        "empty",
        "eps",
        "bomb",
        "no pixels",
        "large",
        "no data",
    ],
)
def test_a_filed_picture_that_is_none_is_named(data: bytes, reason: str, tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    place.write_bytes(data)
    found = fault(place)
    assert bool(found) == bool(reason)
    assert any(part in found for part in reason.split("|"))


def test_a_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def opened(*args: object, **options: object) -> None:
        raise AssertionError("the picture was opened")

    assert len(BOMB) < MOST_BYTES
    (tmp_path / "bomb.png").write_bytes(BOMB)
    monkeypatch.setattr(Image, "open", opened)
    assert "pixels" in fault(tmp_path / "bomb.png")


def test_a_build_shows_no_picture_that_it_cannot_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board"
    board.mkdir()
    folder = board / "galleries/tiny"
    folder.mkdir(parents=True)
    file_all(board, make(), make(attack="kedmi"), make(attack="vmi"), make(attack="kedmi+ma"))
    (folder / "gmi_none_test_resnet_seed0.png").write_bytes(sound())
    (folder / "kedmi_none_test_resnet_seed0.png").write_bytes(BOMB)
    (folder / "kedmi+ma_none_test_resnet_seed0.png").symlink_to(tmp_path / "passwd")
    (folder / "stray.png").write_bytes(BOMB)
    _, problems, _ = build(board, CARDS)
    page = (board / "index.html").read_text()
    assert "galleries/tiny/gmi_none_test_resnet_seed0.png" in page
    assert "kedmi_none_test_resnet_seed0.png" not in page
    assert len(problems) == 2
    assert any("kedmi_none" in each and "13000 × 13000" in each for each in problems)
    assert any("kedmi+ma_none" in each and "a link" in each for each in problems)


def test_a_picture_of_people_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = tmp_path / "board"
    board.mkdir()
    protocol = people(monkeypatch)
    file_all(board, make(protocol=protocol, people=True))
    folder = board / "galleries/people"
    folder.mkdir(parents=True)
    (folder / "gmi_none_test_resnet_seed0.png").write_bytes(sound())
    _, problems, _ = build(board, {"people": CARDS["tiny"]})
    assert "galleries/people" not in (board / "index.html").read_text()
    assert "people are not published" in problems[0]
