"""``mibench run``: one cell."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.options import (
    ACCESSES,
    ARGUMENTS,
    budget_option,
    data_option,
    hub_option,
    offered,
    preset_option,
    print_json,
    quiet_option,
    settings_option,
    store_option,
)
from mibench.errors import RequestError
from mibench.files import output_folder

if TYPE_CHECKING:
    from mibench.types import Access


@click.command(short_help="Run one cell: train, attack, measure.")
@click.option(
    "--protocol",
    default="synthfaces-32",
    show_default=True,
    shell_complete=offered("protocols"),
    help="Evaluation setting: data, evaluators and budgets. A name of `mibench list protocols`, or "
    "your own as path/to/mine.toml or path/to/mine.py:CARD.",
)
@click.option(
    "--target",
    metavar="ARCHITECTURE",
    help="Architecture of the attacked classifier, a timm name such as resnet18. Without it, the "
    "protocol's own is taken.",
)
@click.option(
    "--defense",
    default="none",
    show_default=True,
    shell_complete=offered("defenses"),
    help="Defense that the target is trained under: a name of `mibench list defenses`, or your "
    "own as path/to/mine.py:MyDefense.",
)
@click.option(
    "--attack",
    default="improved-kedmi",
    show_default=True,
    shell_complete=offered("attacks"),
    help="Attack on the target: a name of `mibench list attacks`, or your own as "
    "path/to/mine.py:MyAttack. `standard` stands for all attacks of the protocol's lists: they run "
    "one after the other, and the worst case of each access is shown.",
)
@click.option(
    "--access",
    type=click.Choice(ACCESSES),
    help="Which list `--attack standard` runs. Without it, those of all accesses.",
)
@click.option(
    "--prior",
    shell_complete=offered("priors"),
    help="Kind of the attacker's image prior: a name of `mibench list priors`, or your own as "
    "path/to/mine.py:MyPrior. Without it, the attack's own is taken.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of target, prior, students and attack. The same seed gives the same result.",
)
@click.option(
    "--root",
    metavar="PATH",
    help="Image folder with one sub-folder for each identity, or a .csv, .npz, .parquet or .arrow "
    "file, or a folder of Hugging Face's `datasets`. Only the protocol `folder` takes it.",
)
@preset_option
@settings_option
@data_option
@budget_option
@store_option
@hub_option
@click.option(
    "--out",
    metavar="DIR",
    help="Run folder for record, reconstructions and report. Without it, a folder below "
    "mibench-runs/ is made, named after the cell. Of `--attack standard`, the folder of all run "
    "folders.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda, cuda:N or mps. auto takes a CUDA GPU where there is "
    "one.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the record as JSON on standard output (of `--attack standard`, the records and the "
    "worst cases). Tables then go to standard error.",
)
@quiet_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    settings: tuple[str, ...],
    access: Access | None,
    store: str | None,
    hub: str | None,
    out: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Run one cell: train a target under a defense, attack it, measure what leaked.

    `--attack standard` runs one cell for each attack of the protocol's lists, which is what a paper
    on a defense reports.

    Stages that the store holds are not computed again, so a second attack on the same target
    trains no target, and a command that was stopped continues where it was.
    """
    from mibench.cell.request import check_device, make_request
    from mibench.cli.known import refuse_unknown
    from mibench.names import STANDARD
    from mibench.settings import parse_settings

    check_device(device)
    given = {name: value for name, value in asked.items() if value is not None}
    if asked["attack"] == STANDARD:
        places = {"store": store, "out": out, "device": device, "hub": hub}
        _standard(ctx, access, parse_settings(settings), given, places, as_json, quiet)
        return
    if access is not None:
        raise RequestError("--access is for --attack standard: an attack has an access of its own")
    request = make_request(**given, overrides=parse_settings(settings))
    refuse_unknown(request.protocol, [request.defense], [request.attack], [request.prior])
    kept = None if store is None else output_folder(store, "--store")
    folder = None if out is None else output_folder(out, "--out")

    # All that can be refused without torch, which takes seconds to import, has been.
    from mibench.cell.run import run_cell
    from mibench.cli.show.progress import display
    from mibench.cli.show.record import show_record
    from mibench.cli.show.tables import console
    from mibench.store.hub import source_of
    from mibench.store.store import default_root

    typed = shlex.join(["mibench", *ctx.meta[ARGUMENTS]])
    # What a method prints must not end up in the record's JSON.
    with (
        contextlib.redirect_stdout(sys.stderr),
        display(quiet=quiet) as progress,
        logged_to_stderr(),
    ):
        command = typed.encode("utf-8", "backslashreplace").decode()  # a record holds text only
        done = run_cell(request, kept, folder, device, progress, command, source_of(hub, progress))
    out_stream = console(sys.stderr if as_json else sys.stdout)
    show_record(
        done.record, out_stream, done.folder.absolute(), (kept or default_root()).absolute()
    )
    if as_json:
        print_json(done.record.model_dump(mode="json"))


def _standard(
    ctx: click.Context,
    access: Access | None,
    overrides: dict[str, Any],
    asked: dict[str, Any],
    places: dict[str, Any],
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the protocol's lists of attacks as a grid of one defense."""
    from mibench.cell.request import check_paths
    from mibench.cli.known import refuse_unknown

    if "prior" in asked:
        raise RequestError("--prior is for one attack: each of the standard set has its own")
    check_paths(overrides)
    refuse_unknown(asked["protocol"], [asked["defense"]], ())
    kept = None if places["store"] is None else output_folder(places["store"], "--store")
    out = None if places["out"] is None else output_folder(places["out"], "--out")

    # All that can be refused without torch, which takes seconds to import, has been.
    from mibench.cell.run import select_device
    from mibench.cli.grid import compute
    from mibench.cli.show.grid import show_plan
    from mibench.cli.show.standard import show_standard
    from mibench.cli.show.tables import console
    from mibench.grid.grid import expand
    from mibench.grid.local import InProcess
    from mibench.grid.plan import make_plan
    from mibench.grid.standard import WITHOUT_WEIGHTS, standard_grid, summary
    from mibench.store.hub import source_of
    from mibench.store.store import default_root
    from mibench.training.defense import DEFENSES

    device, root = places["device"], kept or default_root()
    select_device(device)
    of_cells = {name: value for name, value in asked.items() if name != "attack"}
    grid = standard_grid(access, **{"target": None, **of_cells}, overrides=overrides)
    shown = console(sys.stderr if as_json else sys.stdout)
    if DEFENSES.get(asked["defense"]).filters():
        click.echo(f"{asked['defense']} {WITHOUT_WEIGHTS}.", err=True)
    with contextlib.redirect_stdout(sys.stderr):
        source = source_of(places["hub"])
        plan = make_plan(expand([grid]), root, out, source)
    show_plan(plan, 1, shown)
    url = source.url if source else None
    result, done = compute(plan, root, InProcess, device, 1, shown, quiet=quiet, hub=url)
    found = summary(grid, access, plan, result, done)
    show_standard(found, shown)
    if as_json:
        records = [each.model_dump(mode="json") for each in found.records.values()]
        print_json({"records": records, "worst_cases": [w.dump() for w in found.worst_cases]})
    ctx.exit(1 if found.failed else 0)


@contextlib.contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Show the core's messages (a stage that another process computes, a corrupt artifact)."""
    # To what standard error is by now: a live display has redirected it.
    log, handler = logging.getLogger("mibench"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
