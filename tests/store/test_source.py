"""What counts as the code of a result, and what does not."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import sys
import textwrap
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mibench.cell.graph import Graph
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.errors import MibenchError
from mibench.inversion.attack import ATTACKS
from mibench.protocols import Protocol
from mibench.store import source
from mibench.store.source import code_digest, outside_digest
from mibench.training.defense import DEFENSES
from tests.kit.cells import graph, graph_of

ROOT = Path(__file__).resolve().parents[2]

PLAIN = """
import os
class Net:
    rate: float = 0.1
    def scale(self, x):
        if x:
            return x * 2
        return {"a": 1}
"""
SAME = [
    PLAIN.replace("import os", '"""Module."""\n# comment\n\n\nimport os  # why'),
    PLAIN.replace("class Net:", 'class Net:\n    """Doc."""'),
    PLAIN.replace("= 0.1", '= 0.1\n    """What the rate is."""'),
    PLAIN.replace("(self, x):", '(\n        self,\n        x,\n    ):\n        """Doc."""'),
    PLAIN.replace('{"a": 1}', "{\n            'a': (1),\n        }"),
]
DIFFERENT = [
    PLAIN.replace("* 2", "* 3"),
    PLAIN.replace("0.1", "0.2"),
    PLAIN.replace("x", "y"),
    PLAIN.replace("import os", "import sys"),
    PLAIN.replace('"a"', '"b"'),
    PLAIN.replace("    if x:\n            return", "    if x:\n            yield"),
]


@pytest.mark.parametrize("text", SAME)
def test_what_does_not_run_does_not_count(text: str) -> None:
    assert text != PLAIN
    assert normalised_source(text) == normalised_source(PLAIN)


def normalised_source(text: str) -> str:
    return ast.unparse(source._normalised(ast.parse(text)))


@pytest.mark.parametrize("text", DIFFERENT)
def test_what_runs_counts(text: str) -> None:
    assert text != PLAIN
    assert normalised_source(text) != normalised_source(PLAIN)


def test_a_body_of_documentation_only() -> None:
    documented = normalised_source('class Error(Exception):\n    """Doc."""\n')
    assert documented == normalised_source("class Error(Exception):\n    pass\n")


READERS = [
    'card = AttackCard(title="A", year={0}, deviations=("one", "two"))',
    'card: ClassVar[DefenseCard] = types.DefenseCard(title="{0}")',
    'rate = Field(0.5, gt=0, description="text {0}")',
    'raise RequestError(f"no {{name!r}}: text {0}")',
    'raise ValueError("text {0}") from error',
    'assert rate > 0, "text {0}"',
    'METRICS = {{"top1": _info("Title {0}", "unit", HIGHER, _GMI, "text {0}")}}',
]


@pytest.mark.parametrize("text", READERS)
def test_what_only_readers_see_does_not_count(text: str) -> None:
    assert normalised_source(text.format(1)) == normalised_source(text.format(2))


RESULTS = [
    "rate = Field(0.{0}, description='text')",
    "strength = Field(1, description='text', ge={0})",
    'raise DivergedError("text {0}")',  # a record states it
    'raise MibenchError("text {0}")',  # a metric's reason may be made of it
    "raise RequestError(measure({0}))",
    'reason = missing("text {0}")',
    'METRICS = {{"top{0}": _info("Title", "unit", HIGHER, _GMI, "text")}}',
    "card = AttackCard(year={0})\ndef seed(self):\n    return self.card.year",
    "cards = [AttackCard(year={0})]",
]


@pytest.mark.parametrize("text", RESULTS)
def test_what_may_come_into_a_result_counts(text: str) -> None:
    assert normalised_source(text.format(1)) != normalised_source(text.format(2))


# Modules of someone else


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if name.startswith("mibench_file_") or (path and tmp_path in Path(path).parents):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


# Ways to come to `WEIGHT` in helper.py, or in part/helper.py.
WAYS = {
    "from": "from helper import WEIGHT",
    "import": "import helper",
    "as": "import helper as h",
    "star": "from helper import *",
    "inside a function": "def loss(): from helper import WEIGHT",
    "inside a method": "class A:\n    def loss(self):\n        import helper",
    "conditional": "if True:\n    import helper",
    "tried": "try:\n    import helper\nexcept ImportError:\n    helper = None",
    "by text": "import importlib\nh = importlib.import_module('helper')",
    "by __import__": "h = __import__('helper')",
    "a package's part": "from part.helper import WEIGHT",
    "a part of a package": "from part import helper",
    "dotted": "import part.helper",
    "over another": "import other",
    "over another's relative import": "import part.other",
}


@pytest.mark.parametrize("package", [True, False], ids=["package", "folder"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_helpers_count_however_they_are_imported(folder: Path, way: str, package: bool) -> None:
    def digests(weight: int) -> tuple[str, str | None]:
        for place in ("helper.py", "part/helper.py"):
            write(folder / place, f"WEIGHT = {weight}" + " " * weight)
        module = ModuleType("mine")
        module.__file__ = str(folder / "mine.py")
        sys.modules["mine"] = module
        mine = type("Mine", (), {"__module__": "mine"})
        return code_digest(mine), outside_digest(mine)

    write(folder / "mine.py", way)
    write(folder / "other.py", "def f(): import helper")
    write(folder / "part/other.py", "def f(): from . import helper")
    if package:
        write(folder / "part/__init__.py", "")
    first, second = digests(1), digests(2)
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert "helper" not in sys.modules, "nothing is imported to be digested"
    assert first == digests(1)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_pip_put_into_a_folder_is_installed(folder: Path, recorded: bool) -> None:
    """As by ``pip install --target``; the ``.egg-info`` of someone's checkout has no RECORD."""
    write(folder / "mine.py", "import helper\nfrom part import other")
    mine = type("Mine", (), {"__module__": "mine"})
    info = folder / ("gift-1.0.dist-info" if recorded else "gift.egg-info")
    write(info / ("METADATA" if recorded else "PKG-INFO"), "Name: gift\nVersion: 1.0\n")
    if recorded:
        write(info / "RECORD", "helper.py,,\npart/__init__.py,,\npart/other.py,,\n")

    def digested(weight: int) -> str | None:
        for place in ("helper.py", "part/__init__.py", "part/other.py"):
            write(folder / place, f"WEIGHT = {weight}" + " " * weight)
        return outside_digest(mine)

    assert (digested(1) == digested(2)) == recorded


def test_where_a_methods_file_lies_does_not_count(folder: Path) -> None:
    text = "from mibench.defenses.none import NoDefense\nclass Mine(NoDefense):\n    a = 1\n"
    digests = set()
    for place in ("a/mine.py", "b/yours.py"):
        cls = DEFENSES.get(f"{write(folder / place, text)}:Mine")
        digests.add((code_digest(cls), outside_digest(cls)))
    assert len(digests) == 1
    cls = DEFENSES.get(f"{write(folder / 'c/mine.py', text.replace('1', '2'))}:Mine")
    assert not {code_digest(cls), outside_digest(cls)} & set(next(iter(digests)))


def test_a_file_that_passes_a_class_on_counts(folder: Path) -> None:
    write(
        folder / "terms.py",
        "from mibench.training.defense import Defense\nclass Mine(Defense): pass",
    )

    def digests(text: str) -> tuple[str, str | None]:
        cls = DEFENSES.get(f"{write(folder / 'mine.py', text)}:Mine")
        also = DEFENSES.files_of(cls)
        return code_digest(cls, *also), outside_digest(cls, *also)

    plain = digests("from terms import Mine")
    assert plain != digests("from terms import Mine\nMine.rate = 2")
    assert plain == digests("from terms import Mine  # again")


def test_mibenchs_own_methods_have_no_outside_code() -> None:
    for registry in (ATTACKS, DEFENSES):
        for name in registry.names():
            assert outside_digest(registry.get(name)) is None


def test_versions_count_without_their_build(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict.fromkeys(("torch", "timm", "opacus"), "1.0")

    def digests() -> tuple[str, str]:
        source._version.cache_clear()
        return tuple(code_digest(DEFENSES.get(name)) for name in ("none", "dp-sgd"))

    usual = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found.get(name) or usual(name))
    first = digests()
    found["torch"] = "1.0+cu128"
    assert digests() == first
    for package in found:
        found[package] = "1.1"
        changed = digests()
        assert changed[1] != first[1], package
        assert (changed[0] != first[0]) == (package != "opacus")  # which `none` doesn't reach
        found[package] = "1.0"
    source._version.cache_clear()


def test_a_script_that_imports_all_of_mibench_can_be_read(folder: Path) -> None:
    write(folder / "script.py", "import mibench\nmibench.run(attack='gmi')")
    assert code_digest("script") == code_digest("script")
    write(folder / "cards.py", "from mibench import protocols\nprint(protocols.papers.CARDS)")
    assert code_digest("cards") != code_digest("script")


def test_what_may_be_absent_counts_when_it_is_there(folder: Path) -> None:
    write(folder / "mine.py", "try:\n    import a_gift\nexcept ImportError:\n    a_gift = None")
    mine = importlib.import_module("mine")
    before = code_digest("mine")
    write(folder / "a_gift.py", "x = 1")
    importlib.invalidate_caches()
    assert mine is sys.modules["mine"]
    assert code_digest("mine") != before


def test_loaded_code_keeps_its_digest(folder: Path) -> None:
    path = write(folder / "loaded_for_digest.py", "x = 1")
    importlib.import_module("loaded_for_digest")
    before = code_digest("loaded_for_digest")
    path.write_text("x = 22")
    assert code_digest("loaded_for_digest") == before
    del sys.modules["loaded_for_digest"]
    assert code_digest("loaded_for_digest") != before


def test_missing_and_broken_sources_are_named(folder: Path) -> None:
    with pytest.raises(MibenchError, match="no_such_module"):
        code_digest("mibench.no_such_module")
    write(folder / "broken_for_digest.py", "def f(:")
    with pytest.raises(MibenchError, match=r"broken_for_digest\.py"):
        code_digest("broken_for_digest")


# Keys of mibench's stages

JUDGING = {"references", "metrics"}
# An edit of a file, and the kinds of stages whose code it is.
EDITS = [
    ("cell/reconstructions.py", "_STATISTICS_IMAGES = 5000", "_STATISTICS_IMAGES = 2", "rec"),
    ("cell/evaluators.py", "stream(0, self.role", "stream(1, self.role", "judge"),
    ("cell/prior.py", 'stream(seed, "prior", kind', 'stream(seed, "p", kind', "general own"),
    ("cell/students.py", '"student", self', '"pupil", self', "student"),
    ("cell/target.py", "<= self.cell.protocol.chance_kappa", "< 0", "target"),
    ("cell/measures.py", "_LEAST_IMAGES = 100", "_LEAST_IMAGES = 99", "measures"),
    ("cell/picture.py", "_ROWS = 15", "_ROWS = 14", "picture"),
    ("cell/images.py", '"decoys")', '"decoys", "more")', "images"),
    ("training/students.py", '"batchmean"', '"mean"', "student rec"),
    (
        "training/loop.py",
        "height // 16",
        "height // 8",
        "target student judge rec measures",
    ),
    ("priors/_networks.py", "width * 2**stages", "width * 3**stages", "general own rec"),
    ("priors/gan.py", "10 * gradient_penalty", "9 * gradient_penalty", "general own rec"),
    (
        "judges/evaluators/_evaluator.py",
        "JUDGED_AT_ONCE = ",
        "JUDGED_AT_ONCE = 1 + ",
        "judge measures",
    ),
    ("judges/_templates.py", "_STEPS = 127", "_STEPS = 126", "judge measures"),
    ("models/freeze.py", "< 1e-3", "< 2e-3", "target student general own rec"),
    ("metrics/prdc.py", "PRDC_KEYS = ", "PRDC_KEYS = () or ", "measures"),
    ("assets/__init__.py", "value.float()", "value.double()", "general own judge measures"),
    ("inversion/identity.py", "config.eot if", "config.eot + 1 if", "rec"),
    ("models/access.py", "def scores(images", "def scores(*, images", "rec general own student"),
    ("streams.py", ">> 1", ">> 2", "images target student general own rec judge measures"),
    ("defenses/bido.py", "RIDGE = ", "RIDGE = 2 * ", "target"),
    ("defenses/mid.py", "class Mid", "class Mid2(Defense): pass\nclass Mid", ""),
    ("attacks/gmi.py", "class Gmi", "class Gmi2(Attack): pass\nclass Gmi", ""),
    ("data/synthfaces.py", "_NOISE = ", "_NOISE = 2 * ", "images"),
    ("progress.py", "yield step", "yield step + 0", ""),
    ("store/store.py", "2.0", "3.0", ""),
    ("metrics/catalogue.py", "A tie is not a hit.", "A tie is none.", ""),
    ("inversion/identity.py", "the improved objective", "the better one", ""),
    ("defenses/bido.py", "title=", "title='' + ", ""),
    ("protocols/small.py", "MNIST", "Digits", ""),
    ("errors.py", "exit_code = 1", "exit_code = 3", ""),
]
KINDS = {
    "images": {"data"},
    "target": {"target"},
    "student": {"student"},
    "general": {"general-prior"},
    "own": {"prior"},
    "rec": {"reconstructions"},
    "judge": {"evaluator"},
    "measures": {"references", "metrics"},
    "picture": {"picture"},
}


@pytest.mark.parametrize(("file", "old", "new", "words"), EDITS, ids=lambda value: str(value)[:24])
def test_keys_of_stages_hold_their_code_and_no_other(
    tiny: Protocol, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, words: str
) -> None:
    """An edit changes the keys of the stages that its code is reached from, and what follows."""
    place = ROOT / ("" if file.startswith(("attacks", "defenses")) else "mibench") / file
    text = place.read_text()
    assert old in text

    def codes(edited: str) -> dict[str, tuple[str, str]]:
        def read(name: str, path: Path) -> source._Module:
            if not path.samefile(place):
                return source._parsed(name, path, 0, 0)
            return source._parse(name, path, edited.encode())

        monkeypatch.setattr(source, "_PINNED", weakref.WeakKeyDictionary())
        monkeypatch.setattr(source, "_read_file", read)
        made = graph(protocol="tiny", attack="improved-kedmi", defense="bido")
        return {name: (stage.code, stage.key) for name, stage in made.stages.items()}

    before, after = codes(text), codes(text.replace(old, new))
    expected = {kind for word in words.split() for kind in KINDS[word]}
    changed = {name for name in before if before[name][0] != after[name][0]}
    assert {name.partition(" ")[0] for name in changed} - {"picture"} == expected - {"picture"}
    stages = graph(protocol="tiny", attack="improved-kedmi", defense="bido").stages
    for name, stage in stages.items():
        follows = bool({each.name for each in stage.lineage()} & changed)
        assert (before[name][1] != after[name][1]) == follows, name


def test_the_code_of_a_finished_cell_is_read_in_no_time(tiny: Protocol) -> None:
    cell = resolve(Request(protocol="tiny", attack="improved-kedmi", defense="bido"))
    made = graph_of(cell)
    _ = made.picture.key
    start = time.process_time()
    for _ in range(10):
        _ = Graph(made.cell, made.images.divided).picture.key
    assert (time.process_time() - start) / 10 < 0.1
