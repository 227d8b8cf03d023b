"""``mibench doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mibench
from mibench.cli.show.progress import size
from mibench.settings import NEEDED_BYTES
from mibench.types import Frozen

if TYPE_CHECKING:
    from mibench.protocols import Protocol

Status = Literal["ok", "absent", "broken"]

# Distributions and what they are imported as; a test compares them with pyproject.toml.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "huggingface-hub": "huggingface_hub",
    "opacus": "opacus",
    "rich": "rich",
    "click": "click",
    "pandas": "pandas",
    "tabulate": "tabulate",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "torch-fidelity": "torch_fidelity",
    "matplotlib": "matplotlib",
    "pillow": "PIL",
    "numpy": "numpy",
    "scipy": "scipy",
}
OPTIONAL = {"ray": ("grids on several machines", "pip install 'mibench[ray]'")}


class Check(Frozen):
    """One finding.

    Attributes:
        status: ``absent`` is something that mibench can do without, ``broken`` something it cannot.
        found: what there is.
        remedy: what to do, where something is to be done.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None


def examine(store: Path) -> list[Check]:
    """Look at everything that a run needs; starts nothing and writes nothing.

    Args:
        store: the store's folder, which need not exist yet.
    """
    checks = [
        Check(name="mibench", status="ok", found=mibench.__version__),
        Check(
            name="python", status="ok", found=f"{platform.python_version()}, {platform.platform()}"
        ),
        *_packages(),
    ]
    if any(check.name == "torch" and check.status == "broken" for check in checks):
        return [*checks, _store(store)]  # nothing below can be looked at without torch
    checks += [_device(), _memory(), _threads(), _store(store)]
    with contextlib.suppress(ImportError):  # named above
        checks += [_inception(), *_assets()]
    return checks


def _packages() -> Iterator[Check]:
    for name, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            version = importlib.metadata.version(name)
        except Exception as error:  # a broken binary raises anything
            remedy = f"pip install --force-reinstall {name}"
            found = f"cannot be imported: {type(error).__name__}: {error}"
            yield Check(name=name, status="broken", found=found, remedy=remedy)
        else:
            yield Check(name=name, status="ok", found=version)
    for name, (purpose, remedy) in OPTIONAL.items():
        try:
            yield Check(name=name, status="ok", found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name=name, status="absent", found=f"only for {purpose}", remedy=remedy)


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        devices = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            devices.append(f"cuda:{index} {name}, {size(free)} of {size(total)} free")
        return Check(name="device", status="ok", found="; ".join(devices))
    if torch.version.cuda is None:
        remedy = "for an NVIDIA GPU install a CUDA build of torch: https://pytorch.org/get-started"
    else:
        remedy = (
            f"this torch is built for CUDA {torch.version.cuda} but sees no GPU: see `nvidia-smi`"
        )
    found = "the CPU, which synthfaces-32 and the *-small protocols are made for"
    return Check(name="device", status="absent", found=f"no CUDA device; {found}", remedy=remedy)


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return Check(name="memory", status="ok", found="unknown on this platform")
    found = size(total)
    with contextlib.suppress(OSError, ValueError):  # a container may have less, or not say
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        if limit < total:
            total, found = limit, f"{size(limit)} (the container's limit)"
    if total < 4 * 2**30:
        remedy = "close other programs, or set attack.max_rows lower"
        return Check(
            name="memory", status="absent", found=f"{found}, less than 4 GiB", remedy=remedy
        )
    return Check(name="memory", status="ok", found=found)


def _threads() -> Check:
    import torch

    from mibench.data.decode import cores

    found = f"{torch.get_num_threads()} for torch, {cores()} cores usable"
    if limit := os.environ.get("OMP_NUM_THREADS"):
        found += f", OMP_NUM_THREADS={limit}"
    return Check(name="threads", status="ok", found=found)


def _store(root: Path) -> Check:
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        remedy = "choose another folder with --store or MIBENCH_STORE"
        found = f"{root}: cannot be written to"
        return Check(name="store", status="broken", found=found, remedy=remedy)
    free = shutil.disk_usage(place).free
    found = f"{root}, {size(free)} free" + ("" if root.exists() else " (made by the first run)")
    if free < NEEDED_BYTES:
        remedy = "free some space (`mibench store gc --older-than 30`) or choose another folder"
        return Check(name="store", status="broken", found=found, remedy=remedy)
    return Check(name="store", status="ok", found=found)


def _inception() -> Check:
    from mibench.metrics import find_inception

    weights = find_inception()
    if isinstance(weights, Path):
        return Check(name="inception weights", status="ok", found=str(weights))
    found = "absent or wrong, so FID is missing from records"
    return Check(name="inception weights", status="absent", found=found, remedy=weights)


def _assets() -> Iterator[Check]:
    from mibench.assets import load_asset
    from mibench.errors import ArtifactError
    from mibench.protocols import PROTOCOLS

    for protocol in PROTOCOLS.values():
        name = f"protocol {protocol.name}"
        try:
            for asset in protocol.assets.values():
                load_asset(asset)
        except ArtifactError as error:
            yield Check(name=name, status="broken", found="pinned networks fail", remedy=str(error))
        else:
            count = len(protocol.assets)
            found = f"{count} pinned networks verified" if count else "trains its own networks"
            if missing := _needs(protocol):
                remedy = f"`mibench run --protocol {protocol.name}` says how to get them"
                yield Check(name=name, status="absent", found=missing, remedy=remedy)
            else:
                yield Check(name=name, status="ok", found=found)


def _needs(protocol: Protocol) -> str:
    """The prepared data sets and weights that a protocol needs and that are not here, if any."""
    from mibench.data.identity_split import IdentitySplit
    from mibench.data.prepared import data_root, folder_name
    from mibench.errors import RequestError
    from mibench.models.initialisation import locate_weights

    folders, weights, data = [], [], protocol.data
    if isinstance(data, IdentitySplit):
        sets = ((data.dataset, data.crop), (data.public_dataset, data.public_crop))
        names = [folder_name(name, protocol.resolution, crop) for name, crop in sets if name]
        folders = [name for name in names if not (data_root() / name).is_dir()]
    for architecture in protocol.initialisation:
        how = protocol.start(architecture)
        try:
            if how.source != "scratch":
                locate_weights(architecture, how)  # a run checks and hashes them, for seconds each
        except RequestError:
            weights.append(architecture)
    missing = [f"the prepared data of {', '.join(folders)}"] if folders else []
    missing += [f"the weights of {', '.join(weights)}"] if weights else []
    return f"needs {' and '.join(missing)}" if missing else ""
