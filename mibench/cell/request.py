"""Requests: what a user, a script or a grid file asks for becomes a Request, or is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from mibench.errors import RequestError
from mibench.settings import (
    audit_command,
    check_value,
    command_line,
    explain,
    moved,
    plain,
    shown,
)
from mibench.types import Frozen, GivenModel, GivenPrior, Name, Preset, Seed, Share

PARTS = ("protocol", "target", "defense", "attack", "prior")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,3}))?")


class Audit(Frozen):
    """What is audited in the place of a target that is trained.

    Where things lie is in no key and in no number: their content is.
    """

    model: GivenModel
    public: Name = Field(description="folder or file of public images, with labels or without")
    decoys: Name | None = Field(
        None, description="folder or file of other people, to rank among; null: see AuditData"
    )
    classes: Name | None = Field(
        None, description="file of the classes' names in the network's order; null: sorted"
    )
    trained_on: bool | None = Field(
        None, description="whether it was trained on the private images; null: it was not said"
    )
    prior: GivenPrior | None = Field(
        None, description="an image prior in the place of the general GAN; null: train that"
    )


class Request(Frozen):
    """One cell as it was asked for; ``overrides`` maps ``--set`` paths to values.

    :func:`make_request` makes one of what users say.
    """

    protocol: Name = "synthfaces-32"
    target: Name | None = Field(None, description="timm architecture; None: the protocol's own")
    defense: Name = "none"
    attack: Name = "improved-kedmi"
    prior: Name | None = Field(
        None, description="kind of the attacker's image prior; None: the attack's own"
    )
    seed: Seed = 0
    root: Name | None = Field(
        None,
        description="image folder or file, for the protocol `folder`; of an audit, the private one",
    )
    preset: Preset | None = Field(
        None,
        description="size of networks and budgets, for the protocol `folder`; None: `paper` where "
        "there is a GPU, else `small`",
    )
    data: Name | None = Field(
        None, description="folder of prepared data sets; None: MIBENCH_DATA or the user's cache"
    )
    overrides: dict[str, Any] = Field(default_factory=dict)
    budget: Share = Field(
        1.0,
        description="share of all epochs and steps, and of what is judged, for trying out; boards "
        "want 1",
    )
    audit: Audit | None = Field(None, description="for the protocol `audit`")


def make_request(**fields: Any) -> Request:
    """The request with these fields of :class:`Request`.

    Raises:
        RequestError: a field is unknown, of a wrong type or out of its range, or an override is no
            JSON value; the message names it.
    """
    try:
        request = Request(**fields)
    except ValidationError as error:
        raise RequestError(explain(error)) from error
    for path, value in request.overrides.items():
        check_value(value, f"--set {plain(path)}")
    check_paths(request.overrides)
    return request


def check_paths(overrides: Mapping[str, Any]) -> None:
    """Refuse paths of no part of a cell, and a path beside one that holds it."""
    for path in overrides:
        part, dot, _ = path.partition(".")
        if part not in PARTS or not dot:
            raise RequestError(
                f"--set {plain(path)}: paths start with one of {', '.join(p + '.' for p in PARTS)}"
            )
        if now := moved(path):
            raise RequestError(
                f"--set {plain(path)}: a prior's settings are no longer the attack's; write "
                f"{plain(now)}"
            )
        above = path
        while "." in above:
            above = above.rpartition(".")[0]
            if above in overrides:
                raise RequestError(
                    f"--set {plain(path)}: it lies in {plain(above)}, which is set as a whole; "
                    "set one of them"
                )


def check_device(name: str) -> str:
    """Refuse a device's name that stands for none that mibench computes on.

    Whether this machine has it is another question (:func:`mibench.cell.run.select_device`).

    Returns:
        ``name``.

    Raises:
        RequestError: it is not ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise RequestError(
            f"--device {shown(name)}: mibench computes on auto, cpu, cuda, cuda:N (a GPU by its "
            "number, as cuda:0) or mps"
        )
    return name


def command_of(request: Request) -> str:
    """The command line that asks for a cell."""
    said = dict(request)
    audit = said.pop("audit")
    if audit is None:
        return command_line(**said)
    given = {"model": audit.model.model_dump(), "prior": audit.prior and audit.prior.model_dump()}
    return audit_command(
        {**audit.model_dump(exclude={"model", "prior"}), "images": request.root, **given},
        attack=request.attack,
        seed=request.seed,
        preset=request.preset,
        budget=request.budget,
        overrides=request.overrides,
    )
