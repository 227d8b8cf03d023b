"""A network of others' in a cell: what identifies it, and what it is checked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from mibench.data.audited import IMAGES, AuditData
from mibench.data.source import Listing, reasons
from mibench.errors import NotApplicableError, RequestError
from mibench.files import read_file, sha256_once
from mibench.inversion.attack import Attack
from mibench.models.access import ACCESS
from mibench.models.given import GivenClassifier, check_given, files_of, load_given
from mibench.names import AttackName
from mibench.priors import Prior
from mibench.priors._given import load_given_prior
from mibench.registry import named_in_file
from mibench.settings import shown
from mibench.streams import stream
from mibench.types import GivenModel, GivenPrior, digest

if TYPE_CHECKING:
    from mibench.cell.request import Audit

_LOOKED_AT = 3  # images of noise that a network is first asked about


@dataclass(frozen=True)
class GivenFiles:
    """What identifies a network or a prior, wherever its files lie.

    Attributes:
        settings: how it is used, without places.
        sums: SHA-256 of its files, by their names.
        modules: the files of Python among them, which run.
    """

    settings: Mapping[str, Any]
    sums: Mapping[str, str]
    modules: tuple[ModuleType, ...]

    @classmethod
    def of(cls, given: GivenModel | GivenPrior) -> GivenFiles:
        """Read the files.

        Raises:
            RequestError: one is not there, or one of Python cannot be imported.
        """
        paths, of_code = files_of(given), ".py:" in given.model
        name = given.model.rpartition(":")[2] if of_code else Path(given.model).name
        kept = given.model_dump(mode="json", exclude={"model", "weights"})
        return cls(
            {"name": name, **kept},
            {path.name: sha256_once(path) for path in paths},
            (named_in_file(given.model, "the file", "build")[0],) if of_code else (),
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What keys hold of it, JSON values."""
        # Files' names are places, too; of an exported network that is all its name.
        name = self.settings["name"] if self.modules or not self.sums else ""
        return {**self.settings, "name": name, "files": sorted(self.sums.values())}

    @property
    def source(self) -> str:
        """SHA-256 of all that."""
        return digest(self.inputs)


@dataclass(frozen=True)
class Given:
    """An audit as a cell knows it.

    Attributes:
        asked: what was asked for.
        names: of the network's classes, in its order.
        model, prior: what identifies these.
    """

    asked: Audit
    names: tuple[str, ...]
    model: GivenFiles
    prior: GivenFiles | None

    @classmethod
    def of(cls, asked: Audit, data: AuditData, images: str, listing: Listing) -> Given:
        """Read what is small of it: names and files.

        Args:
            data: how the pictures are read.
            images: the private folder. listing: what it shows.

        Raises:
            RequestError: something is not there, or the names are none.
        """
        names = listing.names
        if listing.unusable and not data.skip_unreadable:
            found = reasons(sorted(listing.unusable.items()))
            raise RequestError(f"{IMAGES} {images} cannot be used:\n{found}")
        if asked.classes is not None:
            names = _classes(asked.classes)
        if len(names) < 2:
            raise RequestError(
                f"{IMAGES} {images} shows {len(names)} people: at least two are needed, a "
                "sub-folder each"
            )
        prior = None if asked.prior is None else GivenFiles.of(asked.prior)
        return cls(asked, names, GivenFiles.of(asked.model), prior)

    @property
    def label(self) -> str:
        """What texts call the network."""
        return self.asked.model.label

    def network(self) -> GivenClassifier:
        """The network on the CPU, which was looked at; shared, so not to be changed.

        Raises:
            RequestError: it cannot be loaded, or is none.
        """
        return _loaded(self.asked.model, len(self.names), self.model.source)

    def image_prior(self) -> Prior:
        """The image prior on the CPU, which was looked at; shared, so not to be changed.

        Raises:
            RequestError: it cannot be loaded, or is none.
        """
        assert self.asked.prior is not None
        assert self.prior is not None
        return _loaded_prior(self.asked.prior, self.asked.model.size, self.prior.source)

    def check_access(self, attack: str, attack_class: type[Attack[Any]]) -> None:
        """Refuse an attack that sees more than there is.

        Raises:
            NotApplicableError: says what it would need.
        """
        levels, most = list(ACCESS), self.asked.model.access
        if levels.index(attack_class.access) < levels.index(most):
            raise NotApplicableError(
                f"the attack {shown(attack)} needs {attack_class.access} access, and of a function "
                f"that answers {self.asked.model.answers} there is {most} access: choose another "
                "one (`mibench list attacks`), or audit the network itself"
            )

    def check_attack(self, name: AttackName, attack_class: type[Attack[Any]]) -> None:
        """Refuse an attack that needs of the network what it has not; loads it.

        Raises:
            NotApplicableError: says what is lacking.
            RequestError: the network cannot be loaded, or is none.
        """
        model = self.network()
        try:
            attack_class.check(model)
        except RequestError as error:
            raise NotApplicableError(f"the attack {shown(name.full)}: {error}") from error
        if name.lom and model.last is None:
            raise NotApplicableError(
                f"the attack {shown(name.full)} reads the features below the last layer (+lom), "
                f"and {self.label} has no linear layer that its logits come from: exported "
                f"networks show none, others may end in something else. Choose {name.base}"
            )
        if name.untrap:
            raise NotApplicableError(
                f"the attack {shown(name.full)} knows the triggers of a target's trapdoors, which "
                "nothing tells of a network that was trained elsewhere: leave +untrap out"
            )

    def facts(self) -> dict[str, Any]:
        """What a record says of the network, JSON values."""
        features = None if self.asked.model.answers != "logits" else self.network().last
        kept = {k: v for k, v in self.model.settings.items() if k != "name"}
        return {"model": self.label, **kept, "last_layer": features, "files": dict(self.model.sums)}


@functools.lru_cache(maxsize=2)
def _loaded(given: GivenModel, classes: int, source: str) -> GivenClassifier:
    """The network, which ``source`` identifies."""
    noise = torch.rand(_LOOKED_AT, 3, given.size, given.size, generator=stream(0, "given model"))
    return check_given(load_given(given, classes), noise)


@functools.lru_cache(maxsize=2)
def _loaded_prior(given: GivenPrior, resolution: int, source: str) -> Prior:
    """The prior, which ``source`` identifies."""
    return load_given_prior(given, resolution)


def _classes(path: str) -> tuple[str, ...]:
    """Names of a file, one a line."""
    where = f"--classes {path}"
    try:
        lines = read_file(path, "--classes").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: it is no text in UTF-8") from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    if "" in names:
        raise RequestError(
            f"{where}: line {names.index('') + 1} is empty; write a name a line, in the order of "
            "the network's classes"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"{where}: {twice[0]!r} stands there twice")
    return names
