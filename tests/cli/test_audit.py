"""``mibench audit`` on the command line: what it shows, and what it refuses before long work."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.kit.audits import SETTINGS, make_audit
from tests.kit.command_line import ROOT, invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil, as the working folder."""
    shutil.copytree(made, tmp_path / "own")
    model = tmp_path / "own" / "model.py"
    model.write_text(model.read_text().replace(str(made), str(tmp_path / "own")))
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def arguments(*more: str, **changes: str | None) -> list[str]:
    options: dict[str, str | None] = {
        "model": "model.py:build",
        "weights": "weights.safetensors",
        "images": "private",
        "public": "public",
        "size": "32",
        "store": "store",
        "preset": "small",
        "attack": "gmi",
    }
    said = [f"--{name}={value}" for name, value in (options | changes).items() if value is not None]
    said += [] if "std" in changes else ["--mean", ".5", ".5", ".5", "--std", ".5", ".5", ".5"]
    return ["audit", *said, "--quiet", *more]


def settings(**more: Any) -> list[str]:
    found = {**SETTINGS, **more}
    return [f"--set={path}={json.dumps(value)}" for path, value in found.items()]


def refused(*more: str, **changes: str | None) -> str:
    """The message of a request that is refused; nothing is left but what was looked at."""
    result = invoke(*arguments(*settings(), *more, **changes))
    assert result.exit_code == 2, result.output
    assert not Path("mibench-runs").exists()
    made = {path.parent.name for path in Path("store").glob("*/*") if path.is_dir()}
    assert made <= {"data"}
    return result.stderr.replace("\n", " ")


def test_what_it_shows(place: Path) -> None:
    iterations = {"attack.iterations": 3}
    result = invoke(*arguments(*settings(**iterations), "--json", "--held-out", public="flat"))
    assert result.exit_code == 0, result.stderr
    assert "model.py:build is right on 91.7% of the 48 private images." in result.stderr
    assert "Whether a person leaked was not measured. (gmi, white-box)" in result.stderr
    assert "The private images were held out" in result.stderr
    said = json.loads(result.stdout)
    assert said["records"][0]["protocol"]["resolved"]["data"]["trained_on"] is False
    assert said["accuracy"] == pytest.approx(11 / 12, abs=1e-5)
    folder = Path(said["folder"]) / "gmi"
    assert (folder / "report.html").exists()
    assert said["overview"] is None
    again = invoke(*arguments(*settings(**iterations), "--held-out", public="flat"))
    assert "0 stages to compute" in again.stdout
    assert str((folder.parent / "ATTACK" / "report.html").absolute()) in again.stdout.replace(
        "\n", ""
    )


def test_a_dry_run_in_a_process_of_its_own(place: Path) -> None:
    command = arguments("--dry-run", *settings(), attack="standard")
    done = subprocess.run(
        [sys.executable, "-m", "mibench", *command],
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is right on 91.7% of the 48 private images" in done.stdout
    assert "10 cells" in done.stdout
    assert not list(place.glob("store/reconstructions*"))


# -- twelve kinds of bad input ---------------------------------------------------------------------


def test_a_wrong_number_of_classes(place: Path) -> None:
    shutil.rmtree("private/person03")
    text = refused()
    assert "tells 4 classes apart, and the images are of 3 people" in text
    assert "--classes" in text


def test_a_missing_class(place: Path) -> None:
    shutil.rmtree("private/person02")
    Path("names.txt").write_text("person00\nperson01\nperson02\nperson03\n")
    assert "no picture of 1 of the network's 4 classes (person02)" in refused(classes="names.txt")
    Path("names.txt").write_text("person00\n\nperson03\n")
    assert "line 2 is empty" in refused(classes="names.txt")
    Path("names.txt").write_text("person00\nperson00\n")
    assert "'person00' stands there twice" in refused(classes="names.txt")
    assert "names.txt: there is no such file" in refused(classes="no/names.txt")


def test_an_empty_class(place: Path) -> None:
    for picture in Path("private/person01").iterdir():
        picture.unlink()
    text = refused()
    assert "person01: no image in this folder" in text
    assert "--images" in text


def test_outputs_that_are_no_numbers(place: Path) -> None:
    weights = load_file("weights.safetensors")
    weights["head.bias"][0] = float("nan")
    save_file(weights, "nan.safetensors")
    assert "answers values that are not finite" in refused(weights="nan.safetensors")


def test_logits_of_another_shape(place: Path) -> None:
    source = Path("model.py").read_text()
    maps = "class Maps(Net):\n    def forward(self, images):\n        return self.body[0](images)\n"
    Path("maps.py").write_text(source + "\n\n" + maps)
    text = refused(model="maps.py:Maps")
    assert (
        "answers float32 of shape (3, 16, 16, 16) for 3 images: wanted is a tensor (3, 4)" in text
    )


def test_a_network_in_train_mode(place: Path) -> None:
    """One that was exported so stays so; one that was built is put into evaluation mode."""
    space: dict[str, Any] = {}
    exec(Path("model.py").read_text(), space)
    torch.jit.trace(space["loaded"]().train(), torch.rand(4, 3, 32, 32), check_trace=False).save(
        "trained.pt"
    )
    text = refused(model="trained.pt", weights=None)
    assert "dropout is active, as in train mode" in text
    assert "model.eval()" in text


def test_private_images_that_are_public(place: Path) -> None:
    shutil.copy("private/person00/000.png", "public/public01/holiday.png")
    text = refused()
    assert "1 pictures of --public public are also in --images private" in text
    assert "person00/000.png is public01/holiday.png" in text


def test_public_people_of_private_names_are_warned_of(place: Path) -> None:
    shutil.move("public/public01", "public/Person00")
    result = invoke(*arguments("--dry-run", *settings()))
    assert result.exit_code == 0, result.stderr
    assert "1 people of --public are called as some whom --images shows (Person00)" in result.stderr


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_weights_with_code(place: Path) -> None:
    torch.save({"state_dict": {}, "more": Code()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Code()))
    for name in ("evil.pth", "plain.pth"):
        text = refused(weights=name)
        assert f"{name} is not read" in text
        assert "safetensors.torch.save_file" in text
    assert not Path("ran").exists()


def test_damaged_weights(place: Path) -> None:
    whole = Path("weights.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    assert "cut.safetensors is not read: it is damaged" in refused(weights="cut.safetensors")
    whole = Path("weights.pth").read_bytes()
    Path("cut.pth").write_bytes(whole[: len(whole) // 2])
    assert "cut.pth is not read: it is damaged" in refused(weights="cut.pth")


COLOURS = """
import torch
from torch import nn


class Colours(nn.Module):
    def forward(self, images):
        return 10 * images.mean((2, 3))
"""


def test_a_wrong_order_of_channels(place: Path) -> None:
    """It takes the red for the blue, and the blue for the red."""
    for number, name in enumerate(("blue", "green", "red")):
        for shade in range(12):
            pixel = [20, 20, 20]
            pixel[2 - number] = 150 + 8 * shade
            Path("seen", name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), tuple(pixel)).save(f"seen/{name}/{shade:02d}.png")
    Path("colours.py").write_text(COLOURS)
    own = {"model": "colours.py:Colours", "weights": None, "images": "seen"}
    text = refused("--mean", "0", "0", "0", "--std", "1", "1", "1", std=None, **own)
    assert "is right on 33.3% of the 36 private images, guessing on 33.3%" in text
    assert "--channels bgr" in text
    plain = ["--mean", "0", "0", "0", "--std", "1", "1", "1", "--channels", "bgr", "--dry-run"]
    result = invoke(*arguments(*settings(), *plain, std=None, **own))
    assert result.exit_code == 0, result.stderr
    assert "is right on 100.0%" in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [("Signed", "return (images + 1) / 2"), ("Bytes", "divide by 255"), ("Nan", "not finite")],
)
def test_a_prior_of_another_range(place: Path, name: str, message: str) -> None:
    assert message in refused(prior=f"prior.py:{name}", attack="ppa")


# -- what else is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"images": "nowhere"}, [], "--images nowhere: there is no such folder or file"),
        ({"public": "nowhere"}, [], "--public nowhere: there is no such folder or file"),
        ({"model": "resnet_none"}, [], "is no timm architecture"),
        ({"attack": "gmii"}, [], "unknown attack 'gmii'"),
        ({}, ["--access", "black-box"], "--access is for --attack standard"),
        ({}, ["--set", "target.epochs=1"], "nobody trains it here"),
        ({"prior": "gan"}, [], "prior"),
        ({"model": "model.py:absent"}, [], "no function 'absent'"),
        ({"answers": "scores"}, [], "`weights` are for"),
    ],
)
def test_other_requests(
    place: Path, changes: dict[str, str], more: list[str], message: str
) -> None:
    assert message in refused(*more, **changes)


def test_a_network_that_knows_nobody(place: Path) -> None:
    """Its classes stand for others; the message names them."""
    Path("names.txt").write_text("person01\nperson02\nperson03\nperson00\n")
    text = refused(classes="names.txt")
    assert "tells them apart but calls them otherwise" in text
    assert "its class 0 is 'person00'" in text
