"""Splits of an image folder into private and public identities, pinned by checksums."""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from pydantic import Field, ValidationError, model_validator

from mibench.data.decode import (
    Progress,
    UnusableImage,
    decode,
    image_bytes,
    inspect_header,
    on_all_cores,
    open_image,
    to_rgb,
    upright,
)
from mibench.data.scan import scan
from mibench.errors import RequestError
from mibench.files import read_file, user_path
from mibench.store.artifact import save_json
from mibench.streams import stream
from mibench.types import Frozen, digest

_SHOWN = 10  # files that an error message lists
_MOST_BYTES = 2**30  # of a split file, which has about 150 for each image
_CHECK_RESOLUTION = 8  # small, so that JPEG's draft mode makes the check of the contents cheap
_REMAKE = "restore the file, or delete the split file to make a new split (other numbers follow)"


_log = logging.getLogger("mibench.data")


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
    def split(self) -> str:
        """SHA-256 of which image is used for what, by its name."""
        return digest(self.model_dump(mode="json", include={"private", "public"}))

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

    A picture that is there twice counts once: of equal ones of one identity the first by name is
    kept, and none of those that are in the folders of several identities, where nothing tells whom
    they show. Equal are files whose bytes are, or whose pixels are once they are decoded in full;
    a picture that was scaled, cropped or compressed again is another one. All that are left out
    are in ``skipped``.

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
    root = user_path(root, "the image folder (--root)")
    found, skipped = scan(root)
    files = [file for name in found for file in found[name]]
    reasons = on_all_cores(lambda file: inspect_header(root / file), files)
    skipped.update({f: reason for f, reason in zip(files, reasons, strict=True) if reason})
    _refuse_unusable(root, skipped, options)
    _choose(root, _without(found, skipped), options)

    files = [file for file in files if file not in skipped]
    results = on_all_cores(lambda file: _check(root / file), files, progress)
    checked = dict(zip(files, results, strict=True))
    skipped.update({f: result for f, result in checked.items() if isinstance(result, str)})
    _refuse_unusable(root, skipped, options)
    sums = {file: result for file, result in checked.items() if not isinstance(result, str)}
    copies = _copies(root, sums)
    if copies:
        _log.warning(
            "%d pictures of %s are left out, being there more than once: as %s, %s",
            *(len(copies), root, file := min(copies), copies[file]),
        )
    skipped |= copies
    usable = _without(found, skipped)
    private, public = _choose(root, usable, options)
    return FolderSplit(
        options=options,
        private=tuple(_divide(name, usable[name], options) for name in private),
        public=tuple(PublicIdentity(name=name, files=usable[name]) for name in public),
        skipped=tuple(SkippedFile(path=p, reason=skipped[p]) for p in sorted(skipped)),
        sha256={file: sums[file].sha256 for name in usable for file in usable[name]},
    )


def expected_training_images(root: str | Path, options: FolderOptions) -> int:
    """About how many private images a folder gives to training; no image is opened.

    Raises:
        RequestError: the folder has another layout.
    """
    found, _ = scan(user_path(root, "the image folder (--root)"))
    counts = [len(files) for files in found.values() if len(files) >= options.min_images]
    private = min(len(counts), options.max_private or len(counts))
    mean = sum(counts) / max(1, len(counts))
    return round(private * mean * (1 - options.val_fraction - options.test_fraction))


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
        split = FolderSplit.model_validate_json(read_file(path, "split file", _MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RequestError(
            f"split file {path} is not valid ({where}: {first['msg']}): "
            "restore it, or delete it to make a new split"
        ) from error
    if root is not None:
        base = user_path(root, "the image folder (--root)")
        on_all_cores(lambda file: read_checked(base, file, split), split.files)
    return split


def read_checked(root: Path, file: str, split: FolderSplit) -> bytes:
    """Contents of a file of the split.

    Raises:
        RequestError: when it is missing or its checksum differs from the split's.
    """
    try:
        data = image_bytes(root / file)
    except UnusableImage as error:
        raise RequestError(f"{root / file}, which the split names, {error}: {_REMAKE}") from error
    if hashlib.sha256(data).hexdigest() != split.sha256[file]:
        raise RequestError(f"{root / file} has changed since the split was made: {_REMAKE}")
    return data


@dataclass(frozen=True)
class _Sums:
    """Checksum of a file, and its pixels at a few by a few."""

    sha256: str
    thumbnail: bytes


def _check(path: Path) -> _Sums | str:
    """What is compared of a file, or why it cannot be decoded."""
    try:
        data = image_bytes(path)
        return _Sums(hashlib.sha256(data).hexdigest(), decode(data, _CHECK_RESOLUTION).tobytes())
    except UnusableImage as error:
        return str(error)


def _copies(root: Path, sums: Mapping[str, _Sums]) -> dict[str, str]:
    """The files to leave out because they show a picture that is there again, with the reason."""
    # Files whose thumbnails differ are different: few are left to be decoded in full.
    alike = Counter(each.thumbnail for each in sums.values())
    candidates = [file for file, each in sums.items() if alike[each.thumbnail] > 1]
    shown = on_all_cores(lambda file: _pixels(root / file), candidates)
    groups: dict[str, list[str]] = defaultdict(list)
    for file, pixels in zip(candidates, shown, strict=True):
        groups[pixels].append(file)
    left_out: dict[str, str] = {}
    for files in groups.values():
        first, *others = sorted(files)
        if len({file.partition("/")[0] for file in files}) == 1:
            left_out |= dict.fromkeys(others, f"the same picture as {first}")
        else:
            for file in files:
                other = next(f for f in files if f.partition("/")[0] != file.partition("/")[0])
                left_out[file] = f"the same picture as {other}, of another identity"
    return left_out


def _pixels(path: Path) -> str:
    """SHA-256 of the pixels of an image in full, which was decoded before."""
    try:
        with open_image(io.BytesIO(image_bytes(path))) as image:
            rgb = to_rgb(upright(image))
            return hashlib.sha256(f"{rgb.size} ".encode() + rgb.tobytes()).hexdigest()
    except (UnusableImage, OSError) as error:
        raise RequestError(f"{path} changed while it was read: {error}") from error


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
