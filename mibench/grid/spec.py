"""What a grid is: a TOML file or options, expanded to cells.

A file, as ``mibench grid board.toml`` takes it::

    protocol = "synthfaces-32"
    attacks = ["kedmi", "improved-kedmi"]
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

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from mibench.errors import RequestError
from mibench.methods import DEFENSES
from mibench.registry import closest
from mibench.types import Frozen, Preset, RunSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_RANGE = re.compile(r"(\d+)-(\d+)")


class Override(Frozen):
    """Settings of the cells that match every field given."""

    target: str | None = None
    defense: str | None = None
    attack: str | None = None
    seed: int | None = None
    set: dict[str, Any]

    def matches(self, spec: RunSpec) -> bool:
        """Whether ``spec`` is one of the cells meant."""
        wanted = self.model_dump(exclude={"set"}, exclude_none=True)
        return all(getattr(spec, field) == value for field, value in wanted.items())


class GridSpec(Frozen):
    """One grid: the product of its lists."""

    protocol: str = Field("synthfaces-32", description="evaluation setting of all cells")
    root: str | None = Field(None, description="image folder, for the protocol `folder`")
    preset: Preset | None = Field(None, description="size of the protocol `folder`")
    data: str | None = Field(None, description="folder of prepared data sets")
    budget: float = Field(1.0, gt=0, le=1, description="share of all epochs and steps")
    targets: tuple[str | None, ...] = Field(
        (None,), min_length=1, description="architectures; null is the protocol's own"
    )
    defenses: tuple[str, ...] = Field(("none",), min_length=1, description="defenses")
    attacks: tuple[str, ...] = Field(("improved-kedmi",), min_length=1, description="attacks")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description='seeds: [0, 1, 2] or "0-2"')
    controls: bool = Field(False, description="also run each defense at strength 0")
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

    def cells(self) -> Iterator[RunSpec]:
        """The cells, target by target, so that those that share stages come together.

        Raises:
            RequestError: a sweep names a defense that is not in the grid, or one without strengths.
        """
        for name in self.sweeps:
            if name not in self.defenses:
                raise RequestError(
                    f"sweeps.{name}: the grid has no defense {name!r}; it has "
                    f"{', '.join(self.defenses)}"
                )
        for target in self.targets:
            for seed in self.seeds:
                for defense in self.defenses:
                    for settings in self._points(defense):
                        for attack in self.attacks:
                            yield self._cell(target, seed, defense, settings, attack)

    def _cell(
        self, target: str | None, seed: int, defense: str, settings: dict[str, Any], attack: str
    ) -> RunSpec:
        spec = RunSpec(
            protocol=self.protocol,
            target=target,
            defense=defense,
            attack=attack,
            seed=seed,
            root=self.root,
            preset=self.preset,
            data=self.data,
            budget=self.budget,
        )
        overrides = {**self.set}
        for each in self.override:
            if each.matches(spec):
                overrides |= each.set
        return spec.model_copy(update={"overrides": {**overrides, **settings}})

    def _points(self, defense: str) -> list[dict[str, Any]]:
        """Settings of a defense's points: its default, its control, its sweep."""
        method = DEFENSES.get(defense)
        knob = f"defense.{method.strength}" if method.strength else None
        points: list[dict[str, Any]] = [{}]
        if self.controls and knob:
            points.append({knob: 0})
        for field, values in self.sweeps.get(defense, {}).items():
            if values == "all":
                if field != knob:
                    raise RequestError(
                        f"sweeps.{defense}.{field}: `all` stands for the defense's own strengths, "
                        + (f"which are of {knob}" if knob else "and it has none: list the values")
                    )
                values = method.strengths
            elif isinstance(values, str):
                raise RequestError(f'sweeps.{defense}.{field}: a list of values, or "all"')
            points += [{field: value} for value in values]
        return points


def parse_seeds(text: str) -> list[int]:
    """Seeds written as ``"0-2"``, ``"0,3"`` or ``"0-2,7"``.

    Raises:
        RequestError: a part is neither a number nor a range.
    """
    seeds: list[int] = []
    for part in text.split(","):
        span = _RANGE.fullmatch(part.strip())
        if span and int(span[1]) <= int(span[2]):
            seeds += range(int(span[1]), int(span[2]) + 1)
        elif part.strip().isdigit():
            seeds.append(int(part))
        else:
            raise RequestError(f"seeds {text!r}: write numbers and ranges, as 0-2 or 0,3,5")
    return seeds


def read_grids(path: Path) -> list[GridSpec]:
    """The grids of a TOML file.

    Raises:
        RequestError: the file cannot be read, is no TOML, or has an unknown field or a wrong value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"grid file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"grid file {path} is no TOML: {error}") from error
    blocks = content.pop("grid", [{}])
    if not isinstance(blocks, list):
        raise RequestError(f"grid file {path}: write [[grid]], with two brackets, for each grid")
    return [make_grid({**content, **block}, str(path)) for block in blocks]


def make_grid(fields: Mapping[str, Any], where: str) -> GridSpec:
    """A grid from plain values.

    Raises:
        RequestError: an unknown field (close names are offered) or a wrong value.
    """
    try:
        return GridSpec(**fields)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = ".".join(map(str, each["loc"]))
            hint = closest(name, GridSpec.model_fields) if each["type"] == "extra_forbidden" else ""
            problems.append(f"{name}: {hint or each['msg']} (got {each['input']!r})")
        raise RequestError(f"{where}: {'; '.join(problems)}") from error


def expand(grids: list[GridSpec]) -> list[RunSpec]:
    """The cells of several grids, each once, in order."""
    cells: dict[str, RunSpec] = {}
    for grid in grids:
        for spec in grid.cells():
            cells.setdefault(spec.model_dump_json(), spec)
    return list(cells.values())
