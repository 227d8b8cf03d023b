"""Which code a result was made by: the modules that a stage or a method reaches by import.

A module counts as a whole, but for what only readers see: comments, docstrings, cards,
descriptions of fields, messages of errors. What carries results from one place to another, or
tells of them, does not count: the ground floor and the store, and the files of other stages, whose
keys are among a stage's parents. Of installed packages it is the version that counts. What is
bound at run time alone (a file that is read and executed) is not seen.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from mibench.errors import MibenchError
from mibench.types import digest

# Cannot change a number: streams, of the ground floor too, can.
_CARRIERS = {"mibench"} | {
    f"mibench.{name}"
    for name in (
        *("errors", "types", "progress", "reading", "files", "record", "settings"),
        *("registry", "store", "cell"),
    )
}
# Installed packages that check, store or draw what others compute.
_UNCOUNTED = {
    *("huggingface_hub", "matplotlib", "pyarrow", "pydantic", "pydantic_core", "safetensors"),
    "tqdm",
}
# mibench's own: their version stands for them, even where someone works on their sources.
_LIBRARIES = {"PIL", "numpy", "opacus", "scipy", "timm", "torch", "torch_fidelity", "torchvision"}
_DISTRIBUTIONS = {"PIL": "pillow"}  # where it is called otherwise than what is imported
# Errors that end a request or a stage: no result holds their message, as it may another error's.
_ENDING = {"ArtifactError", "RequestError", "NotImplementedError", "TypeError", "ValueError"}


Root = str | type | ModuleType


def code_digest(*roots: Root) -> str:
    """SHA-256 of the code that is reached by import, and of the versions of what is installed.

    A module that is already imported is digested once: when its file changes later, the code that
    runs in this process is still the old one, and a new digest would file old results under it.

    Args:
        roots: where the code starts: a module or its name (it is not imported), or a class, whose
            module it is. They count even where they only carry results.

    Raises:
        MibenchError: a root does not exist, or a source does not parse.
    """
    texts, installed = _reach(roots)
    return digest([texts, {name: _version(name) for name in installed - _UNCOUNTED}])


def outside_digest(cls: type, *also: ModuleType) -> str | None:
    """SHA-256 of a method's code that is not mibench's own; None for mibench's methods.

    That is its file and the helpers that it imports, wherever they lie: mibench's own code and
    installed packages do not count, so that releases of these leave a method what it is.

    Args:
        cls: the method's class.
        also: further modules that count, such as a file that passes the class on.
    """
    texts, _ = _reach((cls, *also))
    texts = {name: text for name, text in texts.items() if _top(name) != "mibench"}
    return digest(texts) if texts else None


def _reach(roots: Iterable[Root]) -> tuple[dict[str, str | list[str]], set[str]]:
    """Digests of the modules that are reached, by name; and the installed packages."""
    roots = list(roots)
    # A method of an installed package counts with the modules of that package.
    theirs = {_top(root.__module__) for root in roots if isinstance(root, type)} - {"mibench"}
    start = [_named(root) for root in roots]
    for name in start:
        if _module(name, theirs) is None:
            raise MibenchError(f"no source file for the module {name!r}")
    texts: dict[str, str | list[str]] = {}
    files: list[str] = []  # modules that were named by their path, which does not count
    installed: set[str] = set()
    pending, seen = list(start), set(start)
    while pending:
        name = pending.pop()
        module = _module(name, theirs)
        if module is None:
            continue
        if _is_file(name):
            files.append(module.text)
        else:
            texts[name] = module.text
        for imported, certain in module.imports:
            for each in _with_parents(imported):
                if each in seen or _is_carrier(each) or _top(each) in sys.stdlib_module_names:
                    continue
                if _top(each) in _LIBRARIES:
                    installed.add(_top(each))
                elif _module(each, theirs) is not None:
                    seen.add(each)
                    pending.append(each)
                elif certain and _top(each) != "mibench":  # installed, or absent, or a folder
                    installed.add(_top(each))
    return ({**texts, "": sorted(files)} if files else texts), installed


def _named(root: Root) -> str:
    if isinstance(root, ModuleType):
        return root.__name__
    return root if isinstance(root, str) else root.__module__


def _with_parents(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.c``: importing the last runs the code of all."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])


def _is_carrier(name: str) -> bool:
    return name == "mibench" or ".".join(name.split(".")[:2]) in _CARRIERS


def _is_file(name: str) -> bool:
    """Whether a module is a file that was named by its path (see the registry)."""
    return name.startswith("mibench_file_")


def _top(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def _version(package: str) -> str | None:
    """Version of an installed package without its build (``+cu128``); None where it is absent."""
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package, [])
        if not names:
            return None
        version = importlib.metadata.version(names[0])
    return version.partition("+")[0]


# One module --------------------------------------------------------------------------------------


class _Module(NamedTuple):
    """Digest of a module's normalised text, and the modules that it imports.

    Attributes:
        imports: names; and whether each is a module for certain, or may be a name in one.
    """

    text: str
    imports: frozenset[tuple[str, bool]]


# Loaded modules as they were when they were first looked at.
_PINNED: weakref.WeakKeyDictionary[ModuleType, _Module] = weakref.WeakKeyDictionary()


def _module(name: str, theirs: set[str]) -> _Module | None:
    """A module whose code counts; None where it is installed, or has no file."""
    loaded = sys.modules.get(name)
    if loaded is not None and loaded in _PINNED:
        return _PINNED[loaded]
    origin = getattr(loaded, "__file__", None) if loaded else _origin(name)
    if origin is None:
        return None
    path = Path(origin)
    counts = _top(name) in {"mibench", *theirs} or _is_file(name)
    if not counts and _is_installed(name, path):
        return None
    made = _read_file(name, path)
    if loaded is not None:
        _PINNED[loaded] = made
    return made


def _is_installed(name: str, path: Path) -> bool:
    """Whether an installer put a module there: in ``site-packages``, or by ``pip --target``."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    above = name.count(".") + (path.name == "__init__.py")
    return _top(name) in _installed_packages(path.parents[above])


@functools.cache
def _installed_packages(folder: Path) -> frozenset[str]:
    """Top-level names that the ``RECORD`` of a distribution in a folder lists."""
    found = importlib.metadata.distributions(path=[str(folder)])
    records = (each.files or () for each in found if each.read_text("RECORD") is not None)
    return frozenset(file.parts[0].removesuffix(".py") for files in records for file in files)


def _origin(name: str) -> str | None:
    spec = _spec(name)
    return spec.origin if spec and spec.has_location else None


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module would come from; it is not imported, nor are the packages above it."""
    parent, _, last = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(last)
        package = sys.modules.get(parent)
        above = _spec(parent) if package is None else None
        folders = getattr(package, "__path__", None) or getattr(
            above, "submodule_search_locations", None
        )
        return importlib.machinery.PathFinder.find_spec(last, list(folders)) if folders else None
    except (ImportError, ValueError):  # ValueError: a module that was made, not imported
        return None


def _read_file(name: str, path: Path) -> _Module:
    try:
        status = path.stat()
        return _parsed(name, path, status.st_mtime_ns, status.st_size)
    except (OSError, SyntaxError, ValueError) as error:
        raise MibenchError(f"cannot digest the source {path}: {error}") from error


@functools.lru_cache(maxsize=1024)
def _parsed(name: str, path: Path, _mtime_ns: int, _size: int) -> _Module:
    return _parse(name, path, path.read_bytes())


def _parse(name: str, path: Path, source: bytes) -> _Module:
    if path.suffix != ".py":  # compiled
        return _Module(hashlib.sha256(source).hexdigest(), frozenset())
    tree = _normalised(ast.parse(source))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = frozenset(each for node in ast.walk(tree) for each in _imports(node, package))
    return _Module(hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), imports)


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """The modules that a statement, or a call of ``import_module("…")``, imports."""
    if isinstance(node, ast.Import):
        yield from ((each.name, True) for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [base])])
        yield base, True
        yield from ((f"{base}.{each.name}", False) for each in node.names if each.name != "*")
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        named = first.value if isinstance(first, ast.Constant) else None
        if isinstance(named, str) and not named.startswith("."):
            yield named, True


def _normalised(tree: ast.Module) -> ast.Module:
    """A module reduced to what runs: no texts for readers; parsing left comments and layout out."""
    # A method that reads its own card may compute with it.
    reads = any(isinstance(each, ast.Attribute) and each.attr == "card" for each in ast.walk(tree))
    made: ast.Module = _WithoutTexts(keep_cards=reads).visit(tree)
    return made


class _WithoutTexts(ast.NodeTransformer):
    """Takes out what only readers see."""

    def __init__(self, keep_cards: bool) -> None:
        self.keep_cards = keep_cards

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Docstrings, and the strings that document attributes."""
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """The message of an error that ends a stage."""
        if isinstance(node.exc, ast.Call) and _called(node.exc) in _ENDING:
            _blank(node.exc)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """What only type checkers import."""
        return (
            None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)
        )

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Its message."""
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Descriptions of fields, and definitions of metrics."""
        called = _called(node)
        if called == "Field":
            node.keywords = [each for each in node.keywords if each.arg != "description"]
        elif called in ("MetricInfo", "_info"):
            _blank(node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """A method's card."""
        names = [each.id for each in node.targets if isinstance(each, ast.Name)]
        node.value = self._card(names, node.value)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """A method's card."""
        if node.value is not None and isinstance(node.target, ast.Name):
            node.value = self._card([node.target.id], node.value)
        return self.generic_visit(node)

    def _card(self, names: list[str], value: ast.expr) -> ast.expr:
        card = isinstance(value, ast.Call) and (_called(value) or "").endswith("Card")
        return ast.Constant(...) if card and names == ["card"] and not self.keep_cards else value

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node


def _called(node: ast.Call) -> str | None:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


def _blank(call: ast.Call) -> None:
    """Empty the texts below a call; what is computed for them stays."""
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
