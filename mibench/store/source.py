"""Which code a result was made by: the definitions that a stage reaches by name, and their digest.

Of mibench's own modules only those definitions count that can be reached by name from where a
stage starts, so that a change to one attack makes no target stale. A module of someone else (a
method's file, and the helpers that it imports) counts as a whole. Of installed packages it is the
version that counts. What a name is bound to at run time alone (``getattr(module, text)``, a file
that is read and executed) is not seen.
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
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from mibench.errors import MibenchError
from mibench.types import digest

# What carries results from one place to another, or tells of them, and cannot change a number.
_GROUND = {
    f"mibench.{name}"
    for name in (
        "errors",
        "files",
        "progress",
        "registry",
        "cell.keys",
        "store.environment",
        "store.source",
        "store.store",
    )
}
# Installed packages that check, store or draw what others compute.
_UNCOUNTED = {"huggingface_hub", "matplotlib", "pydantic", "pydantic_core", "safetensors", "tqdm"}
# mibench's own: their version stands for them, even where someone works on their sources.
_LIBRARIES = {"PIL", "numpy", "opacus", "scipy", "timm", "torch", "torch_fidelity", "torchvision"}
_DISTRIBUTIONS = {"PIL": "pillow"}  # where it is called otherwise than what is imported
# Errors that end a request or a stage: no result holds their message, as it may another error's.
_ENDING = {"ArtifactError", "RequestError", "NotImplementedError", "TypeError", "ValueError"}

_EFFECTS = ""  # name of what a module does when it is imported, beside defining things
_Reference = tuple[str, ...]  # a dotted name as it is written


def code_digest(
    *roots: str | type, also: Iterable[ModuleType] = (), stops: Iterable[str] = ()
) -> str:
    """SHA-256 of the code that can be reached by name, and of the versions of what is installed.

    Comments, texts for readers (docstrings, cards, descriptions of fields, messages of errors) and
    formatting do not count; names and constants do, and so does everything that runs.

    A module that is already imported is digested once: when its file changes later, the code that
    runs in this process is still the old one, and a new digest would file old results under it.

    Args:
        roots: where the code starts: a method's class, whose module counts as a whole; a module's
            name; or ``"module:definition"``, as ``"mibench.cell.stages:Stages.target"``, of which a
            method's ``self.…`` are followed too. Modules are not imported.
        also: further modules that count as a whole.
        stops: modules and definitions, written likewise, that do not count.

    Raises:
        MibenchError: a root does not exist, or a source does not parse.
    """
    reach = _Reach(stops, {_top(each.__module__) for each in roots if isinstance(each, type)})
    for root in roots:
        if isinstance(root, type):
            reach.whole(root.__module__)
            continue
        module, _, name = root.partition(":")
        reach.root(module, name) if name else reach.whole(module)
    for each in also:
        reach.whole(each.__name__)
    versions = {name: _version(name) for name in reach.installed - _UNCOUNTED}
    return digest([reach.texts(), versions])


def outside_digest(cls: type, *also: ModuleType) -> str | None:
    """SHA-256 of a method's code that is not mibench's own; None for mibench's methods.

    That is its file and the helpers that it imports, wherever they lie: mibench's own code and
    installed packages do not count, so that releases of these leave a method what it is.

    Args:
        cls: the method's class.
        also: further modules that count as a whole, such as a file that passes the class on.
    """
    reach = _Reach((), {_top(cls.__module__)})
    for name in (cls.__module__, *(each.__name__ for each in also)):
        reach.whole(name)
    texts = {name: text for name, text in reach.texts().items() if not _is_own(name)}
    return digest(texts) if texts else None


def normalised_source(source: str | bytes) -> str:
    """Source text reduced to what runs: no comments, texts for readers, blank lines, formatting."""
    return ast.unparse(_normalised(ast.parse(source)))


@dataclass(frozen=True)
class _Module:
    """A module's definitions, and what its names stand for.

    Attributes:
        package: what its relative imports start from.
        nodes: by name of the definition; methods as ``Class.method``; see :data:`_EFFECTS`.
        imports: by local name, the module and the name in it (None: the module itself).
        starred: modules of which everything was imported.
    """

    name: str
    package: str
    nodes: dict[str, list[ast.AST]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    starred: set[str] = field(default_factory=set)
    _seen: dict[str, tuple[str, frozenset[_Reference], _Module]] = field(default_factory=dict)

    def read(self, name: str) -> tuple[str, frozenset[_Reference], _Module]:
        """A definition's digest, the names that it mentions, and what it imports by itself."""
        if name not in self._seen:
            inner = _Module(self.name, self.package)
            mentioned: set[_Reference] = set()
            for node in self.nodes[name]:
                _mention(node, mentioned)
                inner.learn(node)
            text = "\n".join(map(ast.unparse, self.nodes[name]))
            hashed = hashlib.sha256(text.encode()).hexdigest()
            self._seen[name] = (hashed, frozenset(mentioned), inner)
        return self._seen[name]

    def binds(self, name: str) -> bool:
        """Whether it defines a name or takes it from elsewhere; its own parts it does neither."""
        return name in self.nodes or self.imports.get(name, (self.name, name)) != (self.name, name)

    def target(self, alias: str) -> tuple[str, ...]:
        """The module that a local name comes from, and the name in it unless it is the module."""
        source, name = self.imports[alias]
        return (source, name) if name else (source,)

    def learn(self, tree: ast.AST) -> None:
        """Keep what every import below a node binds."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    whole = each.name if each.asname else each.name.partition(".")[0]
                    self.imports[each.asname or whole] = (whole, None)
                    if not each.asname and whole != each.name:
                        self.imports[f"{each.name} "] = (each.name, None)  # is imported, not bound
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                for each in node.names:
                    if each.name == "*":
                        self.starred.add(source)
                    else:
                        self.imports[each.asname or each.name] = (source, each.name)
            elif isinstance(node, ast.Call) and (named := _imported_by_call(node)):
                self.imports[f"{named} "] = (named, None)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def _imported_by_call(node: ast.Call) -> str | None:
    """The module that ``import_module("…")`` or ``__import__("…")`` names."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else None
    called = node.func.id if isinstance(node.func, ast.Name) else called
    first = node.args[0] if node.args else None
    if called not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return None
    named = first.value
    return named if isinstance(named, str) and not named.startswith(".") else None


def _mention(node: ast.AST, found: set[_Reference]) -> None:
    """Collect the dotted names below a node, each as far as it goes."""
    parts: list[str] = []
    place = node
    while isinstance(place, ast.Attribute):
        parts.append(place.attr)
        place = place.value
    if isinstance(place, ast.Name):
        found.add((place.id, *reversed(parts)))
        return
    for child in ast.iter_child_nodes(place):
        _mention(child, found)


class _Reach:
    """What can be reached from some roots.

    Args:
        stops: modules and definitions that do not count. Of a class that holds a stop its public
            members count one by one, and others where these use them.
        theirs: top-level packages whose modules count even where they are installed.
    """

    def __init__(self, stops: Iterable[str], theirs: set[str]) -> None:
        self.stops, self.theirs = set(stops), theirs - {"mibench"}
        self.installed: set[str] = set()
        self._found: dict[str, dict[str, str]] = {}
        self._pending: list[tuple[_Module, str | None]] = []  # None: the whole module
        self._whole: set[str] = set()
        self._modules: dict[str, _Module | None] = {}

    def texts(self) -> dict[str, dict[str, str]]:
        """Digests of definitions, by module and name; where a named file lies does not count."""
        named = {name: texts for name, texts in self._found.items() if not _is_file(name)}
        files = sorted(digest(texts) for name, texts in self._found.items() if _is_file(name))
        return {**named, "": {str(i): text for i, text in enumerate(files)}} if files else named

    def root(self, module: str, name: str) -> None:
        """Follow a definition that must be there."""
        made = self._module(module)
        if made is None or name not in made.nodes:
            raise MibenchError(f"no source for {module}:{name}")
        self._add(made, name)
        self._follow()

    def whole(self, module: str) -> None:
        """Follow every definition of a module, and its imports, used or not."""
        made = self._module(module)
        if made is None:
            raise MibenchError(f"no source file for module {module!r}")
        self._all(made)
        self._follow()

    def _all(self, module: _Module) -> None:
        if module.name not in self._whole:
            self._whole.add(module.name)
            self._pending.append((module, None))

    def _spread(self, module: _Module) -> None:
        heads: set[str] = set()
        for name in module.nodes:
            if "." not in name:  # a class's text holds its members'
                self._add(module, name)
                heads |= {reference[0] for reference in module.read(name)[1]}
        for alias in module.imports.keys() - heads:
            self._imported(*module.target(alias))
        for source in module.starred:
            self._imported(source)

    def _add(self, module: _Module, name: str) -> None:
        found = self._found.setdefault(module.name, {})
        if name in found or {module.name, f"{module.name}:{name}"} & self.stops:
            return
        members = [each for each in module.nodes if each.startswith(f"{name}.")]
        if {f"{module.name}:{each}" for each in members} & self.stops:
            for each in members:
                member = each.rpartition(".")[2]
                if not member.startswith("_") or member.startswith("__"):
                    self._add(module, each)
            return
        found[name] = module.read(name)[0]
        self._pending.append((module, name))

    def _follow(self) -> None:
        while self._pending:
            module, name = self._pending.pop()
            if name is None:
                self._spread(module)
                continue
            if _EFFECTS in module.nodes:
                self._add(module, _EFFECTS)
            _, mentioned, inner = module.read(name)
            for head, *rest in mentioned:
                if head == "self" and rest and "." in name:
                    member = f"{name.partition('.')[0]}.{rest[0]}"
                    if member in module.nodes:
                        self._add(module, member)
                elif head in inner.imports:
                    self._imported(*inner.target(head), *rest)
                else:
                    self._name(module, head, *rest)
            for alias in inner.imports.keys() - {head for head, *_ in mentioned}:
                self._imported(*inner.target(alias))

    def _name(self, module: _Module, head: str, *rest: str) -> None:
        """Follow ``head.rest`` as it is written in a module."""
        if head in module.nodes:
            self._add(module, head)
        elif module.binds(head):
            self._imported(*module.target(head), *rest)
        else:  # a builtin, a local variable, or from a starred import
            for source in module.starred:
                self._imported(source, head, *rest)

    def _imported(self, source: str, *rest: str) -> None:
        """Follow ``source.rest``, where ``source`` is a module."""
        if source in _GROUND or source in self.stops or _top(source) in sys.stdlib_module_names:
            return
        if _top(source) in _LIBRARIES:
            self.installed.add(_top(source))
            return
        module = self._module(source)
        if rest and not (module and module.binds(rest[0])):
            below = f"{source}.{rest[0]}"
            if below in _GROUND or self._module(below) is not None:
                self._imported(below, *rest[1:])
                if module is None:  # a folder without __init__.py
                    return
        if module is None:
            if not _is_own(source):  # installed, or absent
                self.installed.add(_top(source))
        elif _is_own(source) and rest:
            self._name(module, *rest)
        else:
            self._all(module)

    def _module(self, name: str) -> _Module | None:
        """A module whose code counts; None where it is installed, or has no file."""
        if name not in self._modules:
            counts = _is_own(name) or _top(name) in self.theirs or _is_file(name)
            self._modules[name] = _read_module(name, counts)
        return self._modules[name]


def _is_own(name: str) -> bool:
    return _top(name) == "mibench"


def _is_file(name: str) -> bool:
    """Whether a module is a file that was named by its path (see the registry)."""
    return name.startswith("mibench_file_")


def _top(name: str) -> str:
    return name.partition(".")[0]


# Loaded modules as they were when they were first looked at, and files by path, time and size.
_PINNED: weakref.WeakKeyDictionary[ModuleType | None, _Module] = weakref.WeakKeyDictionary()


def _read_module(name: str, counts: bool) -> _Module | None:
    loaded = sys.modules.get(name)
    if loaded in _PINNED:
        return _PINNED[loaded]
    origin = getattr(loaded, "__file__", None) if loaded else _origin(name)
    if origin is None or (not counts and _is_installed(Path(origin))):
        return None
    made = _read_file(name, Path(origin))
    if loaded is not None:
        _PINNED[loaded] = made
    return made


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


def _is_installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts))


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
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    module = _Module(name, package)
    if path.suffix != ".py":  # compiled
        module.nodes[_EFFECTS] = [ast.Constant(hashlib.sha256(source).hexdigest())]
        return module
    for node in _normalised(ast.parse(source)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.learn(node)
            continue
        names = list(_defined(node))
        if not names and isinstance(node, ast.If | ast.Try):
            module.learn(node)
        for each in names or [_EFFECTS]:
            module.nodes.setdefault(each, []).append(node)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                for each in _defined(member):
                    module.nodes.setdefault(f"{node.name}.{each}", []).append(member)
    return module


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement defines for certain."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Name):
                    yield each.id


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


# Normalising -------------------------------------------------------------------------------------


def _normalised(tree: ast.Module) -> ast.Module:
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
