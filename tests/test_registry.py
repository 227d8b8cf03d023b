from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mibench
from mibench.errors import RequestError
from mibench.registry import Registry, closest


class Method:
    """Base class of the methods in these tests."""


PACKAGE = "methods_under_test"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, with a package of methods that use ``REGISTRY``."""
    (tmp_path / PACKAGE).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith((PACKAGE, "mibench_file_", "outside")):
            del sys.modules[name]


@pytest.fixture
def registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Method]:
    result: Registry[Method] = Registry("attack", Method, PACKAGE, "mibench.tests")
    monkeypatch.setattr(mibench, "REGISTRY", result, raising=False)
    monkeypatch.setattr(mibench, "Method", Method, raising=False)
    return result


def source(name: str | None, cls: str = "Mine", base: str = "Method", extra: str = "") -> str:
    decorator = f'@REGISTRY.register("{name}")\n' if name else ""
    return (
        f"from mibench import REGISTRY, Method\n{decorator}class {cls}({base}):\n    pass\n{extra}"
    )


def add(folder: Path, stem: str, text: str) -> Path:
    path = folder / PACKAGE / f"{stem}.py"
    path.write_text(text)
    return path


def entry_point(folder: Path, package: str, name: str, value: str) -> None:
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mibench.tests]\n{name} = {value}\n")


def test_lazy(registry: Registry[Method], folder: Path) -> None:
    add(folder, "dp_sgd", source("dp-sgd", "DpSgd"))
    add(folder, "broken", "1 / 0")
    add(folder, "_shared", "1 / 0")
    assert registry.names() == ["broken", "dp-sgd"]
    assert not [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]
    cls = registry.get("dp-sgd")
    assert cls.__name__ == "DpSgd"
    assert registry.get("dp-sgd") is cls
    assert f"{PACKAGE}.broken" not in sys.modules
    for _ in range(2):
        with pytest.raises(RequestError, match=r"broken.*ZeroDivisionError.*broken\.py, line 1"):
            registry.get("broken")


def test_missing_package_has_no_names() -> None:
    assert Registry("attack", Method, "mibench.no_such", "mibench.tests").names() == []


def test_unknown_name(registry: Registry[Method], folder: Path) -> None:
    add(folder, "kedmi", source("kedmi"))
    add(folder, "gmi", source("gmi"))
    with pytest.raises(
        RequestError, match=r"unknown attack 'kedmy'; did you mean 'kedmi'\? Known: gmi, kedmi"
    ) as caught:
        registry.get("kedmy")
    assert caught.value.exit_code == 2
    with pytest.raises(RequestError) as caught:
        registry.get("zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_closest() -> None:
    assert closest("DP_SGD", ["dp-sgd", "mid"]) == "did you mean 'dp-sgd'?"
    assert closest("iterationz", ["iterations", "restarts"]) == "did you mean 'iterations'?"
    assert closest("learning_rat", ["learning_rate"]) == "did you mean 'learning_rate'?"
    assert closest("q", ["iterations"]) == ""


def test_module_must_register_its_name(registry: Registry[Method], folder: Path) -> None:
    add(folder, "silent", source(None))
    with pytest.raises(RequestError, match="did not register 'silent'"):
        registry.get("silent")
    add(folder, "dp_sgd", source("dpsgd"))
    with pytest.raises(RequestError, match=r"registers 'dpsgd', but its file names 'dp-sgd'"):
        registry.get("dp-sgd")


def test_duplicates_are_refused(registry: Registry[Method]) -> None:
    @registry.register("twin")
    class First(Method):
        pass

    with pytest.raises(RequestError, match=r"First and .*Second"):

        @registry.register("twin")
        class Second(Method):
            pass

    assert registry.register("twin")(First) is First
    assert registry.get("twin") is First
    assert registry.names() == ["twin"]


@pytest.mark.parametrize("name", ["Kedmi", "a_b", "a--b", "", "a+b", "x.py:Y"])
def test_malformed_names(registry: Registry[Method], name: str) -> None:
    with pytest.raises(RequestError, match="cannot name"):
        registry.register(name)(type("Mine", (Method,), {}))


def test_wrong_base(registry: Registry[Method]) -> None:
    for cls in (int, Method):
        with pytest.raises(RequestError, match=r"is no attack: it must extend .*Method"):
            registry.register("number")(cls)


def test_entry_points(registry: Registry[Method], folder: Path) -> None:
    (folder / "outside_good.py").write_text(source(None))
    (folder / "outside_bad.py").write_text("import no_such_dependency")
    (folder / "outside_int.py").write_text("Mine = int\nnumber = 3")
    entry_point(folder, "good", "outer", "outside_good:Mine")
    entry_point(folder, "bad", "broken", "outside_bad:Mine")
    entry_point(folder, "absent", "absent", "outside_good:Gone")
    entry_point(folder, "base", "base", "outside_int:Mine")
    entry_point(folder, "value", "value", "outside_int:number")
    assert registry.names() == ["absent", "base", "broken", "outer", "value"]
    assert registry.get("outer").__name__ == "Mine"
    assert registry.get("outer") is registry.get("outer")
    with pytest.raises(RequestError, match=r"'broken' .*package 'bad'.*no_such_dependency"):
        registry.get("broken")
    with pytest.raises(RequestError, match=r"package 'absent'.*Gone"):
        registry.get("absent")
    with pytest.raises(RequestError, match="must extend"):
        registry.get("base")
    with pytest.raises(RequestError, match="not a class"):
        registry.get("value")


def test_entry_points_are_read_once_until_a_package_is_installed(
    registry: Registry[Method], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    found = importlib.metadata.entry_points

    def counted(**wanted: str) -> importlib.metadata.EntryPoints:
        read.append(wanted)
        return found(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", counted)
    (folder / "outside_good.py").write_text(source(None))
    for _ in range(5):
        assert registry.names() == []
    assert len(read) == 1
    entry_point(folder, "good", "outer", "outside_good:Mine")
    assert [registry.names() for _ in range(3)] == [["outer"]] * 3
    assert len(read) == 2


def test_names_claimed_twice(registry: Registry[Method], folder: Path) -> None:
    add(folder, "kedmi", source("kedmi"))
    entry_point(folder, "other", "kedmi", "outside_good:Mine")
    entry_point(folder, "one", "twin", "outside_a:Mine")
    entry_point(folder, "two", "twin", "outside_b:Mine")
    entry_point(folder, "first", "same", "outside_c:Mine")
    entry_point(folder, "second", "same", "outside_c:Mine")
    (folder / "outside_c.py").write_text(source(None))
    with pytest.raises(RequestError, match=rf"module {PACKAGE}\.kedmi and by .*package 'other'"):
        registry.get("kedmi")
    with pytest.raises(RequestError, match=r"package '(one|two)'.*package '(one|two)'"):
        registry.get("twin")
    assert registry.get("same").__name__ == "Mine"


def test_file_spec(registry: Registry[Method], folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text(source(None))
    cls = registry.get(f"{path}:Mine")
    assert cls.__name__ == "Mine"
    assert registry.load_file(f"{path}:Mine") is cls
    assert sys.modules[cls.__module__].__file__ == str(path)
    assert registry.names() == []


def test_file_that_registers_and_changes(registry: Registry[Method], folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text(source("mine", extra="X = 1\n"))
    old = registry.get(f"{path}:Mine")
    assert registry.get("mine") is old
    path.write_text(source("mine", extra="X = 2\n"))  # same size, perhaps the same second
    new = registry.get(f"{path}:Mine")
    assert new is not old
    assert registry.get("mine") is new
    assert vars(sys.modules[new.__module__])["X"] == 2


def test_files_of_one_name_do_not_collide(registry: Registry[Method], folder: Path) -> None:
    classes = []
    for sub in ("a", "b"):
        (folder / sub).mkdir()
        (folder / sub / "mine.py").write_text(source(None))
        classes.append(registry.get(f"{folder / sub / 'mine.py'}:Mine"))
    assert classes[0] is not classes[1]
    assert classes[0].__module__ != classes[1].__module__


def test_file_does_not_shadow_a_method(registry: Registry[Method], folder: Path) -> None:
    add(folder, "kedmi", source("kedmi"))
    path = folder / "mine.py"
    path.write_text(source("kedmi"))
    with pytest.raises(RequestError, match=r"mine\.py:Mine registers 'kedmi', .* own attack"):
        registry.get(f"{path}:Mine")
    assert registry.get("kedmi").__module__ == f"{PACKAGE}.kedmi"


@pytest.mark.parametrize("how", ["raise SystemExit", "raise BaseException('no')"])
def test_modules_that_end_the_program_are_refused(
    registry: Registry[Method], folder: Path, how: str
) -> None:
    add(folder, "quitter", how)
    (folder / "outside_quit.py").write_text(how)
    entry_point(folder, "leaving", "leaver", "outside_quit:Mine")
    (folder / "mine.py").write_text(how)
    for name in ("quitter", "leaver", f"{folder / 'mine.py'}:Mine"):
        with pytest.raises(RequestError, match="line 1") as caught:
            registry.get(name)
        assert caught.value.exit_code == 2


def test_ctrl_c_during_an_import_passes(registry: Registry[Method], folder: Path) -> None:
    (folder / "mine.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.get(f"{folder / 'mine.py'}:Mine")


def test_a_class_has_one_name(registry: Registry[Method], folder: Path) -> None:
    (folder / "mine.py").write_text(source("mine") + "class Own(Method): pass\n")
    assert registry.name_of(registry.get(f"{folder / 'mine.py'}:Mine")) == "mine"
    assert registry.name_of(registry.get(f"{folder / 'mine.py'}:Own")) == "Own"
    (folder / "outside_named.py").write_text(source("named"))
    entry_point(folder, "naming", "other", "outside_named:Mine")
    with pytest.raises(RequestError, match="'named' and 'other': give it one name"):
        registry.get("other")


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (None, "gone.py:Mine", "there is no such file"),
        (source(None), "mine.py", "write path/to/mine.py:MyAttack"),
        (source(None), "mine.py:", "write path/to/mine.py:MyAttack"),
        (source(None), "mine.py:Mien", "no class 'Mien'; did you mean 'Mine'"),
        (source(None), "mine.py:Quux", "no class 'Quux'; its attacks: Mine"),
        (source(None, base="dict"), "mine.py:Mine", "must extend .*Method"),
        ("def f(:", "mine.py:Mine", "SyntaxError"),
        ("import no_such_dependency", "mine.py:Mine", "no_such_dependency.*line 1"),
    ],
)
def test_bad_file_specs(
    registry: Registry[Method], folder: Path, text: str | None, spec: str, message: str
) -> None:
    if text is not None:
        (folder / "mine.py").write_text(text)
    before = {name for name in sys.modules if name.startswith("mibench_file_")}
    with pytest.raises(RequestError, match=message):
        registry.get(str(folder / spec))
    after = {name for name in sys.modules if name.startswith("mibench_file_")}
    # A file that could not be imported leaves no half-made module; one without the class stays.
    assert after == before or "class" in str(text)
