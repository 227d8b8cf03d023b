"""Every protocol on prepared data sets, from files in the real layout to a record, in minutes.

The files are small sets of random pictures, and budgets a ten-thousandth: what is tested is that
the cards' networks and settings run through every stage, at the cards' own resolution.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mibench.data.identity_division import IdentityDivision
from mibench.data.listed_division import ListedDivision
from mibench.data.prepared_division import PreparedRule
from mibench.data.sources.celeba import CelebA
from mibench.leaderboard.checks import faults
from mibench.protocols import PROTOCOLS
from mibench.record import CEILING, Record
from mibench.verify.settings import foreign
from tests.data.test_sources import celeba_files, mnist_files, picture
from tests.kit.command_line import invoke

PEOPLE, EACH, SAMPLES = 6, 8, 2
STAGES = {"target", "evaluator", "student", "general-prior", "prior", "reconstructions", "metrics"}


def lfw(root: Path) -> None:
    for who in range(PEOPLE + 8):
        for i in range(1, 1 + (24 if who < PEOPLE else 8)):
            picture(root / "lfw" / f"P_{who:02d}" / f"P_{who:02d}_{i:04d}.jpg", 64, 64, i)


def celeba(root: Path) -> None:
    """Of the first people 8 pictures each, of the others 4."""
    owners = [who for who in range(PEOPLE + 2) for _ in range(EACH)]
    owners += [who for who in range(PEOPLE + 2, PEOPLE + 22) for _ in range(EACH // 2)]
    celeba_files(root, {f"{i + 1:06d}.jpg": who + 1 for i, who in enumerate(owners)})


def published_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists of the small set in place of the published ones: two people are in none."""
    files = [f"{i + 1:06d}.jpg" for i in range((PEOPLE + 2) * EACH + 20 * EACH // 2)]
    private, public = files[: PEOPLE * EACH], files[(PEOPLE + 2) * EACH :]
    test = [file for i, file in enumerate(private) if i % EACH < 3]
    train = [file for file in private if file not in test]
    sums, folder = {}, folder / "lists"
    folder.mkdir()
    for name, each in (("trainset", train), ("testset", test), ("ganset", public)):
        text = "".join(f"{file}\n" for file in each).encode()
        (folder / f"{name}.txt").write_bytes(text)
        sums[f"{name}.txt"] = hashlib.sha256(text).hexdigest()
    card = CelebA.card.model_copy(update={"lists": sums})
    monkeypatch.setattr(CelebA, "card", card)
    return folder


def facescrub(root: Path) -> None:
    for who in range(PEOPLE + 2):
        group = "actors" if who % 2 else "actresses"
        for i in range(EACH):
            picture(root / group / f"P {who}" / f"{i}.jpeg", 90, 100, EACH * who + i)


def ffhq(root: Path) -> None:
    for i in range(70):
        picture(root / "thumbnails128x128" / "00000" / f"{i:05d}.png", 128, 128, i)


def mnist(root: Path) -> None:
    mnist_files(root / "MNIST" / "raw", train=200, test=40)


def cifar10(root: Path) -> None:
    from mibench.data.sources.cifar10 import CLASSES

    for part, count in (("train", 16), ("test", 4)):
        for name in CLASSES:
            for i in range(count):
                picture(root / part / name / f"{i:04d}.jpg", 32, 32, i)


FILES: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (lfw, celeba, facescrub, ffhq, mnist, cifar10)
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, card in PROTOCOLS.items() if isinstance(card.data, PreparedRule)]
)
def test_a_protocol_from_files_to_a_record(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = PROTOCOLS[name]
    spec = card.data
    data = str(tmp_path / "data")
    lists = ("--lists", str(published_lists(tmp_path, monkeypatch))) if spec.lists else ()
    for dataset, crop in spec.sets:
        FILES[dataset](tmp_path / dataset)
        places = ("--root", str(tmp_path / dataset), "--data", data, *lists)
        size = ("--resolution", str(card.resolution), *(("--crop", str(crop)) if crop else ()))
        made = invoke("data", "prepare", dataset, *places, *size, "--incomplete", "--quiet")
        assert made.exit_code == 0, made.output
    # A target at chance is not attacked, and a ten-thousandth of a budget may leave it there.
    fewer = {"samples": SAMPLES, "initialisation": {}, "chance_kappa": -1}
    if card.attacked:
        fewer["attacked"] = 3
    if isinstance(spec, IdentityDivision):
        if spec.identities:
            fewer["data.identities"] = PEOPLE
        if spec.public_images:
            fewer["data.public_images"] = 64
        if spec.decoys == "drawn":
            fewer |= {"data.min_images": EACH, "data.test_fraction": 0.4}
    settings = [f"--set=protocol.{path}={json.dumps(value)}" for path, value in fewer.items()]
    where = ("--data", data, "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
    result = invoke("run", "--protocol", name, "--budget", "1e-4", *settings, *where, "--json")
    assert result.exit_code == 0, result.output
    record = Record.model_validate_json(result.stdout)
    assert record.status == "complete"
    assert faults(record) == []
    assert any("budget" in reason for reason in foreign(record))
    computed = {cost.stage.split(" ")[0] for cost in record.costs}
    assert computed >= STAGES
    if isinstance(spec, ListedDivision) or spec.decoys == "drawn":
        found = record.metrics["identity_bits"]
        assert found.value is not None or "mibench[faces]" in str(found.reason)
        assert record.references[CEILING]["identity_bits"].reason == found.reason
