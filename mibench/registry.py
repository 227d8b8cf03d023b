"""One generic, lazy registry: names from a package's files, entry points and ``file.py:Class``."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Generic, TypeVar

from mibench.errors import MibenchError, RequestError
from mibench.files import read_file, user_path
from mibench.settings import shown
from mibench.types import digest

T = TypeVar("T")
C = TypeVar("C", bound=type)

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def closest(name: str, candidates: Iterable[str]) -> str:
    """``"did you mean 'x' or 'y'?"`` for the candidates nearest to ``name``, ``""`` without any."""
    if len(name) > 200:
        return ""  # no name of ours, and difflib takes time in its square
    # Case and underscores are the usual slips, so they are compared as if equal.
    folded = {_fold(candidate): candidate for candidate in candidates}
    matches = difflib.get_close_matches(_fold(name), folded, n=3, cutoff=0.6)
    hints = " or ".join(repr(folded[match]) for match in matches)
    return f"did you mean {hints}?" if hints else ""


def no_such(kind: str, name: str, names: Collection[str]) -> str:
    """The message that nothing of a kind is called so, with close names or else all."""
    hint = closest(name, names) or f"there are {', '.join(names)}"
    return f"there is no {kind} {shown(name)}; {hint}"


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")


class Registry(Generic[T]):
    """Classes of one kind by name; nothing is imported until a name is asked for.

    A file ``dp_sgd.py`` in ``package`` holds the one method ``dp-sgd`` and registers it under that
    name. Files whose name starts with an underscore are not methods.

    Args:
        kind: what a message calls it (``"attack"``).
        base: the class that every registered class extends.
        package: package whose files are methods (``"mibench.attacks"``).
        group: entry point group (``importlib.metadata``) of methods installed by other packages.
        reserved: names that no method can have, each with what it stands for.
    """

    def __init__(
        self,
        kind: str,
        base: type,
        package: str,
        group: str,
        reserved: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind = kind
        self.base = base
        self.package = package
        self.group = group
        self.reserved = reserved
        self._classes: dict[str, type[T]] = {}
        self._names: dict[type, str] = {}
        self._passed_on: dict[type, ModuleType] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator that registers a class as ``name`` (lower case, dashes between words).

        Raises:
            RequestError: the name is malformed, reserved or taken by another class, the class is
                not of the registry's base, or its file in the package is called otherwise.
        """

        def decorate(cls: C) -> C:
            self._add(name, cls)
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted, without importing any method."""
        return sorted({*self._modules(), *self._entry_points(), *self._classes})

    def check(self, name: str) -> None:
        """Refuse a name that nothing is registered under, without importing any method.

        Raises:
            RequestError: it is unknown; the message offers close ones. Or it is reserved.
        """
        if name in self.reserved:
            raise RequestError(
                f"{shown(name)} is no {self.kind} of its own, but {self.reserved[name]}"
            )
        if name not in (names := self.names()):
            names = [*names, *self.reserved]
            hint = closest(name, names)
            raise RequestError(
                f"unknown {self.kind} {shown(name)}; {hint + ' ' if hint else ''}"
                f"Known: {', '.join(names) or 'none'}, or path/to/file.py:Class"
            )

    def file(self, name: str) -> Path | None:
        """The file of a method in the package, unimported; None where it is elsewhere."""
        places = (Path(each, f"{name.replace('-', '_')}.py") for each in self._folders())
        return next(filter(Path.is_file, places), None)

    def get(self, name: str) -> type[T]:
        """The class of a name, or of a ``path/to/mine.py:Class`` spec; imports what it needs.

        Raises:
            RequestError: the name is unknown or claimed twice, or its module fails to import.
        """
        if ".py:" in name or name.endswith(".py"):
            return self.load_file(name)
        self.check(name)
        module, points = self._modules().get(name), self._entry_points().get(name, [])
        claims = [f"the module {module}"] if module else []
        claims += [_origin(point) for point in points]
        if len(claims) > 1:
            raise RequestError(
                f"{self.kind} {name!r} is claimed by {' and by '.join(claims)}: rename or "
                "uninstall one of them"
            )
        # A class that a file registered does not shortcut this: it must not shadow another's name.
        if module:
            with _importing(f"{self.kind} {name!r} cannot be imported from {module}"):
                importlib.import_module(module)
            if name not in self._classes:
                raise RequestError(
                    f"{module} was imported but did not register {name!r}: decorate its class with "
                    f'@register_{self.kind}("{name}")'
                )
        for point in points:
            what = f"{self.kind} {name!r} from {_origin(point)}"
            with _importing(f"{what} cannot be loaded; fix or uninstall that package"):
                cls = point.load()
            if not isinstance(cls, type):
                raise RequestError(f"{what} is not a class")
            self._add(name, cls)
        return self._classes[name]

    def name_of(self, cls: type) -> str:
        """What a class is called everywhere: its registered name, else the class's own name."""
        return self._names.get(cls, cls.__name__)

    def files_of(self, cls: type) -> tuple[ModuleType, ...]:
        """Modules beside its own that a class came through: a file that imports and changes it."""
        module = self._passed_on.get(cls)
        return (module,) if module is not None else ()

    def load_file(self, spec: str) -> type[T]:
        """The class of a ``path/to/mine.py:Class`` spec; loads a changed file again.

        Raises:
            RequestError: the file or the class is missing, fails to import, or is of another base.
        """
        module, class_name = named_in_file(
            spec, f"the {self.kind} file", f"My{self.kind.capitalize()}"
        )
        cls = getattr(module, class_name, None)
        if not isinstance(cls, type):
            found = [n for n, v in vars(module).items() if isinstance(v, type) and self._fits(v)]
            hint = closest(class_name, found) or f"its {self.kind}s: {', '.join(found) or 'none'}"
            raise RequestError(f"{module.__file__} has no class {class_name!r}; {hint}")
        self._check_base(cls)
        if cls.__module__ != module.__name__:
            self._passed_on[cls] = module
        return cls

    def _add(self, name: str, cls: type) -> None:
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name!r} cannot name the {self.kind} {_where(cls)}: use lower-case letters and "
                "digits, with single dashes between words"
            )
        self._check_base(cls)
        if name in self.reserved:
            raise RequestError(
                f"{_where(cls)} registers {name!r}, which is {self.reserved[name]}: choose another "
                "name"
            )
        if name in self._modules() and not cls.__module__.startswith(f"{self.package}."):
            raise RequestError(
                f"{_where(cls)} registers {name!r}, which is mibench's own {self.kind}: choose "
                "another name"
            )
        # names() reads names off file names, so the two must agree.
        parent, _, stem = cls.__module__.rpartition(".")
        if parent == self.package and stem.replace("_", "-") != name:
            raise RequestError(
                f"{_where(cls)} registers {name!r}, but its file names {stem.replace('_', '-')!r}: "
                f"one {self.kind} a file, called {name.replace('-', '_')}.py"
            )
        other = self._classes.get(name)
        # The same class again comes from a file that was loaded anew, and replaces the old one.
        if other is not None and _where(other) != _where(cls):
            raise RequestError(
                f"two {self.kind}s are called {name!r}: {_where(other)} and {_where(cls)}; "
                "rename one of them"
            )
        if self._names.setdefault(cls, name) != name:
            raise RequestError(
                f"the {self.kind} {_where(cls)} is called {self._names[cls]!r} and {name!r}: "
                "give it one name"
            )
        self._classes[name] = cls

    def _fits(self, cls: type) -> bool:
        return issubclass(cls, self.base) and cls is not self.base

    def _check_base(self, cls: type) -> None:
        if not self._fits(cls):
            raise RequestError(
                f"{_where(cls)} is no {self.kind}: it must extend {_where(self.base)}"
            )
        if absent := sorted(getattr(cls, "__abstractmethods__", ())):
            raise RequestError(
                f"{_where(cls)} lacks {', '.join(f'{each}()' for each in absent)}, which every "
                f"{self.kind} has"
            )

    def _modules(self) -> dict[str, str]:
        """Module names by method name, from the files of the package."""
        found = (info.name for info in pkgutil.iter_modules(self._folders()) if not info.ispkg)
        return {n.replace("_", "-"): f"{self.package}.{n}" for n in found if not n.startswith("_")}

    def _folders(self) -> list[str]:
        """Where the package's files lie; neither it nor what is above it is imported."""
        parts = self.package.split(".")
        try:
            spec = importlib.util.find_spec(".".join(parts[:2]))
        except ModuleNotFoundError:
            spec = None
        places = (spec.submodule_search_locations if spec else None) or ()
        return [str(Path(place, *parts[2:])) for place in places]

    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """Entry points by name; a name has several when they point to different objects."""
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in _installed(self.group, _search_path()):
            points = found.setdefault(point.name, [])
            if point.value not in [other.value for other in points]:
                points.append(point)
        return found


def _search_path() -> tuple[tuple[str, int], ...]:
    """The folders that packages are found in, each with when it last changed, in ns."""
    places = (Path(place or ".") for place in sys.path)
    return tuple((str(each), each.stat().st_mtime_ns) for each in places if each.is_dir())


@functools.lru_cache(maxsize=16)
def _installed(group: str, _path: object) -> importlib.metadata.EntryPoints:
    """Entry points of a group; found again when a package was installed, not for every name."""
    return importlib.metadata.entry_points(group=group)


_OF_A_FILE = "mibench_file_"  # what names of the modules begin with that users' files are
_FILES: dict[Path, tuple[bytes, ModuleType]] = {}  # a file that holds several things is run once


def named_in_file(spec: str, what: str, example: str = "NAME") -> tuple[ModuleType, str]:
    """The module and the name of ``path/to/mine.py:Name``; the module may lack it.

    The file is run again only when it has changed.

    Args:
        what: what a message calls the file: ``"the attack file"``.
        example: a name that could be in it.

    Raises:
        RequestError: it is written otherwise, or the file cannot be read, or fails.
    """
    path_text, _, name = spec.rpartition(":")
    if not path_text.endswith(".py") or not name.isidentifier():
        raise RequestError(
            f"{shown(spec)} does not name something in a file; write path/to/mine.py:{example}"
        )
    return _import_file(Path(os.path.realpath(user_path(path_text, what))), what), name


def _import_file(path: Path, what: str) -> ModuleType:
    source = read_file(path, what)
    known = _FILES.get(path)
    if known is not None and known[0] == source:
        return known[1]
    # The path is part of the name, so that two files called mine.py do not collide.
    name = f"{_OF_A_FILE}{digest(str(path))[:12]}_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where pydantic looks up a class's annotations
    try:
        with _importing(f"{path} cannot be imported", str(path)):
            # Not through importlib, whose bytecode cache misses an edit within the same second.
            exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[path] = (source, module)
    return module


@contextlib.contextmanager
def _importing(problem: str, file: str | None = None) -> Iterator[None]:
    """Refuse what fails, or ends the program, while it is imported; Ctrl-C passes.

    Args:
        file: whose last line on the way is named; None: the line that raised.
    """
    try:
        yield
    except (RequestError, KeyboardInterrupt):
        raise
    except BaseException as error:
        passed = list(traceback.extract_tb(error.__traceback__))
        frames = [each for each in passed if each.filename == file] or passed
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError):
            said, place = f"SyntaxError: {error.msg}", f" ({error.filename}, line {error.lineno})"
        if isinstance(error, SystemExit):
            said = "it ends the program (sys.exit)"
        raise RequestError(f"{problem}: {said}{place}") from error


def _where(cls: type) -> str:
    """A class as its author knows it: ``mine.py:Mine``, or by the package that offers it."""
    module = sys.modules.get(cls.__module__)
    if cls.__module__.startswith(_OF_A_FILE) and module is not None:
        return f"{Path(str(module.__file__)).name}:{cls.__qualname__}"
    public = [part for part in cls.__module__.split(".") if not part.startswith("_")]
    return ".".join([*public, cls.__qualname__])


def _origin(point: importlib.metadata.EntryPoint) -> str:
    package = f" of package {point.dist.name!r}" if point.dist else ""
    return f"the entry point {point.value!r}{package}"


@contextlib.contextmanager
def contained(*methods: type) -> Iterator[None]:
    """A method that ends the program (``sys.exit()``) fails, instead of ending mibench unheard.

    Ctrl-C and ordinary exceptions pass.

    Args:
        methods: whose hooks run inside the block.

    Raises:
        MibenchError: anything else was raised; it names the method and the hook.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = {inspect.getfile(cls): cls.__name__ for cls in methods}
        hook = next((each for each in frames if each.filename in files), frames[-1])
        where = f"{files.get(hook.filename, hook.filename)}: {hook.name}()"
        raise MibenchError(
            f"{where} raised {type(error).__name__} ({frames[-1].filename}, line "
            f"{frames[-1].lineno}), which would have ended mibench without a word: raise an "
            "Exception that says what is wrong"
        ) from error
