"""Every protocol on prepared data sets, from files in the real layout to a record, in minutes.

The files are small sets of random pictures, and budgets a ten-thousandth: what is tested is that
the cards' networks and settings run through every stage, at the cards' own resolution.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mibench.data.identity_division import IdentityDivision
from mibench.leaderboard.checks import faults
from mibench.protocols import PROTOCOLS
from mibench.record import Record
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
    count = (PEOPLE + 8) * EACH
    celeba_files(root, {f"{i + 1:06d}.jpg": i // EACH + 1 for i in range(count)})


def facescrub(root: Path) -> None:
    for who in range(PEOPLE):
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
    "name", [name for name, card in PROTOCOLS.items() if isinstance(card.data, IdentityDivision)]
)
def test_a_protocol_from_files_to_a_record(name: str, tmp_path: Path) -> None:
    card = PROTOCOLS[name]
    spec = card.data
    assert isinstance(spec, IdentityDivision)
    data = str(tmp_path / "data")
    for dataset, crop in ((spec.dataset, spec.crop), (spec.public_dataset, spec.public_crop)):
        if dataset:
            FILES[dataset](tmp_path / dataset)
            places = ("--root", str(tmp_path / dataset), "--data", data)
            size = ("--resolution", str(card.resolution), *(("--crop", str(crop)) if crop else ()))
            made = invoke("data", "prepare", dataset, *places, *size, "--incomplete", "--quiet")
            assert made.exit_code == 0, made.output
    # A target at chance is not attacked, and a ten-thousandth of a budget may leave it there.
    fewer = {"samples": SAMPLES, "initialisation": {}, "chance_kappa": -1}
    if card.attacked:
        fewer["attacked"] = 3
    if spec.identities:
        fewer["data.identities"] = PEOPLE
    if spec.public_images:
        fewer["data.public_images"] = 64
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
