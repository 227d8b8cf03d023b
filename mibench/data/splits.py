"""Splits of an image folder into private and public identities, pinned by checksums."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from pydantic import Field, ValidationError, model_validator

from mibench.artifacts import save_json
from mibench.data.decode import (
    Progress,
    UnusableImage,
    decode,
    inspect_header,
    on_all_cores,
)
from mibench.data.scan import scan
from mibench.errors import RequestError
from mibench.streams import stream
from mibench.types import Frozen, digest

_SHOWN = 10  # files that an error message lists
_CHECK_RESOLUTION = 8  # small, so that JPEG's draft mode makes the check of the contents cheap
_REMAKE = "restore the file, or delete the split file to make a new split (other numbers follow)"


class FolderOptions(Frozen):
    """How an image folder is divided."""

    min_images: int = Field(
        default=15, ge=3, le=10**9, description="images an identity needs to become private"
    )
    max_private: int | None = Field(
        default=100,
        ge=2,
        le=10**9,
        description="most private identities; the others are public. None: no limit",
    )
    val_fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.4,
        description="share of each private identity's images for validation",
    )
    test_fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.4,
        description="share of each private identity's images for testing",
    )
    split_seed: int = Field(
        default=0, ge=0, lt=2**63, description="seed of the choice of identities and images"
    )
    skip_unreadable: bool = Field(
        default=False,
        description="leave out unusable files and list them, instead of refusing the folder",
    )


class PrivateIdentity(Frozen):
    """A private identity and its images; paths are relative to the root, with ``/``."""

    name: str
    train: tuple[str, ...] = Field(min_length=1)
    val: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)

    @property
    def files(self) -> tuple[str, ...]:
        """Training, validation and test images."""
        return self.train + self.val + self.test


class PublicIdentity(Frozen):
    """A public identity and its images; paths are relative to the root, with ``/``."""

    name: str
    files: tuple[str, ...] = Field(min_length=1)


class SkippedFile(Frozen):
    """A file (or an identity's folder) that was left out, and why."""

    path: str
    reason: str


class FolderSplit(Frozen):
    """Which image of a folder is used for what.

    Attributes:
        version: version of this file format.
        options: what the split was made with.
        private, public: identities sorted by name; an identity's label is its position.
        skipped: what was left out.
        sha256: checksum of the contents of every file used.
    """

    version: Literal[1] = 1
    options: FolderOptions
    private: tuple[PrivateIdentity, ...] = Field(min_length=2)
    public: tuple[PublicIdentity, ...] = Field(min_length=1)
    skipped: tuple[SkippedFile, ...] = ()
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> FolderSplit:
        names = [i.name for i in self.private] + [i.name for i in self.public]
        identities = Counter(names)
        files = Counter(self.files)
        for kind, counts in (("identity", identities), ("file", files)):
            twice = [name for name, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"{kind} {twice[0]} appears twice")
        if files.keys() != self.sha256.keys():
            raise ValueError("sha256 must name exactly the files used")
        for file in files:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file} lies outside the root")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """All files used, private ones first."""
        lists = [i.files for i in self.private] + [i.files for i in self.public]
        return tuple(file for files in lists for file in files)

    @property
    def digest(self) -> str:
        """SHA-256 of what is used for what and of its contents.

        Options and skipped files are not part of it: a folder from which the broken files were
        deleted gives the same data, and so the same numbers.
        """
        return digest(self.model_dump(mode="json", exclude={"options", "skipped"}))


_DEFAULT = FolderOptions()


def make_split(
    root: str | Path,
    *,
    min_images: int = _DEFAULT.min_images,
    max_private: int | None = _DEFAULT.max_private,
    val_fraction: float = _DEFAULT.val_fraction,
    test_fraction: float = _DEFAULT.test_fraction,
    split_seed: int = _DEFAULT.split_seed,
    skip_unreadable: bool = _DEFAULT.skip_unreadable,
    progress: Progress | None = None,
) -> FolderSplit:
    """Divide an image folder, after checking every file in it.

    Identities with at least ``min_images`` usable images are private, or a random ``max_private``
    of them; all others are public. A private identity with n images gives
    ``max(1, floor(n * val_fraction))`` of them to validation, as many by its own fraction to
    testing, and the rest to training. The result depends on names, contents and options only, not
    on the order in which the file system lists them.

    Structure, headers and the number of identities are checked first, so a wrong request fails
    within seconds; then every file is hashed and decoded once, which finds truncated ones.

    Args:
        root: folder with one sub-folder per identity.
        min_images, max_private, val_fraction, test_fraction, split_seed, skip_unreadable: see
            :class:`FolderOptions`.
        progress: called after each file of the final check.

    Raises:
        RequestError: when the folder has another layout, holds unusable files (unless
            ``skip_unreadable``), or yields fewer than two private identities or no public image.
        pydantic.ValidationError: when an option is out of its range.
    """
    options = FolderOptions(
        min_images=min_images,
        max_private=max_private,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        skip_unreadable=skip_unreadable,
    )
    root = Path(root)
    found, skipped = scan(root)
    files = [file for name in found for file in found[name]]
    reasons = on_all_cores(lambda file: inspect_header(root / file), files)
    skipped.update({f: reason for f, reason in zip(files, reasons, strict=True) if reason})
    _refuse_unusable(root, skipped, options)
    _choose(root, _without(found, skipped), options)

    files = [file for file in files if file not in skipped]
    checked = on_all_cores(lambda file: _check(root / file), files, progress)
    skipped.update({f: reason for f, (_, reason) in zip(files, checked, strict=True) if reason})
    _refuse_unusable(root, skipped, options)
    usable = _without(found, skipped)
    private, public = _choose(root, usable, options)
    sums = {file: sha for file, (sha, _) in zip(files, checked, strict=True)}
    return FolderSplit(
        options=options,
        private=tuple(_divide(name, usable[name], options) for name in private),
        public=tuple(PublicIdentity(name=name, files=usable[name]) for name in public),
        skipped=tuple(SkippedFile(path=p, reason=skipped[p]) for p in sorted(skipped)),
        sha256={file: sums[file] for name in usable for file in usable[name]},
    )


def write_split(split: FolderSplit, path: str | Path) -> None:
    """Write a split as JSON, whole or not at all."""
    save_json(Path(path), split.model_dump(mode="json"))


def read_split(path: str | Path, root: str | Path | None = None) -> FolderSplit:
    """Read a split file, and check the images against it when ``root`` is given.

    Raises:
        RequestError: when the split file is missing or damaged, or when an image that it names is
            missing or has changed.
    """
    try:
        split = FolderSplit.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise RequestError(f"split file {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RequestError(
            f"split file {path} is not valid ({where}: {first['msg']}): "
            "restore it, or delete it to make a new split"
        ) from error
    if root is not None:
        base = Path(root)
        on_all_cores(lambda file: read_checked(base, file, split), split.files)
    return split


def read_checked(root: Path, file: str, split: FolderSplit) -> bytes:
    """Contents of a file of the split.

    Raises:
        RequestError: when it is missing or its checksum differs from the split's.
    """
    try:
        data = (root / file).read_bytes()
    except OSError as error:
        raise RequestError(
            f"{root / file}, which the split names, cannot be read ({error.strerror}): {_REMAKE}"
        ) from error
    if hashlib.sha256(data).hexdigest() != split.sha256[file]:
        raise RequestError(f"{root / file} has changed since the split was made: {_REMAKE}")
    return data


def _check(path: Path) -> tuple[str, str | None]:
    """Checksum of a file, and why it cannot be decoded."""
    try:
        data = path.read_bytes()
        decode(data, _CHECK_RESOLUTION)
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"
    except UnusableImage as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), None


def _without(
    found: Mapping[str, tuple[str, ...]], skipped: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The identities with their usable images, without those that have none left."""
    usable = {n: tuple(f for f in files if f not in skipped) for n, files in found.items()}
    return {name: files for name, files in usable.items() if files}


def _refuse_unusable(root: Path, skipped: Mapping[str, str], options: FolderOptions) -> None:
    if not skipped or options.skip_unreadable:
        return
    lines = [f"  {path}: {skipped[path]}" for path in sorted(skipped)[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  ... and {len(skipped) - _SHOWN} more")
    listed = "\n".join(lines)
    raise RequestError(
        f"{len(skipped)} entries of {root} cannot be used:\n{listed}\nRepair or delete them, or "
        "leave them out with --set protocol.skip_unreadable=true (the split file lists them)"
    )


def _choose(
    root: Path, usable: Mapping[str, tuple[str, ...]], options: FolderOptions
) -> tuple[list[str], list[str]]:
    """Names of the private and of the public identities, sorted."""
    names = sorted(usable)
    candidates = [name for name in names if len(usable[name]) >= options.min_images]
    if len(candidates) < 2:
        counts = sorted((len(files) for files in usable.values()), reverse=True)
        enough = counts[1] if len(counts) > 1 else 0
        advice = (
            f"lower --set protocol.min_images to {enough} or less"
            if enough >= 3
            else "at least two identities need 3 images or more"
        )
        raise RequestError(
            f"{root}: {len(candidates)} of {len(names)} identities have "
            f"{options.min_images} or more usable images, but 2 private identities are the "
            f"least: {advice}"
        )
    if options.max_private is not None and len(candidates) > options.max_private:
        order = torch.randperm(
            len(candidates), generator=stream(options.split_seed, "folder", "private")
        )
        chosen = sorted(candidates[i] for i in order[: options.max_private].tolist())
    else:
        chosen = candidates
    public = sorted(set(names) - set(chosen))
    if not public:
        raise RequestError(
            f"{root}: all {len(names)} identities are private, so that no public image is left "
            "for the attacker: "
            + (
                f"lower --set protocol.max_private to {len(names) // 2} or so"
                if len(names) >= 4
                else "add identities, or raise --set protocol.min_images"
            )
        )
    return chosen, public


def _divide(name: str, files: tuple[str, ...], options: FolderOptions) -> PrivateIdentity:
    """Training, validation and test images of one identity."""
    generator = stream(options.split_seed, "folder", "images", name)
    order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
    # Rounded down, with fractions of at most 0.4, so that an image is always left for training; the
    # small term keeps 0.29 · 100 = 28.999… from losing one.
    val = max(1, math.floor(len(files) * options.val_fraction + 1e-9))
    test = max(1, math.floor(len(files) * options.test_fraction + 1e-9))
    return PrivateIdentity(
        name=name,
        val=tuple(sorted(order[:val])),
        test=tuple(sorted(order[val : val + test])),
        train=tuple(sorted(order[val + test :])),
    )
