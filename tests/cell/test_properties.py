"""Whatever is asked for is refused with a message that names what is wrong, or work starts.

Requests are generated: values for every field of every registered method and protocol, grid files,
options. Nothing is computed: each example stops before the first stage.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import os
import shlex
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import mibench
from mibench.cell.request import Request, command_of, make_request
from mibench.cell.resolve import Cell, resolve
from mibench.cli import cli
from mibench.data.folder import FolderOptions
from mibench.errors import RequestError
from mibench.grid.grid import MOST_CELLS, expand, read_grids
from mibench.inversion.attack import ATTACKS
from mibench.models import initialisation
from mibench.models.initialisation import Initialisation
from mibench.names import AttackName
from mibench.protocols import PROTOCOLS, Protocol, folder_protocol
from mibench.settings import parse_setting, shown, write_setting
from mibench.training.defense import DEFENSES
from mibench.types import canonical_json
from tests.kit.methods import attack_names

QUICK = settings(
    max_examples=120,
    deadline=60_000,  # a hang is a failure; machines that do other things are slow
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=2_000, derandomize=False, print_blob=True)
SLOW = pytest.mark.slow


class StartedError(Exception):
    """Work would start here."""


# --- values ---------------------------------------------------------------------------------------


def nested(depth: int) -> list[Any]:
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([10**9, 2**53, 2**63 - 1, 2**63, 10**400, -(10**400), 10**4000]),
    st.floats(),
    st.sampled_from([0.5, 1.0, 1e-300, 1e300, 5e-324, -0.0, math.inf, -math.inf, math.nan]),
)
ODD_TEXTS = (
    *("", "nan", "inf", "1e999", "Infinity", "null", "true", "5", " 5 ", "0x10", "1_000", "²", "٣"),
    *(
        "a\0b",
        "\n",
        "~nouser/x",
        "../../x",
        "[bold]x[/]",
        "$\\frac$",
        "=1+1",
        "\ud800",
        "x" * 20_000,
    ),
    *("resnet18", "test_resnet", "adam", "hinge", "flow", "vmap"),
)
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
FOREIGN = st.sampled_from(
    (
        *(nested(2000), nested(20), [0] * 20_000, {1: 2}, {"a": {3}}, (1, 2), b"5", {4}, object()),
        *(datetime.date(2020, 1, 1), np.int64(3), np.float32(2), Path("x"), range(3), float, 2j),
    )
)
VALUES = st.one_of(NUMBERS, NUMBERS, JSON, FOREIGN)


# --- every field of every method and protocol -----------------------------------------------------

CARDS: dict[str, Protocol] = {**PROTOCOLS, "folder": folder_protocol(FolderOptions())}
ATTACK_NAMES, DEFENSE_NAMES = attack_names(), DEFENSES.names()
ASKING = [n for n in ATTACK_NAMES if ATTACKS.get(AttackName.parse(n).base).access != "white-box"]


def field_paths(config: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    """Each field's dotted path, also those that hold others, with its value."""
    for name, value in config:
        yield prefix + name, value
        if isinstance(value, BaseModel):
            yield from field_paths(value, f"{prefix}{name}.")


@functools.cache
def paths_of(protocol: str, attack: str, defense: str) -> tuple[str, ...]:
    base = AttackName.parse(attack).base
    card = CARDS[protocol]
    parts = {
        "protocol": card,
        "target": card.training,
        "defense": DEFENSES.get(defense).Config(),
        "attack": ATTACKS.get(base).Config(),
    }
    found = [path for part, config in parts.items() for path, _ in field_paths(config, f"{part}.")]
    return (*found, "protocol.min_images", "protocol.", "attack.zzz", "target", "x.y", "")


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request, right but for the values of some fields."""
    protocol = draw(st.sampled_from(sorted(CARDS)))
    defense = draw(st.sampled_from(DEFENSE_NAMES))
    filters = DEFENSES.get(defense).filters()
    attack = draw(st.sampled_from(ASKING if filters else ATTACK_NAMES))
    paths = st.sampled_from(paths_of(protocol, attack, defense))
    return {
        "protocol": protocol,
        "attack": attack,
        "defense": defense,
        "root": "." if protocol == "folder" else None,
        "seed": draw(st.integers(0, 2**63 - 1)),
        "budget": draw(st.sampled_from([1, 0.01, 5e-324])),
        "overrides": draw(st.dictionaries(paths, VALUES, min_size=1, max_size=2)),
    }


def fits(config: BaseModel) -> None:
    """Every number is finite, and the configuration is valid and is JSON."""

    def finite(value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for each in value.values() if isinstance(value, dict) else value:
                finite(each)
        elif isinstance(value, float):
            assert math.isfinite(value)

    finite(config.model_dump())
    assert type(config).model_validate(config.model_dump()) == config
    canonical_json(config.model_dump(mode="json"))
    json.loads(config.model_dump_json())


def check_cell(cell: Cell) -> None:
    """What a request resolved to can be run, recorded and asked for again."""
    configs = (cell.protocol, cell.training, cell.defense_config, cell.attack_config)
    for config in (*configs, cell.prior_config):
        fits(config)
    for part in ("protocol", "target", "defense", "attack", "prior"):
        canonical_json(cell.passed(part))
    assert Request.model_validate_json(cell.request.model_dump_json()) == cell.request
    words = iter(shlex.split(command_of(cell.request))[2:])
    asked = dict(parse_setting(next(words)) for word in words if word == "--set")
    assert canonical_json(asked) == canonical_json(cell.request.overrides)


def at_hand(architecture: str, how: Initialisation, resolution: int) -> str:
    """As if timm's weights were on this machine."""
    if how.source == "imagenet":
        return "0" * 64
    return initialisation.check_initialisation(architecture, how, resolution)


def check_request(fields: dict[str, Any]) -> None:
    overrides = fields["overrides"]
    with patch("mibench.cell.resolve.check_initialisation", at_hand):
        try:
            cell = resolve(make_request(**fields))
        except RequestError as error:
            message = str(error)
            assert 0 < len(message) < 8_000
            words = [path.strip(".").rpartition(".")[2] for path in overrides]
            words += [str(value)[:40] for value in overrides.values() if isinstance(value, str)]
            words += [path.split(".")[0] for path in overrides]
            assert any(word in message for word in words), message
        else:
            check_cell(cell)


@QUICK
@given(requests())
def test_every_field_takes_a_value_or_refuses_it(fields: dict[str, Any]) -> None:
    check_request(fields)


@SLOW
@LONG
@given(requests())
def test_every_field_takes_a_value_or_refuses_it_at_length(fields: dict[str, Any]) -> None:
    check_request(fields)


def numeric(config: type[BaseModel], where: str) -> Iterator[tuple[str, set[type]]]:
    """Each numeric field's path, with the kinds of its bounds."""

    def walk(kind: Any, bounds: set[type], path: str) -> Iterator[tuple[str, set[type]]]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numeric(kind, path)
        elif kind in (int, float):
            yield path, bounds
        elif typing.get_origin(kind) is Annotated:
            kind, *notes = typing.get_args(kind)
            held = [each for note in notes for each in getattr(note, "metadata", [note])]
            yield from walk(kind, bounds | set(map(type, held)), path)
        else:
            either = typing.get_origin(kind) in (typing.Union, types.UnionType)
            for part in typing.get_args(kind):
                yield from walk(part, bounds if either else set(), path)

    for name, info in config.model_fields.items():
        yield from walk(info.annotation, set(map(type, info.metadata)), f"{where}.{name}")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *[(name, ATTACKS.get(name).Config) for name in ATTACKS.names()],
        *[(name, DEFENSES.get(name).Config) for name in DEFENSES.names()],
        ("protocol", Protocol),
        ("request", Request),
    ],
)
def test_every_numeric_field_is_bounded_on_both_sides(name: str, config: type[BaseModel]) -> None:
    for path, bounds in numeric(config, name):
        assert {Ge, Gt} & bounds, f"{path} has no least value"
        assert {Le, Lt} & bounds, f"{path} has no largest value"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("target.learning_rate=1e999", "target.learning_rate: inf is no finite number"),
        ("target.learning_rate=Infinity", "finite"),
        ("target.epochs=nan", "finite"),
        ("target.epochs=true", "true is not a number"),
        ("attack.coupled=1", "1 is not true or false"),
        ("attack.iterations=" + "9" * 5000, "a number of 5,000 digits is too long"),
        ("attack.iterations=10000000000", "attack.iterations: Input should be less than"),
        ("prior.gan.latent=1000000000000", "less than or equal to 65536"),
        ("attack.iterations=" + "[" * 5000, "nested"),
        ("attack.identity={} attack.identity.eot=2", "it lies in attack.identity"),
        ("attack.identity=3 attack.identity.eot=2", "it lies in attack.identity"),
        ("protocol.attacks={}", "set the method's own fields"),
    ],
)
def test_settings_that_were_accepted_or_broke(setting: str, said: str) -> None:
    def ask() -> None:
        overrides = dict(map(parse_setting, setting.split(" ")))
        protocol = "synthfaces-64" if "protocol" in setting else "synthfaces-32"
        resolve(make_request(protocol=protocol, attack="kedmi", overrides=overrides))

    with pytest.raises(RequestError) as caught:
        ask()
    assert said in str(caught.value).replace("True", "true")


@QUICK
@given(st.text(min_size=1, max_size=10).filter(lambda t: t.strip() == t and "=" not in t), JSON)
def test_a_setting_is_read_as_it_was_written(path: str, value: Any) -> None:
    try:
        text = write_setting(path, value)
        read = parse_setting(text)
    except (RequestError, ValueError):  # no value of a setting
        with pytest.raises(RequestError):
            make_request(overrides={path: value})
        return
    assert read == (path, value)
    assert canonical_json(read[1]) == canonical_json(value)


# --- a request as Python and the command line make it ---------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with things of all kinds in it, where work stops before it starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIBENCH_STORE", str(tmp_path / "kept"))
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()

    def started(*_: Any, **__: Any) -> None:
        raise StartedError

    monkeypatch.setattr("mibench.cell.run.divide", started)
    monkeypatch.setattr("mibench.grid.plan.divide", started)
    return tmp_path


ODD_PLACES = (
    *("", "new", "new/er", "folder", "file", "file/x", "fifo", "dangling", "loop", ".", "-"),
    *(
        "~nouser",
        "~nouser/x",
        "a\0b",
        "x" * 300,
        ("x" * 100 + "/") * 60,
        "/dev/null",
        "/dev/null/x",
    ),
    *("/dev/zero", "/proc/x", "\udcff", "[red]x", "\n"),
)
ODD_NAMES = (
    *("none", "bido", "gmi", "improved-kedmi", "gmi+lom", "gmi+", "improved-", "+", ":", ".py"),
    *("synthfaces-32", "folder", "mnist-32", "resnet18", "test_resnet", "x" * 9999),
    *("file.py:X", "~nouser/x.py:X", "a\0.py:X", "fifo:X", "folder.py:X", "/dev/zero.py:X"),
)
ODD_DEVICES = (
    *("cpu", "auto", "cuda", "cuda:0", "mps", "xla", "xpu", "meta", "hpu", "vulkan", "cpu:7"),
    *("cuda:-1", "cuda:99999999999", "CUDA", "cuda:", "cuda:1:2", "gpu", "cpu ", "cuda:٣", ""),
)
PLACES = st.sampled_from(ODD_PLACES) | st.text(max_size=8).filter(
    lambda text: not text.startswith(("/", ".", "~"))
)
NAMES = st.sampled_from(ODD_NAMES) | TEXTS | PLACES


# Python reads and writes no integer of more than 4,300 digits.
FIGURES = NUMBERS.map(str) | TEXTS | st.just("9" * 5000)
SETTINGS = TEXTS | st.tuples(
    st.sampled_from(["target.epochs", "attack.iterations", "defense.x", "protocol.samples"]),
    FIGURES | st.sampled_from(["[" * 3000, '{"a":' * 3000, "1e999", "{}", "[1"]),
).map("=".join)
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    **dict.fromkeys(("--protocol", "--target", "--defense", "--attack"), NAMES),
    **dict.fromkeys(("--root", "--data", "--store", "--out"), PLACES),
    **dict.fromkeys(("--seed", "--budget"), FIGURES),
    "--device": st.sampled_from(ODD_DEVICES) | TEXTS,
    "--set": SETTINGS,
}
GRID_OPTIONS: dict[str, st.SearchStrategy[str]] = {
    **{f"{name}s": strategy for name, strategy in OPTIONS.items() if strategy is NAMES},
    **{name: OPTIONS[name] for name in ("--root", "--data", "--store", "--out", "--device")},
    **{name: OPTIONS[name] for name in ("--budget", "--set")},
    "--seeds": FIGURES | st.sampled_from(["0-3000000", "0-" + "9" * 30, "3-1", "1,,2", "-1", "²"]),
    "--sweep": SETTINGS.map("bido:{}".format) | TEXTS,
    "--workers": FIGURES,
    "--threads": FIGURES,
}
del GRID_OPTIONS["--protocols"]


def drawn(options: dict[str, st.SearchStrategy[str]], most: int) -> st.SearchStrategy[list[str]]:
    """Some of the options, each with a value, as a command line has them."""
    pairs = st.sampled_from(sorted(options)).flatmap(
        lambda name: options[name].map(lambda value: f"{name}={value}")
    )
    return st.lists(pairs, min_size=1, max_size=most)


def check_command(command: str, arguments: list[str], place: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    result = CliRunner().invoke(cli, [command, *arguments])
    if isinstance(result.exception, StartedError):
        return
    if isinstance(result.exception, SystemExit) and result.exit_code == 0:
        assert "--help" in " ".join(arguments) or command == "grid", result.output
        return
    assert isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert result.exit_code == 2, (arguments, result.output)
    assert "rror: " in result.stderr
    assert len(result.stderr) < 50_000  # click repeats a text of 20,000 characters
    after = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    assert after == before, "a refused request wrote something"


@QUICK
@given(arguments=drawn(OPTIONS, 3))
def test_options_of_run_start_work_or_are_refused(place: Path, arguments: list[str]) -> None:
    check_command("run", arguments, place)


@QUICK
@given(arguments=drawn(GRID_OPTIONS, 3))
def test_options_of_grid_start_work_or_are_refused(place: Path, arguments: list[str]) -> None:
    check_command("grid", ["--dry-run", *arguments], place)


@SLOW
@LONG
@given(arguments=drawn(OPTIONS, 4))
def test_options_of_run_at_length(place: Path, arguments: list[str]) -> None:
    check_command("run", arguments, place)


@SLOW
@LONG
@given(arguments=drawn(GRID_OPTIONS, 4))
def test_options_of_grid_at_length(place: Path, arguments: list[str]) -> None:
    check_command("grid", ["--dry-run", *arguments], place)


PYTHON: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("protocol", "target", "defense", "attack", "device"), NAMES | VALUES),
    **dict.fromkeys(("seed", "budget"), VALUES),
    **dict.fromkeys(("root", "data", "store", "out"), PLACES),
    "overrides": st.one_of(VALUES, st.dictionaries(TEXTS, VALUES, max_size=2)),
}


def check_call(name: str, value: Any) -> None:
    with contextlib.suppress(RequestError, StartedError):
        mibench.run(**{name: value})


@QUICK
@given(data=st.data())
def test_arguments_in_python_start_work_or_are_refused(place: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PYTHON)))
    check_call(name, data.draw(PYTHON[name]))


@SLOW
@LONG
@given(data=st.data())
def test_arguments_in_python_at_length(place: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PYTHON)))
    check_call(name, data.draw(PYTHON[name]))


@pytest.mark.parametrize("seed", [-1, 2**63, 10**5000, True, "0", 1.5, None], ids=shown)
def test_a_seed_is_a_number_of_63_bits(place: Path, seed: Any) -> None:
    """Two seeds never give one stream: the whole number enters it."""
    with pytest.raises(RequestError, match="seed"):
        mibench.run(seed=seed)
    for fit in (0, 2**63 - 1):
        assert make_request(seed=fit).seed == fit


@pytest.mark.parametrize("device", ODD_DEVICES)
def test_a_device_is_there_or_refused_at_once(place: Path, device: str) -> None:
    import torch

    there = {"cpu", "auto"}
    there |= {"cuda", "cuda:0"} if torch.cuda.is_available() else set()
    there |= {"mps"} if torch.backends.mps.is_available() else set()
    result = CliRunner().invoke(cli, ["run", "--device", device])
    if device in there:
        assert isinstance(result.exception, StartedError)
    else:
        assert result.exit_code == 2
        assert "--device" in result.stderr
        assert not (place / "kept").exists()
        grid = CliRunner().invoke(cli, ["grid", "--device", device, "--dry-run"])
        assert grid.exit_code == 2
        assert not (place / "kept").exists()


# --- grid files -----------------------------------------------------------------------------------

VALID = """
protocol = "synthfaces-32"
attacks = ["kedmi", "improved-kedmi"]
defenses = ["none", "bido"]
seeds = "0-2"
controls = true
[set]
"attack.iterations" = 100
[sweeps.bido]
"defense.scale" = [0, 1, 2, 5]
[[override]]
attack = "kedmi"
set = { "attack.learning_rate" = 0.5 }
[[grid]]
targets = ["resnet18"]
[[grid]]
seeds = [7]
"""
PIECES = st.sampled_from(
    (
        *("[", "]", "{", "}", '"', "'", "=", "\n", "#", ".", ",", "\ufeff", "\0", "\x80", "²", "-"),
        *(
            "1e999",
            "nan",
            "inf",
            "-1",
            "9" * 5000,
            "9" * 30,
            "0x",
            "1979-05-27",
            "07:32:00",
            "true",
        ),
        *(
            "{}",
            "[]",
            "[[grid]]",
            "[grid]",
            "[" * 3000,
            "[[override]]\n",
            "grid = [1]",
            "0-3000000",
        ),
        *("seeds = [-1]\n", "[sweeps]\n", "set = 3\n", "[set.a.b]\n", 'attacks = "gmi"\n'),
    )
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A grid file that is right but for some places where something was put in or taken away."""
    text = VALID
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 5, 20])))
        text = text[:start] + draw(st.one_of(PIECES, st.just(""), st.text(max_size=5))) + text[end:]
    data = text.encode("utf-8", "surrogatepass")
    return data.replace(b"\xc2\x80", b"\x80") if draw(st.booleans()) else data


def toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return "nan" if value is None else str(value)


FIELDS = ("protocol", "root", "data", "budget", "targets", "defenses", "attacks", "seeds", "atacks")
FIELDS = (*FIELDS, "controls", "sweeps", "set", "override", "grid", "")


@st.composite
def mistyped(draw: st.DrawFn) -> bytes:
    """A grid file whose fields have values of any type."""
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
    return "".join(f"{json.dumps(k)} = {toml(v)}\n" for k, v in fields.items()).encode(
        "utf-8", "surrogatepass"
    )


def check_file(place: Path, data: bytes) -> None:
    file = place / "grid.toml"
    file.write_bytes(data)
    try:
        grids = read_grids(file)
    except RequestError as error:
        message = str(error)
        assert str(file) in message
        assert len(message) < 10_000
        return
    with contextlib.suppress(RequestError):
        specs = expand(grids)
        assert len(specs) <= MOST_CELLS * len(grids)
        for spec in specs[:2]:
            canonical_json(spec.model_dump(mode="json"))
            check_cell(resolve(spec))


@QUICK
@given(data=damaged() | mistyped())
def test_grid_files_hold_cells_or_are_refused(place: Path, data: bytes) -> None:
    check_file(place, data)


@SLOW
@LONG
@given(data=damaged() | mistyped())
def test_grid_files_at_length(place: Path, data: bytes) -> None:
    check_file(place, data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ufeff" + VALID, "byte-order mark"),
        ("seeds = " + "9" * 5000, "is no TOML"),
        ("seeds = " + "[" * 5000, "nested too deeply"),
        ("seeds = [-1]", "seeds.0"),
        ('seeds = "0-3000000"', "more than 10,000"),
        ("seeds = [true]", "seeds.0"),
        ("grid = [1]", "two brackets"),
        ("[set]\nattack.iterations = 3", 'in quotes, as "attack.iterations"'),
        ('[set]\n"target.epochs" = 1979-05-27', "a date"),
        ('[set]\n"target.epochs" = inf', "set.target.epochs: inf is no finite number"),
        ('[[override]]\natack = "gmi"\nset = {}', "did you mean 'attack'"),
        ('attacks=["gmi"]\n[[override]]\nattack="gmi+lom"\nset={}', "override 1 matches no cell"),
        ("[[override]]\nseed = 3\nset = {}", "the grid has no seed 3"),
        ("attacks = []", "attacks"),
        ("a = 1\na = 2", "is no TOML"),
        ('defenses=["bido"]\n[sweeps.bido]\n"defense.scale" = []', "a list of values"),
        ('defenses=["bido"]\n[sweeps.bido]\n"defense.scale" = [nan]', "no finite number"),
    ],
)
def test_grid_files_that_broke_or_were_accepted(place: Path, text: str, said: str) -> None:
    (place / "grid.toml").write_text(text)
    result = CliRunner().invoke(cli, ["grid", str(place / "grid.toml"), "--dry-run"])
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_an_override_above_several_grids_may_match_one_of_them(place: Path) -> None:
    (place / "grid.toml").write_text(
        '[[override]]\nattack = "gmi"\nset = {}\n'
        '[[grid]]\nattacks = ["gmi"]\n[[grid]]\nattacks = ["vmi"]\n'
    )
    assert len(expand(read_grids(place / "grid.toml"))) == 2


@pytest.mark.parametrize("name", ["fifo", "folder", "/dev/zero", "absent", "~nouser/x", "dangling"])
def test_a_grid_file_is_a_file(place: Path, name: str) -> None:
    result = CliRunner().invoke(cli, ["grid", name, "--dry-run"])
    assert result.exit_code == 2, result.output
    assert "the grid file" in result.stderr


def test_too_many_cells_are_refused(place: Path) -> None:
    result = CliRunner().invoke(cli, ["grid", "--seeds", "0-9999", "--attacks", "gmi,vmi"])
    assert result.exit_code == 2
    assert "20,000 cells" in result.stderr


# --- what is refused without importing anything slow ----------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["list", "attacks"], 0),
        (["list", "defenses", "--json"], 0),
        (["list", "priors"], 0),
        (["list", "sources"], 0),
        (["list", "judges"], 0),
        (["list", "protocols"], 0),
        (["list", "metrics"], 0),
        (["run", "--attack", "kedmo"], 2),
        (["run", "--defense", "bidoo"], 2),
        (["run", "--protocol", "synthfaces32"], 2),
        (["run", "--device", "xla"], 2),
        (["run", "--set", "iterations"], 2),
        (["grid", "--attacks", "gmi,kedmo"], 2),
        (["grid", "--seeds", "0-3000000"], 2),
        (["info", "kedmo"], 2),
        (["info", "kedmi", "--protocol", "synthfaces32"], 2),
        (["store", "gc", "--older-than", "nan"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_typos_and_listings_import_nothing_slow(arguments: list[str], code: int) -> None:
    script = (
        "import sys, time\n"
        f"sys.argv = ['mibench', *{arguments!r}]\n"
        "from mibench.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    slow = {'torch', 'timm', 'opacus', 'pandas', 'numpy', 'scipy', 'matplotlib'}\n"
        "    print(sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert "Traceback" not in done.stderr
