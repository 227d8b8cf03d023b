"""``mibench doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.text import Text

import mibench
from mibench.cli.options import json_option, print_json, store_option
from mibench.cli.show.tables import console, folded, table
from mibench.errors import ArtifactError, RequestError
from mibench.files import user_path
from mibench.progress import size
from mibench.settings import NEEDED_BYTES

if TYPE_CHECKING:
    from mibench.protocols import Protocol

PACKAGES = (  # a test compares them with pyproject.toml
    *("torch", "torchvision", "timm", "huggingface-hub", "opacus", "rich", "click", "pandas"),
    *("tabulate", "pydantic", "safetensors", "filelock", "fsspec", "jinja2", "torch-fidelity"),
    *("matplotlib", "pillow", "numpy", "scipy"),
)
EXTRAS = {  # what is needed only for something, and the extra that has it
    "ray": ("grids on several machines", "ray"),
    "pyarrow": ("pictures in Arrow and Parquet files", "arrow"),
    "aiohttp": ("hubs behind http and https", "hub"),
    "s3fs": ("hubs in S3", "hub"),
    "dlib-bin": ("judging photographs of faces", "faces"),
    "face_recognition_models": ("judging photographs of faces", "faces"),
}
STYLES = {"ok": "green", "absent": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        status: ``absent`` is something that mibench can do without, ``broken`` something it cannot.
        found: what there is.
        remedy: what to do, where something is to be done.
    """

    name: str
    status: Literal["ok", "absent", "broken"]
    found: str
    remedy: str | None = None


@click.command(short_help="Show what this machine has, and what is missing.")
@store_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, store: str | None, as_json: bool) -> None:
    """Show versions, device, memory, threads and store; what is missing, and how to get it."""
    checks = list(examine(None if store is None else user_path(store, "--store").absolute()))
    broken = any(check.status == "broken" for check in checks)
    if as_json:
        found = [asdict(check) for check in checks]
        print_json({"status": "broken" if broken else "ok", "checks": found})
        ctx.exit(1 if broken else 0)
    rows = [(each.name, Text(each.status, STYLES[each.status]), each.found) for each in checks]
    out = console()
    out.print(table(rows, "", "", folded(), show_header=False))
    for each in checks:
        if each.remedy:
            out.print(Text(f"{each.name}: {each.remedy}", STYLES[each.status]), soft_wrap=True)
    ctx.exit(1 if broken else 0)


def examine(store: Path | None) -> Iterator[Check]:
    """Look at everything that a run needs; starts nothing and writes nothing.

    Args:
        store: the store's folder, which need not exist yet; None: the default one.
    """
    yield Check("mibench", "ok", mibench.__version__)
    yield Check("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    packages = [*_packages()]
    yield from packages
    if any(check.name == "torch" and check.status == "broken" for check in packages):
        return  # nothing below can be looked at without torch
    yield from (_device(), _memory(), _threads(), _store(store))
    with contextlib.suppress(ImportError):  # of a package named above
        yield _inception()
        yield from _protocols()
        yield from _surrogates()


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            importlib.import_module("PIL" if name == "pillow" else name.replace("-", "_"))
            yield Check(name, "ok", importlib.metadata.version(name))
        except Exception as error:  # a broken binary raises anything
            found = f"cannot be imported: {type(error).__name__}: {error}"
            yield Check(name, "broken", found, f"pip install --force-reinstall {name}")
    for name, (needed, extra) in EXTRAS.items():
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "absent", f"only for {needed}", f"pip install 'mibench[{extra}]'")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        devices = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            devices.append(f"cuda:{index} {name}, {size(free)} of {size(total)} free")
        return Check("device", "ok", "; ".join(devices))
    remedy = "for an NVIDIA GPU install a CUDA build of torch: https://pytorch.org/get-started"
    if built := torch.version.cuda:
        remedy = f"this torch is built for CUDA {built} but sees no GPU: see `nvidia-smi`"
    found = "no CUDA device; the CPU, which synthfaces-32 and the *-small protocols are made for"
    return Check("device", "absent", found, remedy)


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return Check("memory", "ok", "unknown on this platform")
    found = size(total)
    with contextlib.suppress(OSError, ValueError):  # a container may have less, or not say
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        if limit < total:
            total, found = limit, f"{size(limit)} (the container's limit)"
    if total < 4 * 2**30:
        remedy = "close other programs, or set attack.max_rows lower"
        return Check("memory", "absent", f"{found}, less than 4 GiB", remedy)
    return Check("memory", "ok", found)


def _threads() -> Check:
    import torch

    from mibench.data.workers import cores

    found = f"{torch.get_num_threads()} for torch, {cores()} cores usable"
    if limit := os.environ.get("OMP_NUM_THREADS"):
        found += f", OMP_NUM_THREADS={limit}"
    return Check("threads", "ok", found)


def _store(root: Path | None) -> Check:
    from mibench.store.store import default_root

    root = root or default_root()
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        remedy = "choose another folder with --store or MIBENCH_STORE"
        return Check("store", "broken", f"{root}: cannot be written to", remedy)
    free = shutil.disk_usage(place).free
    found = f"{root}, {size(free)} free" + ("" if root.exists() else " (made by the first run)")
    if free < NEEDED_BYTES:
        remedy = "free some space (`mibench store gc --older-than 30`) or choose another folder"
        return Check("store", "broken", found, remedy)
    return Check("store", "ok", found)


def _inception() -> Check:
    from mibench.metrics import find_inception

    weights = find_inception()
    if isinstance(weights, Path):
        return Check("inception weights", "ok", str(weights))
    found = "absent or wrong, so FID is missing from records"
    return Check("inception weights", "absent", found, weights)


def _protocols() -> Iterator[Check]:
    from mibench.assets import load_asset
    from mibench.protocols import PROTOCOLS

    for protocol in PROTOCOLS.values():
        name = f"protocol {protocol.name}"
        try:
            for asset in protocol.assets.values():
                load_asset(asset)
        except ArtifactError as error:
            yield Check(name, "broken", "pinned networks fail", str(error))
            continue
        if missing := _needs(protocol):
            remedy = f"`mibench run --protocol {protocol.name}` says how to get them"
            yield Check(name, "absent", missing, remedy)
            continue
        pinned = len(protocol.assets)
        found = f"{pinned} pinned networks verified" if pinned else "trains its own networks"
        yield Check(name, "ok", found)


def _needs(protocol: Protocol) -> str:
    """The prepared data sets and weights that a protocol needs and that are not here, if any."""
    from mibench.data.lists import lists_folder
    from mibench.data.prepared import DataFolder, set_name
    from mibench.models.initialisation import locate_weights

    weights, data = [], DataFolder()
    names = [set_name(name, protocol.resolution, crop) for name, crop in protocol.data.sets]
    absent = [name for name in names if data.key(name) is None]
    for architecture in protocol.initialisation:
        how = protocol.start(architecture)
        try:
            if how.source != "scratch":
                locate_weights(architecture, how)  # a run checks and hashes them, for seconds each
        except RequestError:
            weights.append(architecture)
    missing = [f"the prepared data of {', '.join(absent)}"] if absent else []
    if lists := protocol.data.lists:
        name = protocol.data.sets[0][0]
        if not all((lists_folder(name, data.root) / each).exists() for each in lists):
            missing.append(f"the published lists of {name}")
    missing += [f"the weights of {', '.join(weights)}"] if weights else []
    return f"needs {' and '.join(missing)}" if missing else ""


def _surrogates() -> Iterator[Check]:
    """The weights that surrogates of transfer attacks start from, where protocols let them."""
    from mibench.cell.resolve import attack_settings
    from mibench.inversion.attack import ATTACKS, TransferConfig
    from mibench.models.initialisation import locate_weights
    from mibench.names import AttackName
    from mibench.protocols import PROTOCOLS

    for name in ATTACKS.names():
        needed: dict[str, str | None] = {}  # what is wrong with the weights of an architecture
        protocols = []
        for protocol in PROTOCOLS.values() if ATTACKS.file(name) else ():
            config = attack_settings(AttackName(name), ATTACKS.get(name), protocol, {})
            if not isinstance(config, TransferConfig):
                break
            how = config.surrogates.initialisation
            if how.source == "scratch":
                continue
            protocols.append(protocol.name)
            for architecture in config.surrogates.architectures:
                try:
                    locate_weights(architecture, how)
                    needed[architecture] = None
                except RequestError as error:
                    needed[architecture] = str(error)
        check, on = f"surrogates of {name}", f"on {', '.join(protocols)}"
        if missing := [architecture for architecture, problem in needed.items() if problem]:
            found = f"need the weights of {', '.join(missing)}, {on}"
            remedy = f"{needed[missing[0]]}; or --set attack.surrogates.start=scratch"
            yield Check(check, "absent", found, remedy)
        elif needed:
            yield Check(check, "ok", f"weights of {', '.join(needed)}, {on}")
