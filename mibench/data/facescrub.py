"""FaceScrub: 106,863 photographs of 530 actors, published as a list of addresses and face boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mibench.data.source import DatasetCard, Listing, Reader, arrange, few, first_folder, listed

_GROUPS = ("actors", "actresses")
_LISTS = {group: f"facescrub_{group}.txt" for group in _GROUPS}
_HEADER = ["name", "image_id", "face_id", "url", "bbox", "sha256"]

Box = tuple[int, int, int, int]


class FaceScrub(Reader):
    """Face pictures in actor folders, or downloaded originals with the list of boxes."""

    card = DatasetCard(
        name="facescrub",
        title="FaceScrub",
        licence="CC BY-NC-ND 3.0 for the list; the photographs belong to their publishers",
        home="https://vintage.winklerbros.net/facescrub.html",
        images=106_863,
        identities=530,
        original_bytes=20_000_000_000,
        layout=(
            "faces, in one of these:\n"
            "├── actors/faces/Name/*.jpeg and actresses/faces/Name/*.jpeg\n"
            "├── actors/Name/* and actresses/Name/*\n"
            "└── Name/*\n"
            "or originals with the lists of boxes:\n"
            "├── facescrub_actors.txt, facescrub_actresses.txt\n"
            "└── actors/images/Name/Name_<image id>.jpg, or images/Name/…, or Name/…\n"
            "    (Name_<image id>_<face id>.jpg also; spaces in names may be underscores)"
        ),
        how_to_get=(
            "Ask for the lists on the home page, then fetch the originals with any FaceScrub "
            "downloader. Many addresses are dead, so nobody has all pictures today: pass "
            "--incomplete; counts and checksums of what there is are recorded."
        ),
        resolution=224,
        preprocessing=(
            "the face (cropped to the published box where originals are given) resized to a square "
            "with an antialiased bilinear filter, stretched where it is not square, as in PPA's "
            "released code; no further crop (the seed paper's code has one of 54 of 64, which it "
            "leaves out for FaceScrub)"
        ),
        always_partial=True,
    )

    def listing(self, root: Path, *, incomplete: bool = False) -> Listing:
        """See :class:`mibench.data.source.Reader`."""
        if not root.is_dir():
            raise self.refuse(f"there is no folder {root}")
        lists = {group: root / name for group, name in _LISTS.items() if (root / name).exists()}
        if len(lists) == 1:
            absent = next(name for group, name in _LISTS.items() if group not in lists)
            raise self.refuse(f"{root} has {next(iter(lists.values())).name}, but not {absent}")
        originals = lists and self._has_originals(root)
        return self._boxed(root, lists) if originals else self._faces(root)

    def _has_originals(self, root: Path) -> bool:
        """Whether pictures beside the lists are whole ones; ``faces`` folders hold cropped ones."""
        return first_folder(root, [f"{group}/faces" for group in _GROUPS]) is None

    def _faces(self, root: Path) -> Listing:
        """Cropped faces in actor folders."""
        for layout, bases in (
            ("actors/faces", [f"{group}/faces" for group in _GROUPS]),
            ("actors", list(_GROUPS)),
        ):
            present = [base for base in bases if (root / base).is_dir()]
            if len(present) == 1:
                absent = next(base for base in bases if base not in present)
                raise self.refuse(f"{root} has {present[0]}, but not {absent}")
            if present:
                return self._arranged(root, layout, present)
        return self._arranged(root, "Name", [""])

    def _arranged(self, root: Path, layout: str, bases: list[str]) -> Listing:
        found = list(self._pictures(root, bases))
        if not found:
            raise self.refuse(f"{root} holds no actor's folder with images")
        sources = [f"{name}/{file}" for _, name, file in found]
        return arrange(layout, sources, ["/".join(filter(None, f)) for f in found], _names(found))

    def _pictures(self, root: Path, bases: list[str]) -> Iterator[tuple[str, str, str]]:
        """Base folder, actor's folder and file name of each image."""
        seen: dict[str, str] = {}
        for base in bases:
            for name in listed(root / base)[0]:
                folders, images = listed(root / base / name)
                if folders and not images:
                    raise self.refuse(
                        f"{root / base / name} holds folders, not images ({few(folders)})"
                    )
                if images and seen.setdefault(name, base) != base:
                    raise self.refuse(f"the actor {name} is in {seen[name]} and in {base}")
                yield from ((base, name, image) for image in images)

    def _boxed(self, root: Path, lists: dict[str, Path]) -> Listing:
        """Originals, one row for each box of the lists whose picture is there."""
        sources, files, people, boxes = [], [], [], []
        for group, path in lists.items():
            base = first_folder(root, (f"{group}/images", group, "images", "")) or root
            above = base.relative_to(root).as_posix()
            folders = {_plain(name): name for name in listed(base)[0]}
            held: dict[str, dict[str, str]] = {}
            for name, image, face, box in self._rows(path):
                folder = folders.get(_plain(name))
                if folder is None:
                    continue
                if folder not in held:
                    held[folder] = {_plain(Path(f).stem): f for f in listed(base / folder)[1]}
                stem = f"{_plain(name)}_{image}"
                file = held[folder].get(f"{stem}_{face}") or held[folder].get(stem)
                if file is None:
                    continue
                sources.append(f"{_plain(name)}/{image}_{face}")
                files.append(f"{folder}/{file}" if above == "." else f"{above}/{folder}/{file}")
                people.append(_plain(name))
                boxes.append(box)
        if not files:
            raise self.refuse(f"{root} has the lists of boxes, but none of the pictures they name")
        return arrange("boxes", sources, files, people, boxes=boxes)

    def _rows(self, path: Path) -> Iterator[tuple[str, str, str, Box]]:
        """Name, image number, face number and box of each line of a list."""
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise self.refuse(f"{path} cannot be read ({error.strerror})") from error
        if not lines or lines[0].split("\t") != _HEADER:
            raise self.refuse(f"{path}, line 1: expected the columns {', '.join(_HEADER)}")
        for number, line in enumerate(lines[1:], start=2):
            cells = line.split("\t")
            numbers = cells[4].split(",") if len(cells) == len(_HEADER) else []
            if len(numbers) != 4 or not all(n.strip().lstrip("-").isdigit() for n in numbers):
                raise self.refuse(f"{path}, line {number} is not a row of the list: {line[:80]!r}")
            left, top, right, bottom = map(int, numbers)
            yield cells[0], cells[1], cells[2], (left, top, right, bottom)


def _names(found: list[tuple[str, str, str]]) -> list[str]:
    return [name for _, name, _ in found]


def _plain(name: str) -> str:
    return name.replace(" ", "_")
