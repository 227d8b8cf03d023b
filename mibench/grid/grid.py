"""What a grid is: a TOML file or options, expanded to cells.

A file, as ``mibench grid board.toml`` takes it::

    protocol = "synthfaces-32"
    attacks = ["kedmi", "improved-kedmi"]    # "standard": all of the protocol's lists
    defenses = ["none", "bido"]
    seeds = "0-2"

    [set]                                # for all cells
    "attack.iterations" = 100

    [sweeps.bido]                        # more points of one defense, beside its default
    "defense.scale" = [0, 1, 2, 5]

    [[override]]                         # for the cells that match
    attack = "gmi"
    set = { "attack.iterations" = 50 }

    [[grid]]                             # several grids in one file; the fields above are defaults
    targets = ["resnet18"]
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from mibench.cell.request import Request, make_request
from mibench.errors import RequestError
from mibench.files import read_toml
from mibench.names import STANDARD
from mibench.registry import closest
from mibench.settings import check_value, explain, plain, shown
from mibench.types import Frozen, Name, Preset, Seed, Share

# Of one grid; a plan of so many takes minutes to make, and more are a slip of the pen.
MOST_CELLS = 10_000
_PART = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")


class Override(Frozen):
    """Settings of the cells that match every field given."""

    target: Name | None = None
    defense: Name | None = None
    attack: Name | None = None
    prior: Name | None = None
    seed: Seed | None = None
    set: dict[str, Any]

    @property
    def wanted(self) -> dict[str, Any]:
        """What a cell's fields must be."""
        return self.model_dump(exclude={"set"}, exclude_none=True)

    def matches(self, request: Request) -> bool:
        """Whether ``request`` is one of the cells meant."""
        return all(getattr(request, field) == value for field, value in self.wanted.items())


class Grid(Frozen):
    """One grid: the product of its lists."""

    protocol: Name = Field("synthfaces-32", description="evaluation setting of all cells")
    root: Name | None = Field(None, description="image folder or file, for the protocol `folder`")
    preset: Preset | None = Field(None, description="size of the protocol `folder`")
    data: Name | None = Field(None, description="folder of prepared data sets")
    budget: Share = Field(1.0, description="share of all epochs and steps, and of what is judged")
    targets: tuple[Name | None, ...] = Field(
        (None,), min_length=1, description="architectures; null is the protocol's own"
    )
    defenses: tuple[Name, ...] = Field(("none",), min_length=1, description="defenses")
    attacks: tuple[Name, ...] = Field(
        ("improved-kedmi",),
        min_length=1,
        description="attacks; `standard` stands for the protocol's lists",
    )
    priors: tuple[Name | None, ...] = Field(
        (None,), min_length=1, description="kinds of priors; null is the attack's own"
    )
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=MOST_CELLS, description='seeds: [0, 1, 2] or "0-2"'
    )
    controls: bool = Field(
        False,
        strict=True,
        description="also run each defense at strength 0, unless `none` is its control",
    )
    sweeps: dict[str, dict[str, tuple[Any, ...] | str]] = Field(
        default_factory=dict,
        description="by defense: a field and its values, or `all` for the defense's own strengths",
    )
    set: dict[str, Any] = Field(default_factory=dict, description="settings of all cells")
    override: tuple[Override, ...] = Field((), description="settings of some cells")

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> Any:
        return parse_seeds(value) if isinstance(value, str) else value

    def cells(self) -> Iterator[Request]:
        """The cells, target by target, so that those that share stages come together.

        Raises:
            RequestError: a sweep names a defense that is not in the grid, or one without strengths;
                there are too many cells; or a setting is none.
        """
        for name in self.sweeps:
            if name not in self.defenses:
                raise RequestError(
                    f"sweeps.{plain(name)}: the grid has no defense {shown(name)}; it has "
                    f"{', '.join(self.defenses)}"
                )
        points = {defense: self._points(defense) for defense in dict.fromkeys(self.defenses)}
        attacks = {defense: self.attacks_on(defense) for defense in points}
        attacked = [
            (name, settings, attack)
            for name in self.defenses
            for settings in points[name]
            for attack in attacks[name]
        ]
        axes = (self.targets, self.seeds, attacked, self.priors)
        count = math.prod(map(len, axes))
        if count > MOST_CELLS:
            raise RequestError(
                f"the grid has {count:,} cells ({len(self.targets):,} targets, "
                f"{len(self.defenses):,} defenses and their points, {len(self.attacks):,} attacks, "
                f"{len(self.priors):,} priors, {len(self.seeds):,} seeds), more than "
                f"{MOST_CELLS:,}: make several grids of it"
            )
        for target, seed, (defense, settings, attack), prior in itertools.product(*axes):
            yield self._cell(
                settings, target=target, defense=defense, attack=attack, prior=prior, seed=seed
            )

    def _cell(self, settings: dict[str, Any], **axes: Any) -> Request:
        request = make_request(
            protocol=self.protocol,
            **axes,
            root=self.root,
            preset=self.preset,
            data=self.data,
            budget=self.budget,
        )
        overrides = {**self.set}
        for each in self.override:
            if each.matches(request):
                overrides |= each.set
        # Of a part of the grid that has been checked; pydantic would copy it all again.
        return request.model_copy(update={"overrides": {**overrides, **settings}})

    def foreign(self, override: Override) -> str:
        """What keeps an override from matching any cell, as a message says it; ``""``: nothing."""
        for field, value in override.wanted.items():
            held: tuple[Any, ...] = getattr(self, f"{field}s")
            if field == "attack":
                held = tuple(dict.fromkeys(a for d in self.defenses for a in self.attacks_on(d)))
            if value not in held:
                names = [name for name in held if isinstance(name, str)]
                hint = closest(value, names) if isinstance(value, str) else ""
                return f"the grid has no {field} {shown(value)}{'; ' + hint if hint else ''}"
        return ""

    def attacks_on(self, defense: str) -> tuple[str, ...]:
        """The attacks on a defense, with the standard set as its attacks.

        It has none with white-box access where the defense changes the answers only: whoever has
        the weights takes that off.

        Raises:
            RequestError: there is no such protocol or defense.
        """
        if STANDARD not in self.attacks:
            return self.attacks
        from mibench.protocols import card_named  # imports torch, as defenses do
        from mibench.training.defense import DEFENSES

        output = DEFENSES.get(defense).filters()
        found = card_named(self.protocol).board.standard(output=output)
        names = (found if name == STANDARD else (name,) for name in self.attacks)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))

    def _points(self, defense: str) -> list[dict[str, Any]]:
        """Settings of a defense's points: its default, its control, its sweep."""
        from mibench.training.defense import DEFENSES  # imports torch

        method = DEFENSES.get(defense)
        knob = f"defense.{method.strength}" if method.strength else None
        points: list[dict[str, Any]] = [{}]
        plain = hasattr(method, "card") and method.card.undefended_control
        if self.controls and knob and not plain:
            points.append({knob: 0})
        for field, values in self.sweeps.get(defense, {}).items():
            if values == "all":
                if field != knob:
                    raise RequestError(
                        f"sweeps.{defense}.{field}: `all` stands for the defense's own strengths, "
                        + (f"which are of {knob}" if knob else "and it has none: list the values")
                    )
                values = method.strengths
            elif isinstance(values, str) or not values:
                raise RequestError(f'sweeps.{defense}.{field}: a list of values, or "all"')
            points += [{field: value} for value in values]
        return points


def parse_seeds(text: str) -> list[int]:
    """Seeds written as ``"0-2"``, ``"0,3"`` or ``"0-2,7"``.

    Raises:
        RequestError: a part is neither a number nor a range, or there are too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise RequestError(f"seeds {shown(text)}: write numbers and ranges, as 0-2 or 0,3,5")
        if last - first + len(seeds) >= MOST_CELLS:
            raise RequestError(f"seeds {shown(text)}: more than {MOST_CELLS:,}")
        seeds += range(first, last + 1)
    return seeds


def read_grids(path: Path) -> list[Grid]:
    """The grids of a TOML file.

    Raises:
        RequestError: the file cannot be read, is no TOML, has an unknown field or a wrong value, or
            an override matches no cell.
    """
    content = read_toml(path, "the grid file")
    blocks = content.pop("grid", [{}])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise RequestError(
            f"the grid file {path}: write [[grid]], with two brackets, for each grid"
        )
    grids = [make_grid({**content, **block}, str(path)) for block in blocks]
    for grid in grids:
        for index, each in enumerate(grid.override, 1):
            # One above all [[grid]] is part of each of them, and means the cells of some.
            if all(other.foreign(each) for other in grids if each in other.override):
                raise RequestError(
                    f"{path}: override {index} matches no cell: {grid.foreign(each)}"
                )
    return grids


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    for path, value in settings.items():
        check_value(value, f"{where}.{plain(path)}")
        if "." not in path and isinstance(value, dict):
            inside = next(iter(value), "…")
            raise RequestError(
                f"{where}: {plain(path)} is a table; write the path of each field in quotes, as "
                f'"{plain(path)}.{plain(inside)}" = …'
            )


def make_grid(fields: Mapping[str, Any], where: str) -> Grid:
    """A grid from plain values.

    Raises:
        RequestError: an unknown field (close names are offered) or a wrong value.
    """
    try:
        grid = Grid.model_validate(dict(fields))
    except RequestError as error:  # of seeds written as text
        raise RequestError(f"{where}: {error}") from error
    except ValidationError as error:
        unknown = [each for each in error.errors() if each["type"] == "extra_forbidden"]
        if unknown:
            place = unknown[0]["loc"]
            known = (Override if len(place) > 1 else Grid).model_fields
            hint = closest(str(place[-1]), known) or f"fields: {', '.join(known)}"
            name = plain(".".join(map(str, place)))
            raise RequestError(
                f"{where}: {name}: {hint} (got {shown(unknown[0]['input'])})"
            ) from error
        raise RequestError(f"{where}: {explain(error)}") from error
    _check_settings(grid.set, f"{where}: set")
    for index, each in enumerate(grid.override, 1):
        _check_settings(each.set, f"{where}: override {index}: set")
    for defense, sweep in grid.sweeps.items():
        for path, values in sweep.items():
            check_value(values, f"{where}: sweeps.{plain(defense)}.{plain(path)}")
    return grid


def expand(grids: list[Grid]) -> list[Request]:
    """The cells of several grids, each once, in order."""
    cells: dict[str, Request] = {}
    for grid in grids:
        for request in grid.cells():
            cells.setdefault(request.model_dump_json(), request)
    return list(cells.values())
