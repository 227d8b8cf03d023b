"""FaceScrub: 106,863 photographs of 530 actors, published as a list of addresses and face boxes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mibench.data import source as data

_GROUPS = ("actors", "actresses")
_LISTS = {group: f"facescrub_{group}.txt" for group in _GROUPS}
_HEADER = ["name", "image_id", "face_id", "url", "bbox", "sha256"]
_SHA256 = re.compile("[0-9a-f]{64}")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Row:
    """A row of a list; ``sum`` is its SHA-256 of the original, empty where it holds none."""

    place: str
    person: str
    image: str
    face: str
    box: Box
    sum: str

    @property
    def source(self) -> str:
        return f"{self.person}/{self.image}_{self.face}"


@data.register_source("facescrub")
class FaceScrub(data.Source):
    """Face pictures in actor folders, or downloaded originals with the list of boxes.

    Of the lists, each picture counts once: a row that is there again is left out, one that
    contradicts an earlier row is refused, and so is an original whose SHA-256 is not the list's
    (a server's "not found" picture, or one that was replaced). The sums are of the originals, so
    cropped faces cannot be compared with them.
    """

    card = data.DatasetCard(
        name="facescrub",
        title="FaceScrub",
        licence="CC BY-NC-ND 3.0 for the list; the photographs belong to their publishers",
        home="https://vintage.winklerbros.net/facescrub.html",
        images=106_863,
        identities=530,
        of_people=True,
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

    def listing(self, root: Path, *, incomplete: bool = False) -> data.Listing:
        """Of the originals where the lists are, unless ``faces`` folders hold cropped ones."""
        if not root.is_dir():
            raise self.refuse(f"there is no folder {root}")
        lists = {group: root / name for group, name in _LISTS.items() if (root / name).exists()}
        if len(lists) == 1:
            absent = next(name for group, name in _LISTS.items() if group not in lists)
            raise self.refuse(f"{root} has {next(iter(lists.values())).name}, but not {absent}")
        faces = [f"{group}/faces" for group in _GROUPS]
        if lists and data.first_folder(root, faces) is None:
            return self._boxed(root, lists)
        layout, present = "", [""]
        for title, bases in (("actors/faces", faces), ("actors", [*_GROUPS]), ("Name", [""])):
            layout, present = title, [base for base in bases if (root / base).is_dir()]
            if 0 < len(present) < len(bases):
                absent = next(base for base in bases if base not in present)
                raise self.refuse(f"{root} has {present[0]}, but not {absent}")
            if present:
                break
        found: dict[str, tuple[str, list[str]]] = {}
        for base in present:
            for name in data.listed(root / base)[0]:
                folders, images = data.listed(root / base / name)
                if folders and not images:
                    raise self.refuse(
                        f"{root / base / name} holds folders, not images ({data.few(folders)})"
                    )
                if images and found.setdefault(name, (base, images))[0] != base:
                    raise self.refuse(f"the actor {name} is in {found[name][0]} and in {base}")
        if not found:
            raise self.refuse(f"{root} holds no actor's folder with images")
        people = [name for name, (_, images) in found.items() for _ in images]
        sources = [f"{name}/{image}" for name, (_, images) in found.items() for image in images]
        above = {name: f"{base}/" if base else "" for name, (base, _) in found.items()}
        files = [above[name] + source for name, source in zip(people, sources, strict=True)]
        return data.arrange(layout, sources, files, people)

    def _boxed(self, root: Path, lists: dict[str, Path]) -> data.Listing:
        """Originals, one row for each box of the lists whose picture is there."""
        found: dict[str, _Row] = {}
        files: dict[str, str] = {}
        repeated = 0
        for group, path in lists.items():
            base = data.first_folder(root, (f"{group}/images", group, "images", "")) or root
            folders = self._by_name(base, data.listed(base)[0])
            held: dict[str, dict[str, str]] = {}
            for row in self._rows(path):
                if earlier := found.get(row.source):
                    if (earlier.box, earlier.sum) != (row.box, row.sum):
                        raise self.refuse(
                            f"{row.place} gives the picture {row.source} another box or SHA-256 "
                            f"than {earlier.place}: delete the row that is wrong"
                        )
                    repeated += row.source in files
                    continue
                found[row.source] = row
                folder = folders.get(row.person)
                if folder is None:
                    continue
                if folder not in held:
                    images = data.listed(base / folder)[1]
                    held[folder] = self._by_name(base / folder, images, stems=True)
                stem = f"{row.person}_{row.image}"
                file = held[folder].get(f"{stem}_{row.face}") or held[folder].get(stem)
                if file is not None:
                    files[row.source] = (base / folder / file).relative_to(root).as_posix()
        if not files:
            raise self.refuse(f"{root} has the lists of boxes, but none of the pictures they name")
        return self._listing_of({source: found[source] for source in files}, files, repeated)

    def _listing_of(
        self, rows: dict[str, _Row], files: dict[str, str], repeated: int
    ) -> data.Listing:
        """The listing of the rows whose pictures are there, without copies of one picture."""
        notes = [_counted(repeated, "repeats an earlier one", "repeat earlier ones")]
        shown: dict[tuple[str, Box], list[_Row]] = defaultdict(list)
        for source, row in rows.items():
            # One original at one address, or one with equal contents at two, in one box: one face.
            shown[row.sum or files[source], row.box].append(row)
        copies, doubtful = 0, 0
        for alike in shown.values():
            several = len({row.person for row in alike}) > 1
            for row in alike if several else alike[1:]:
                del rows[row.source]
            doubtful += len(alike) if several else 0
            copies += 0 if several else len(alike) - 1
        notes.append(_counted(copies, "shows a face of another row", "show faces of other rows"))
        notes.append(_counted(doubtful, "is of two people", "give one face to two people"))
        without = sum(not row.sum for row in rows.values())
        if without:
            notes.append(f"{without:,} rows of the lists hold no SHA-256 to compare a picture with")
        return data.arrange(
            "boxes",
            list(rows),
            [files[source] for source in rows],
            [row.person for row in rows.values()],
            boxes=[row.box for row in rows.values()],
            sums=[row.sum for row in rows.values()],
            notes=tuple(filter(None, notes)),
        )

    def _by_name(self, folder: Path, names: list[str], *, stems: bool = False) -> dict[str, str]:
        """Names in a folder by what the lists call them."""
        found: dict[str, str] = {}
        for name in names:
            called = _plain(Path(name).stem if stems else name)
            if other := found.get(called):
                raise self.refuse(f"{folder} has {other} and {name}, but the lists know one")
            found[called] = name
        return found

    def _rows(self, path: Path) -> Iterator[_Row]:
        """Each line of a list."""
        lines = self.read(path).decode("utf-8", "replace").splitlines()
        if not lines or lines[0].split("\t") != _HEADER:
            raise self.refuse(f"{path}, line 1: expected the columns {', '.join(_HEADER)}")
        for number, line in enumerate(lines[1:], start=2):
            cells = line.split("\t")
            numbers = cells[4].split(",") if len(cells) == len(_HEADER) else []
            if len(numbers) != 4 or not all(n.strip().lstrip("-").isdigit() for n in numbers):
                raise self.refuse(f"{path}, line {number} is not a row of the list: {line[:80]!r}")
            left, top, right, bottom = map(int, numbers)
            if max(map(abs, (left, top, right, bottom))) >= 2**31:
                raise self.refuse(f"{path}, line {number}: no picture has a box like {cells[4]}")
            sum_ = cells[5].strip().lower()
            yield _Row(
                place=f"{path}, line {number},",
                person=_plain(cells[0]),
                image=cells[1],
                face=cells[2],
                box=(left, top, right, bottom),
                sum=sum_ if _SHA256.fullmatch(sum_) else "",
            )


def _counted(count: int, one: str, many: str) -> str:
    """A note on rows that were left out; empty for none."""
    what = f"row of the lists {one}" if count == 1 else f"rows of the lists {many}"
    return f"left out: {count:,} {what}" if count else ""


def _plain(name: str) -> str:
    return name.replace(" ", "_")
