"""Where a result comes from: source digests, the environment, peak memory."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import subprocess
import sys
import weakref
from pathlib import Path
from types import ModuleType

import torch

from mibench.errors import MibenchError
from mibench.types import Environment, digest

_PINNED: weakref.WeakKeyDictionary[ModuleType, str] = weakref.WeakKeyDictionary()


def source_digest(*sources: ModuleType | Path | str) -> str:
    """SHA-256 of the normalised source of modules, packages and files, in the order given.

    Comments, docstrings, blank lines and formatting do not count; names and constants do, and so
    does everything that runs. A package stands for all of its Python files.

    A module that is already imported is digested once: when its file changes later, the code that
    runs in this process is still the old one, and a new digest would file old results under it.

    Args:
        sources: modules, paths of files, or dotted module names (which are not imported).

    Raises:
        MibenchError: a source does not exist or does not parse.
    """
    return digest([_one_digest(source) for source in sources])


def _one_digest(source: ModuleType | Path | str) -> str:
    if isinstance(source, Path):
        return _path_digest(source)
    module = sys.modules.get(source) if isinstance(source, str) else source
    if module is None:
        return _path_digest(_module_path(str(source)))
    if module not in _PINNED:
        if module.__file__ is None:
            raise MibenchError(f"module {module.__name__} has no source file to digest")
        _PINNED[module] = _path_digest(_package_or_file(Path(module.__file__)))
    return _PINNED[module]


def _module_path(name: str) -> Path:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise MibenchError(f"no source file for module {name!r}")
    return _package_or_file(Path(spec.origin))


def _package_or_file(path: Path) -> Path:
    return path.parent if path.name == "__init__.py" else path


def _path_digest(path: Path) -> str:
    if path.is_dir():
        files = sorted(path.rglob("*.py"))
        return digest([[file.relative_to(path).as_posix(), _path_digest(file)] for file in files])
    try:
        status = path.stat()
        return _file_digest(path, status.st_mtime_ns, status.st_size)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise MibenchError(f"cannot digest the source {path}: {error}") from error


def method_sources(cls: type) -> tuple[ModuleType | str, ...]:
    """The modules that define a method: its own, and the parts of the core that it alone brings in.

    These are the mibench modules that its file imports by name, without the contracts that every
    method imports (a change there that matters is in the stages' own lists).
    """
    path = Path(inspect.getfile(cls))
    common = {f"mibench.{name}" for name in ("methods", "types", "registry", "errors", "progress")}
    names = {
        node.module
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    own = sorted(name for name in names - common if name.startswith("mibench."))
    return (sys.modules[cls.__module__], *own)


@functools.cache
def _file_digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return hashlib.sha256(normalised_source(path.read_bytes()).encode()).hexdigest()


def normalised_source(source: str | bytes) -> str:
    """Source text reduced to what runs: no comments, docstrings, blank lines or formatting."""
    return ast.unparse(_DropBareStrings().visit(ast.parse(source)))


class _DropBareStrings(ast.NodeTransformer):
    """Removes string statements: docstrings, and the strings that document attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node


def package_version(name: str) -> str:
    """Installed version of a distribution, or ``"unknown"`` (a checkout that is not installed)."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that mibench runs from, and whether its code differs from it.

    ``(None, None)`` when mibench was installed from a wheel, has no commit, or git is absent. Read
    once a process, since it describes the code that was loaded.
    """
    return checkout_state(Path(__file__).resolve().parent.parent)


def checkout_state(root: Path) -> tuple[str | None, bool | None]:
    """:func:`git_state` of the folder ``root``, which counts only if it is mibench's own."""
    # A wheel in a virtual environment inside someone's repository must not report their commit.
    try:
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None, None
    if not re.search(r"""^name\s*=\s*["']mibench["']""", project, re.MULTILINE):
        return None, None
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None, None
    # Only code counts: a run folder or a note in the checkout does not make a result dirty.
    code = ("mibench", "attacks", "defenses", "pyproject.toml")
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *code)
    return commit, None if changes is None else bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, or None when it fails or git is not there."""
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def environment(device: torch.device | str) -> Environment:
    """Versions, commit, device, threads and platform of this process, for a record."""
    device = torch.device(device)
    name = str(device)
    if device.type == "cuda":
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    commit, dirty = git_state()
    return Environment(
        mibench=package_version("mibench"),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=str(torch.__version__),
        timm=package_version("timm"),
        opacus=package_version("opacus"),
        device=name,
        threads=torch.get_num_threads(),
        platform=platform.platform(),
    )


def peak_memory_bytes(device: torch.device | str = "cpu") -> int | None:
    """Peak memory in bytes: CUDA's allocations on a GPU, else the process's resident set.

    Both count from the start of the process (on a GPU, from the last
    ``torch.cuda.reset_peak_memory_stats``). None where the platform does not tell (Windows).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, this does not start at the parent process's peak
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kB
