"""Where a result comes from: commit, versions, device, peak memory."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from mibench.record import Environment


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
    return checkout_state(Path(__file__).resolve().parents[2])


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
    """Versions, commit, device, threads, platform and processor of this process, for a record.

    A GPU is named by its model, whichever of the machine's it is.
    """
    device = torch.device(device)
    name = str(device)
    if device.type == "cuda":
        name = f"{device.type} ({torch.cuda.get_device_name(device)})"
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
        processor=_processor(),
    )


@functools.cache
def _processor() -> str:
    """``"AVX512, Intel(R) Xeon(R) Processor"``: as torch and the system call it."""
    try:
        described = Path("/proc/cpuinfo").read_text()
        model = next(line for line in described.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    model = " ".join(model.rpartition(": ")[2].split())
    return f"{torch.backends.cpu.get_cpu_capability()}, {model}"


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
