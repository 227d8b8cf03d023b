"""Trained targets by their name: ``load_target("synthfaces-32/test_resnet/bido/0")``.

A name stands for what this code would train under it, and so for one key. Whoever has that artifact
need not train: the store, or a hub. Other code has other keys, so that weights of an earlier
release are told apart from this one's, and are taken when they are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mibench.cell.images import Images
from mibench.cell.request import Request, command_of, make_request
from mibench.cell.resolve import Cell, check, resolve
from mibench.cell.run import select_device
from mibench.cell.target import Target, deployed
from mibench.errors import ArtifactError, HubError, MibenchError, RequestError
from mibench.files import output_folder
from mibench.models.classifiers import Classifier
from mibench.progress import SILENT, Progress
from mibench.settings import flat, parse_setting, plain_settings, shown
from mibench.store.artifact import Artifact
from mibench.store.hub import Entry, Hub, named_hub, shipped
from mibench.store.store import Store, default_root

_FORM = "protocol/architecture/defense/seed, as synthfaces-32/test_resnet/bido/0"
# Before each setting of a defense, whose own name may hold hyphens, as its values may.
_SETTING = re.compile(r"-(?=[A-Za-z_][A-Za-z0-9_.]*=)")


@dataclass(frozen=True)
class TargetName:
    """The name of a trained target: ``protocol/architecture/defense[-setting=value…]/seed``.

    Attributes:
        settings: by path, ``defense.…`` and ``target.…``; in the text the first of the two goes
            unsaid: ``bido-scale=0``, ``none-target.epochs=7``.
    """

    protocol: str
    architecture: str
    defense: str
    settings: Mapping[str, Any]
    seed: int

    def __str__(self) -> str:
        said = plain_settings(dict(self.settings))
        texts = [
            f"-{path.removeprefix('defense.')}={_written(said[path])}" for path in sorted(said)
        ]
        return f"{self.protocol}/{self.architecture}/{self.defense}{''.join(texts)}/{self.seed}"

    @classmethod
    def parse(cls, text: str) -> TargetName:
        """Read a name.

        Raises:
            RequestError: it is none.
        """
        parts = text.split("/")
        if len(parts) != 4 or not all(parts) or not re.fullmatch(r"[!-9;-~]+", text):
            raise RequestError(f"{shown(text)} is no name of a target: it is written {_FORM}")
        protocol, architecture, defended, seed = parts
        defense, *said = _SETTING.split(defended)
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", seed) or "=" in defense:
            wrong = f"the seed {shown(seed)}" if "=" not in defense else f"{shown(defense)}"
            raise RequestError(f"{shown(text)}: {wrong} is none; a name is written {_FORM}")
        settings: dict[str, Any] = {}
        for each in said:
            path, value = parse_setting(each)
            path = path if path.startswith("target.") else f"defense.{path}"
            if path in settings:
                raise RequestError(f"{shown(text)}: {path} is given twice")
            settings[path] = value
        return cls(protocol, architecture, defense, settings, int(seed))

    def request(self) -> Request:
        """The cell of such a target, whatever attacks it.

        Raises:
            RequestError: a part of it is out of its range.
        """
        return make_request(
            protocol=self.protocol,
            target=self.architecture,
            defense=self.defense,
            seed=self.seed,
            overrides=dict(self.settings),
        )


def _written(value: Any) -> str:
    """A setting's value without spaces; text as it is."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def name_of(cell: Cell) -> str | None:
    """The name of a cell's target; None where none says it.

    That is so of methods and protocols of files, of budgets, images of the user's own, and settings
    that are no part of a name.
    """
    request = cell.request
    ours = cell.defense_source is None and cell.protocol_source is None
    usual = request.budget == 1 and request.root is None and request.preset is None
    others = ("attack", "prior")
    settings = {k: v for k, v in request.overrides.items() if k.split(".")[0] not in others}
    if not ours or not usual or any(k.startswith("protocol.") for k in settings):
        return None
    name = TargetName(
        cell.protocol.name, cell.architecture, cell.defense_name, settings, request.seed
    )
    try:
        return str(name) if str(TargetName.parse(str(name))) == str(name) else None
    except RequestError:
        return None


@dataclass(frozen=True)
class Wanted:
    """What a name stands for here.

    Attributes:
        stage: the stage that would train it; of its images nothing is known where ``key`` is None.
        key: of its artifact; None where this machine lacks the data set or the weights to start
            from, which the key holds.
        lacking: what it lacks, as a message says it.
    """

    name: str
    cell: Cell
    stage: Target
    key: str | None
    lacking: str

    def differs(self, inputs: Mapping[str, Any]) -> list[str]:
        """The settings in which a target that was made of these inputs is another one."""
        mine, theirs = (
            dict(flat({k: v for k, v in each.items() if k != "initialisation"}))
            for each in (self.stage.inputs, inputs)
        )
        both = mine.keys() | theirs.keys()
        return sorted(name for name in both if mine.get(name) != theirs.get(name))


class _Unknown(dict[str, str]):
    """Weights to start from that are not here."""

    def __missing__(self, architecture: str) -> str:
        return ""


def wanted(text: str) -> Wanted:
    """What the name of a target stands for; no image is looked at.

    Raises:
        RequestError: the name, or a part of it, is none.
    """
    name = TargetName.parse(text)
    cell = resolve(name.request(), without=("attack",))
    card = cell.protocol
    try:
        cell = check(cell)
        divided = card.data.divide(resolution=card.resolution)
        stage = Target(cell, Images(divided))
        return Wanted(str(name), cell, stage, stage.key, "")
    except RequestError as error:
        if not card.data.sets and card.start(cell.architecture).source == "scratch":
            raise
        # Neither images nor the weights that training started from are needed to load a target.
        stage = Target(replace(cell, weights=_Unknown()), cast(Images, None))
        return Wanted(str(name), cell, stage, None, str(error))


def load_target(
    name: str,
    *,
    url: str | None = None,
    store: str | Path | None = None,
    device: str = "cpu",
    any_version: bool = False,
    progress: Progress = SILENT,
) -> Classifier:
    """A trained target as it is deployed: its defense's answers, in evaluation mode.

    It is looked for in the store, then on the hub, from where it is kept in the store. Nothing is
    trained, and no data set is needed.

    Args:
        name: ``protocol/architecture/defense[-setting=value…]/seed``, as
            ``"synthfaces-32/test_resnet/bido/0"``, ``"synthfaces-32/test_resnet/mid-beta=0.03/1"``
            or ``"synthfaces-32/test_resnet/none-target.epochs=7/0"``.
        url: of a hub; None: ``MIBENCH_HUB``, or no hub.
        store: folder of cached stages; None: ``MIBENCH_STORE`` or the user's cache folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
        any_version: also take a target of the same settings that other code made: that of the
            board first, else the newest.
        progress: told of what is fetched.

    Returns:
        A module from images ``(n, 3, height, width)`` in [0, 1], at the protocol's resolution, to
        logits ``(n, identities)``; normalisation is inside. ``.features(images)`` gives its
        penultimate features.

    Raises:
        RequestError: the name is none; or neither store nor hub have the target, and the message
            says what to do.
        HubError: what the hub sent is not what it should be.
        MibenchError: the target's training had diverged.
    """
    where = select_device(device)
    kept = Store(default_root() if store is None else output_folder(store, "the store"))
    named = named_hub(url)
    found = wanted(name)
    artifact = find_target(found, kept, Hub(named, progress) if named else None, any_version)
    return module_of(found.cell, artifact).to(where).eval()


def find_target(found: Wanted, store: Store, hub: Hub | None, any_version: bool) -> Artifact:
    """The artifact of a target: of the store, else of the hub, which the store then holds.

    Raises:
        RequestError: neither has it; the message says what to do.
        HubError: what the hub sent is not what it should be.
    """
    if found.key is not None and (artifact := store.find("target", found.key)) is not None:
        return artifact
    for key in sorted(_of_boards(found)) if any_version else ():
        artifact = store.find("target", key)
        if artifact is not None and not found.differs(artifact.manifest.inputs):
            return artifact
    if hub is None:
        raise RequestError(_absent(found, store, None, []))
    try:
        entries = _offered(found, hub, any_version)
    except HubError as error:
        raise type(error)(f"{error}. {_compute(found)}") from error
    if not entries:
        raise RequestError(_absent(found, store, hub, hub.named(found.name)))
    entry = entries[0]

    def fetch(folder: Path) -> None:
        hub.fetch(entry, folder)

    artifact = store.fetch("target", entry.key, fetch)
    different = found.differs(artifact.manifest.inputs)
    different += ["seed"] if entry.seed != found.stage.seed else []
    if different:
        raise RequestError(
            f"{hub.url} has {found.name} as {entry.maker} made it, which is another target than "
            f"the name stands for here: it differs in {', '.join(different)}. {_compute(found)}"
        )
    return artifact


def _offered(found: Wanted, hub: Hub, any_version: bool) -> list[Entry]:
    """The hub's artifacts that a name may stand for, the best first."""
    if found.key is not None and (entry := hub.entries.get(("target", found.key))) is not None:
        return [entry]
    named = [each for each in hub.named(found.name) if each.kind == "target"]
    if any_version:
        return sorted(named, key=lambda each: each.key not in _of_boards(found))
    if found.key is None:
        return [each for each in named if each.source == found.stage.code]
    return []


def _of_boards(found: Wanted) -> set[str]:
    """The keys that records of the boards state of a target."""
    return {each.key for each in shipped() if each.name == found.name}


def _absent(found: Wanted, store: Store, hub: Hub | None, others: list[Entry]) -> str:
    """Why there is no target of a name, and what to do."""
    key = f"key {found.key[:12]}" if found.key else "whose key cannot be told here"
    text = f"the target {found.name} ({key}) is not in the store {store.root}"
    if hub is None:
        text += ", and no hub is named"
    elif others:
        makers = ", ".join(dict.fromkeys(each.maker for each in others))
        text += (
            f"; the hub {hub.url} has it as other code made it: {makers}. Take that with "
            "any_version=True (--any-version)"
        )
    else:
        text += f", nor on the hub {hub.url}"
    remedy = "" if hub else ". Name a hub that has it with url=, --from or MIBENCH_HUB"
    lacking = f" ({found.lacking})" if found.lacking else ""
    return f"{text}{remedy}. {_compute(found)}{lacking}"


def _compute(found: Wanted) -> str:
    """How to train a target, as a message says it."""
    request = found.cell.request
    filters = found.cell.defense_class.filters()
    attacks = found.cell.protocol.board.standard(output=filters)
    if attacks:
        request = request.model_copy(update={"attack": attacks[-1]})
    return f"To train it: `{command_of(request)}`, whose first stage it is"


def module_of(cell: Cell, artifact: Artifact) -> Classifier:
    """The network of a target's artifact, on the CPU.

    Raises:
        ArtifactError: its files are no such network.
        MibenchError: its training had diverged.
    """
    result, tensors = artifact.load_json("result.json"), artifact.load_tensors("model.safetensors")
    try:
        diverged, identities = result["diverged"], result["identities"]
        if not isinstance(identities, int) or not 1 <= identities <= 10**7:
            raise ValueError(f"it is of {identities!r} identities")
        if diverged is None:
            with cell.contained():
                return deployed(cell, identities, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"the target artifact {artifact.path} holds no {cell.architecture} under "
            f"{cell.defense_name}: {str(error)[:300]}"
        ) from error
    raise MibenchError(f"the training of this target diverged: {diverged}; there is no network")
