"""``mibench.audit``: how much a network that is there already leaks of the people it knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from mibench.cell.record import RUNS, claim
from mibench.cell.request import Audit, Request, check_device, make_request
from mibench.cell.resolve import Cell, check, resolve
from mibench.cell.run import open_bench, select_device, settled
from mibench.errors import MibenchError, NotApplicableError, RequestError
from mibench.files import output_folder, user_path
from mibench.grid.local import InProcess
from mibench.grid.plan import GridCell, Plan, make_plan
from mibench.grid.run import records, run_grid
from mibench.grid.schedule import Listener, Result
from mibench.grid.standard import WorstCase, by_attack, worst_case
from mibench.leaderboard.board import TOP1, measure_of
from mibench.names import STANDARD, method_label
from mibench.progress import SILENT, Progress
from mibench.record import AUDIT, Record
from mibench.reports.compare import compare
from mibench.settings import NEEDED_BYTES, explain, shown
from mibench.store.store import default_root
from mibench.types import Access, Answers, GivenModel, GivenPrior, Preset, digest

OVERVIEW = "overview.html"
_ODD = re.compile(r"[^A-Za-z0-9.]+")

_log = logging.getLogger("mibench.audit")


@dataclass(frozen=True)
class AuditPlan:
    """What an audit is going to do.

    Attributes:
        plan: of its cells, an attack each.
        left_out: attacks of the lists that are not applicable, each with the reason.
        accesses: whose lists are run; empty where attacks were named.
        folder: the folder of the run folders.
    """

    plan: Plan
    left_out: Mapping[str, str]
    accesses: tuple[Access, ...]
    folder: Path


@dataclass(frozen=True)
class Known:
    """What the network makes of the private images.

    Attributes:
        model: what it is called.
        accuracy: share of the private images that it is right on. images: how many these are.
        hint: what to change, where another input is far better than what was said.
    """

    model: str
    accuracy: float
    images: int
    hint: str | None


@dataclass(frozen=True)
class Audited:
    """What an audit came to.

    Attributes:
        known: what the network makes of the private images.
        records: of the attacks that ended, by name.
        worst_cases: one an access whose list was run, white-box first.
        left_out: attacks of the lists that are not applicable, each with the reason.
        failed: for each attack whose cell failed, the last line of its traceback.
        searching: attacks that answer with public images, as look-up does.
        folder: holds a run folder for each attack.
        overview: the page that puts the runs beside each other; None of fewer than two.
    """

    known: Known
    records: Mapping[str, Record]
    worst_cases: tuple[WorstCase, ...]
    left_out: Mapping[str, str]
    failed: Mapping[str, str]
    searching: frozenset[str]
    folder: Path
    overview: Path | None

    @property
    def worst(self) -> Record | None:
        """The record of the single attack that shows most; None where all diverged.

        Look-up is what the others are held against: it counts where there is nothing else.
        """

        def told(record: Record) -> tuple[float, ...]:
            # Where a judge cannot be had, accuracies are all that there is to order them by.
            found = (record.metrics.get(measure.key) for measure in (measure_of(record), TOP1))
            return tuple(-1.0 if e is None or e.value is None else e.value for e in found)

        complete = {k: each for k, each in self.records.items() if each.status == "complete"}
        made = {k: each for k, each in complete.items() if k not in self.searching}
        return max((made or complete).values(), key=told, default=None)

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.known.model,
            "accuracy": self.known.accuracy,
            "images": self.known.images,
            "hint": self.known.hint,
            "records": [each.model_dump(mode="json") for each in self.records.values()],
            "worst_cases": [each.dump() for each in self.worst_cases],
            "left_out": dict(self.left_out),
            "failed": dict(self.failed),
            "folder": str(self.folder),
            "overview": None if self.overview is None else str(self.overview),
        }


def audit(
    *,
    model: str | Path,
    images: str | Path,
    public: str | Path,
    weights: str | Path | None = None,
    decoys: str | Path | None = None,
    classes: str | Path | None = None,
    size: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: Literal["rgb", "bgr"] = "rgb",
    answers: Answers = "logits",
    stochastic: bool = False,
    trained_on: bool | None = None,
    prior: str | None = None,
    prior_weights: str | Path | None = None,
    prior_latent: int | None = None,
    attack: str | Sequence[str] = STANDARD,
    access: Access | None = None,
    seed: int = 0,
    preset: Preset | None = None,
    overrides: Mapping[str, Any] | None = None,
    budget: float = 1.0,
    store: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Audited:
    """Measure how much a network of your own leaks of the people it was trained on.

    Before anything long, the network is asked about the private images: one that does not know
    them is refused, with what would help. An audit that was stopped continues where it was when it
    is called again.

    Args:
        model: a timm architecture; ``"file.py:function"``, which returns a module; or a file of
            TorchScript (``.pt``) or ``torch.export`` (``.pt2``). With ``answers`` scores or labels,
            ``"file.py:function"`` is the function that is asked. These files run.
        images: folder of the private images, a sub-folder a person, or a file or folder in another
            of the layouts of :mod:`mibench.data.layout`. They are used to judge only.
        public: what the attacker has: images of others in the same layouts, or one flat folder.
        weights: safetensors, or a state dict of tensors alone.
        decoys: images of people whom neither the network nor the attacker knows, to rank among;
            None: half of the public people, where these are labelled.
        classes: file with the classes' names in the network's order, one a line; None: sorted.
        size: height and width of the network's images, in pixels, 8 to 1024.
        mean, std: of its inputs, for each of three channels of images in [0, 1]; None: as timm has
            it for a timm architecture, else images are given as they are.
        channels: their order in its inputs.
        answers: ``"logits"`` of a network; ``"scores"`` ``(n, classes)`` in [0, 1] or ``"labels"``
            ``(n,)`` of a function from images ``(n, 3, size, size)`` to these.
        stochastic: whether the network draws noise on purpose.
        trained_on: whether it was trained on ``images``, or they were held out; None: not said.
        prior: ``"file.py:function"``, which returns a module from latents ``(n, d)``, standard
            normal, to images ``(n, 3, h, w)`` in [0, 1]; None: a GAN is trained on ``public``.
        prior_weights: its weights, as those of the network.
        prior_latent: d; None: the module's attribute ``latent``.
        attack: names of attacks, or ``"standard"``: the lists of all accesses that there are.
        access: ``"white-box"``, ``"black-box"`` or ``"label-only"``: that list alone.
        out: folder of the run folders, an attack each, and of ``overview.html``; None: below
            ``mibench-runs/audit``, under a name that no other audit has.
        seed, preset, overrides, budget, store, device, progress: as :func:`mibench.run` takes them.

    Returns:
        Records and worst cases.

    Raises:
        RequestError: the request is wrong, or the network does not know the people; raised before
            any attack.
    """
    check_device(device)
    kept = default_root() if store is None else output_folder(store, "the store")
    folder = None if out is None else output_folder(out, "the folder of run folders")
    select_device(device)
    request = audit_request(
        {
            "model": {
                "model": str(model),
                "weights": weights,
                "size": size,
                "mean": mean,
                "std": std,
                "channels": channels,
                "answers": answers,
                "stochastic": stochastic,
            },
            "prior": {"model": prior, "weights": prior_weights, "latent": prior_latent},
            "public": public,
            "decoys": decoys,
            "classes": classes,
            "trained_on": trained_on,
        },
        images=images,
        seed=seed,
        preset=preset,
        overrides={} if overrides is None else dict(overrides),
        budget=budget,
    )
    named = (attack,) if isinstance(attack, str) else tuple(attack)
    planned = audit_plan(request, named, access, kept, folder)
    known = ask(planned, kept, device, progress)
    result = run_grid(planned.plan, kept, InProcess(progress), Listener(), device=device)
    return audited(planned, known, result, records(planned.plan.cells, result))


def audit_request(said: Mapping[str, Any], *, images: str | Path, **fields: Any) -> Request:
    """What is asked for, of an attack that is named later.

    Args:
        said: the fields of :class:`~mibench.cell.request.Audit`, as tables, texts and paths.
        images: the private folder.
        fields: those of every request.

    Raises:
        RequestError: a value is none, or a place is not there.
    """
    part = ""
    try:
        others = {k: v for k, v in _given(said).items() if k not in ("model", "prior")}
        part, prior = "prior", _given(said["prior"])
        kept = GivenPrior.model_validate(prior) if prior else None
        part = "model"
        model = GivenModel.model_validate(_given(said["model"]))
        part = ""
        audited = Audit(model=model, prior=kept, **others)
    except ValidationError as error:
        raise RequestError(explain(error, part)) from error
    for option, place in (
        ("--images", str(images)),
        ("--public", audited.public),
        ("--decoys", audited.decoys),
    ):
        if place is not None and not user_path(place, option).exists():
            raise RequestError(f"{option} {place}: there is no such folder or file")
    return make_request(protocol=AUDIT, root=str(images), audit=audited, **fields)


def _given(said: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, paths as texts."""
    found = {k: str(v) if isinstance(v, Path) else v for k, v in said.items()}
    return {k: v for k, v in found.items() if v is not None}


def audit_plan(
    request: Request,
    attacks: Sequence[str],
    access: Access | None,
    store: Path,
    out: Path | None,
) -> AuditPlan:
    """Resolve the attacks and check all that can be checked; nothing is computed.

    Args:
        request: of :func:`audit_request`.
        attacks: their names; ``"standard"`` stands for the lists.
        access: whose list; None: those of all that the network's answers allow.
        store: its folder.
        out: folder of the run folders; None: one of the audit's own.

    Raises:
        RequestError: something is wrong with the request, or no attack is left.
    """
    assert request.audit is not None
    most = request.audit.model.access
    every: tuple[Access, ...] = get_args(Access)
    allowed = every[every.index(most) :]
    if access is not None and access not in every:
        raise RequestError(f"access {shown(access)}: there are {', '.join(every)}")
    if access is not None and access not in allowed:
        raise RequestError(
            f"--access {access}: of a function that answers {request.audit.model.answers} there is "
            f"{most} access; a network (--answers logits) can be attacked with any"
        )
    accesses: tuple[Access, ...] = ()
    if STANDARD in attacks:
        accesses = allowed if access is None else (access,)
    elif access is not None:
        raise RequestError("--access is for --attack standard: an attack has an access of its own")
    request = settled(request)
    names, left_out = list[str](), dict[str, str]()
    cell: Cell | None = None
    for attack in attacks:
        if attack != STANDARD:
            cell = check(resolve(request.model_copy(update={"attack": attack})))
            names.append(attack)
            continue
        board = resolve(request, without=("attack",)).protocol.board
        for name in dict.fromkeys(n for each in accesses for n in board.attacks(each)):
            try:
                cell = check(resolve(request.model_copy(update={"attack": name})))
                names.append(name)
            except NotApplicableError as error:
                left_out[name] = str(error)
    if cell is None:
        reasons = "; ".join(left_out.values())
        raise RequestError(f"no attack of the lists is applicable: {reasons}")
    requests = [request.model_copy(update={"attack": name}) for name in dict.fromkeys(names)]
    plan = make_plan(requests, store)
    folder = out or RUNS / AUDIT / _folder_name(plan.cells[0])
    cells = []
    for each in plan.cells:
        own = each.graph.cell
        place = folder / method_label(own.attack.full, own.attack_source)
        cells.append(GridCell(each.graph, place))
    return AuditPlan(replace(plan, cells=tuple(cells)), left_out, accesses, folder)


def _folder_name(cell: GridCell) -> str:
    """Names an audit: its network, and a digest of all that its numbers depend on."""
    own, request = cell.graph.cell, cell.graph.cell.request
    assert own.given is not None
    name = _ODD.sub("_", own.given.label.partition(":")[0]).strip("._")[:60] or AUDIT
    whole = [
        own.given.model.source,
        own.given.prior and own.given.prior.source,
        cell.graph.images.identity,
        own.protocol.digest,
        request.model_dump(mode="json", include={"preset", "budget", "seed", "overrides"}),
    ]
    return f"{name}-{digest(whole)[:8]}"


def ask(planned: AuditPlan, store: Path, device: str, progress: Progress) -> Known:
    """Ask the network about the private images; then make the run folders.

    Raises:
        RequestError: it does not know them (the message says what would help), or a run folder
            holds another record.
    """
    bench = open_bench(store, device, progress)
    bench.store.require_space(NEEDED_BYTES)
    graph = planned.plan.cells[0].graph
    assert graph.cell.given is not None
    with graph.cell.contained():
        result = bench.get(graph.target).result
    for cell in planned.plan.cells:
        claim(cell.folder, cell.graph.cell, cell.graph.images)
    return Known(
        graph.cell.given.label,
        result["validation_accuracy"],
        result["validation_images"],
        result["hint"],
    )


def audited(
    planned: AuditPlan, known: Known, result: Result, done: Mapping[int, Record]
) -> Audited:
    """Records, worst cases and the overview of an audit that was run.

    Args:
        planned: of :func:`audit_plan`. known: of :func:`ask`.
        result: how it ended. done: the records by the index of their cell.
    """
    cells = planned.plan.cells
    found, failed = by_attack(planned.plan, result, done)
    board = cells[0].graph.cell.protocol.board
    absent = {name: "not applicable" for name in planned.left_out} | failed
    return Audited(
        known=known,
        records=found,
        worst_cases=tuple(worst_case(board, each, found, absent) for each in planned.accesses),
        left_out=planned.left_out,
        failed=failed,
        searching=frozenset(
            cell.graph.cell.request.attack
            for cell in cells
            if cell.graph.cell.attack_class.searches
        ),
        folder=planned.folder,
        overview=_overview(planned.folder, [cells[index].folder for index in done]),
    )


def _overview(folder: Path, runs: Sequence[Path]) -> Path | None:
    """A page with the runs beside each other; that it could not be made is a warning."""
    place = folder / OVERVIEW
    if len(runs) < 2:
        return None
    try:
        compare(*runs, html=place)
    except MibenchError as error:
        _log.warning("%s could not be written: %s", place, error)
        return None
    return place
