"""``mibench grid``: many cells at once."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.options import (
    budget_option,
    data_option,
    hub_option,
    offered,
    preset_option,
    quiet_option,
    settings_option,
    store_option,
)
from mibench.errors import RequestError
from mibench.files import output_folder, user_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from mibench.grid.grid import Grid
    from mibench.grid.plan import Plan
    from mibench.grid.ray_cluster import Resources
    from mibench.grid.schedule import Executor, Result
    from mibench.progress import Progress
    from mibench.record import Record


@click.command(short_help="Run many cells; what they share is computed once.")
@click.argument("file", required=False, metavar="[FILE.toml]")
@click.option(
    "--protocol",
    shell_complete=offered("protocols"),
    help="Evaluation setting of all cells.  [default: synthfaces-32]",
)
@click.option("--targets", metavar="A,B", help="Architectures. Without it, the protocol's own.")
@click.option(
    "--defenses",
    metavar="A,B",
    shell_complete=offered("defenses"),
    help="Defenses.  [default: none]",
)
@click.option(
    "--attacks",
    metavar="A,B",
    shell_complete=offered("attacks"),
    help="Attacks; `standard` stands for all of the protocol's lists.  [default: improved-kedmi]",
)
@click.option("--priors", metavar="A,B", help="Kinds of priors. Without it, each attack's own.")
@click.option("--seeds", metavar="SEEDS", help="Seeds, as 0-2 or 0,3.  [default: 0]")
@click.option(
    "--controls",
    is_flag=True,
    help="Also run each defense at strength 0, unless `none` is its control.",
)
@click.option(
    "--sweep",
    "sweeps",
    metavar="DEFENSE:FIELD=V,W",
    multiple=True,
    help="More points of a defense, as bido:defense.scale=1,5, or bido:defense.scale=all for the "
    "defense's own strengths; can be given several times.",
)
@click.option("--root", metavar="PATH", help="Image folder or file, for the protocol `folder`.")
@preset_option
@settings_option
@data_option
@budget_option
@store_option
@hub_option
@click.option("--out", metavar="DIR", help="Folder of the run folders.  [default: mibench-runs]")
@click.option(
    "--filed",
    metavar="DIR",
    help="Leave out the cells whose records are filed in this leaderboards folder.",
)
@click.option("--dry-run", is_flag=True, help="Only show what is cached and what would be done.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="local: this machine. ray: the Ray cluster at --address.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="local: worker processes. Without it, one a GPU; on a CPU this process does all.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="local: torch threads of a worker. Without it, the cores are shared out.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--address", help="ray: address of the cluster, as auto or 10.0.0.1:6379.")
@click.option(
    "--num-cpus",
    metavar="[STAGE=]N",
    multiple=True,
    help="ray: CPU cores of a stage, which are its threads.  [default: 1]",
)
@click.option(
    "--num-gpus",
    metavar="[STAGE=]N",
    multiple=True,
    help="ray: GPUs of a stage; fractions share one.  [default: 0]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON lines.")
@quiet_option
@click.pass_context
def grid(ctx: click.Context, /, **options: Any) -> None:
    """Run all cells of a grid, from options or from FILE.toml (options win).

    Stages that cells share are computed once: a target is trained once however many attacks use
    it. A cell that fails does so alone. The same command again continues where the last one
    stopped.
    """
    from mibench.cell.request import check_device
    from mibench.cli.known import refuse_unknown
    from mibench.leaderboard.folder import boards_folder

    check_device(options["device"])
    resources = _resources(options)
    grids = _grids(options)
    for each in grids:
        refuse_unknown(each.protocol, each.defenses, each.attacks, each.priors)
    kept = None if options["store"] is None else output_folder(options["store"], "--store")
    out = None if options["out"] is None else output_folder(options["out"], "--out")
    boards = options["filed"] and boards_folder(options["filed"], "--filed")

    # All that can be refused without torch, which takes seconds to import, has been.
    import torch

    from mibench.cell.run import select_device
    from mibench.cli.show.grid import show_plan
    from mibench.cli.show.tables import console
    from mibench.grid.grid import expand
    from mibench.grid.local import InProcess, Workers, local_devices, threads_each
    from mibench.grid.plan import make_plan
    from mibench.grid.ray_cluster import RayCluster
    from mibench.leaderboard.records import filed_cells
    from mibench.store.hub import source_of
    from mibench.store.store import default_root

    devices, threads = ["cpu"], options["threads"]
    if resources is None:  # Ray's nodes have devices of their own
        devices = local_devices(options["device"], options["workers"])
        for device in set(devices):
            select_device(device)
    requests = expand(grids)
    root = kept or default_root()
    with contextlib.redirect_stdout(sys.stderr):
        source = source_of(options["hub"])
        filed, problems = filed_cells(boards) if boards else ((), ())
        for problem in problems:
            click.echo(f"a cell whose record boards do not take is run: {problem}", err=True)
        plan = make_plan(requests, root, out, source, filed)
    stages = sorted({s.kind for cell in plan.cells for s in cell.graph.stages.values()})
    for stage in resources or ():
        if stage and stage not in stages:
            raise RequestError(
                f"--num-cpus, --num-gpus: the grid has no stage {stage!r}; it has "
                f"{', '.join(stages)}"
            )
    shown = console(sys.stderr if options["as_json"] else sys.stdout)
    show_plan(plan, len(devices), shown)
    if options["dry_run"]:
        return

    def executor(progress: Progress) -> Executor:
        if resources:
            return RayCluster(options["address"], resources)
        if len(devices) > 1:
            return Workers(devices, threads or threads_each(len(devices)))
        if threads:
            torch.set_num_threads(threads)
        return InProcess(progress)

    result, done = compute(
        plan,
        root,
        executor,
        options["device"],
        len(devices),
        shown,
        quiet=options["quiet"],
        hub=source.url if source else None,
    )
    if options["as_json"]:
        for record in done.values():
            click.echo(record.model_dump_json())
    ctx.exit(1 if result.failed else 0)


def compute(
    plan: Plan,
    store: Path,
    executor: Callable[[Progress], Executor],
    device: str,
    workers: int,
    shown: Console,
    *,
    quiet: bool,
    hub: str | None = None,
) -> tuple[Result, dict[int, Record]]:
    """Run a plan with its progress on standard error, and show how it ended.

    Args:
        plan: what to run.
        store: root of the store that it was made for.
        executor: who computes, given whom to tell of steps.
        device: for executors that leave the choice to the job.
        workers: how many stages may run at once.
        shown: where the end is shown.
        quiet: whether there is no progress.
        hub: URL of what stages are taken from before they are computed.

    Returns:
        How it ended, and the records by the index of their cell.
    """
    from mibench.cli.show.grid import GridDisplay, show_result
    from mibench.grid.run import records, run_grid
    from mibench.grid.schedule import Listener
    from mibench.progress import SILENT
    from mibench.settings import NEEDED_BYTES
    from mibench.store.store import Store

    Store(store).require_space(NEEDED_BYTES)
    display = None if quiet else GridDisplay(plan, workers)
    with display or contextlib.nullcontext(), contextlib.redirect_stdout(sys.stderr):
        result = run_grid(
            plan, store, executor(display or SILENT), display or Listener(), device, hub
        )
    done = records(plan.cells, result)
    show_result(plan, result, done, shown)
    return result, done


def _grids(options: dict[str, Any]) -> list[Grid]:
    """Grids of the file, with the options' fields in the place of the file's."""
    from mibench.grid.grid import make_grid, read_grids
    from mibench.settings import parse_settings

    fields: dict[str, Any] = {}
    for name in ("protocol", "root", "preset", "data", "budget", "seeds"):
        if options[name] is not None:
            fields[name] = options[name]
    for name in ("targets", "defenses", "attacks", "priors"):
        if options[name] is not None:
            fields[name] = [each.strip() for each in options[name].split(",") if each.strip()]
    if options["controls"]:
        fields["controls"] = True
    if options["settings"]:
        fields["set"] = parse_settings(options["settings"])
    for text in options["sweeps"]:
        defense, field, values = _sweep(text)
        sweep = fields.setdefault("sweeps", {}).setdefault(defense, {})
        if field in sweep:
            raise RequestError(
                f"--sweep {defense}:{field} is given twice; write all of its values in one"
            )
        sweep[field] = values
    if options["file"] is None:
        return [make_grid(fields, "grid")]
    return [
        make_grid({**grid.model_dump(exclude_unset=True), **fields}, options["file"])
        for grid in read_grids(user_path(options["file"], "the grid file"))
    ]


def _sweep(text: str) -> tuple[str, str, Any]:
    from mibench.settings import parse_setting, shown

    # A defense may be a file, path/to/mine.py:Mine, so the last colon is the one.
    defense, colon, setting = text.rpartition(":")
    field, equals, values = setting.partition("=")
    if not colon or not equals:
        raise RequestError(
            f"--sweep {shown(text)}: write DEFENSE:FIELD=VALUES, as bido:defense.scale=1,5"
        )
    if values == "all":
        return defense, field, values
    return defense, field, [parse_setting(f"{field}={each}")[1] for each in values.split(",")]


def _resources(options: dict[str, Any]) -> dict[str, Resources] | None:
    """What each stage gets on Ray, None on this machine; refuses the other executor's options."""
    if options["executor"] == "local":
        for name in ("address", "num_cpus", "num_gpus"):
            if options[name]:
                raise RequestError(f"--{name.replace('_', '-')} is for --executor ray")
        return None
    from mibench.grid.ray_cluster import parse_resources, require_address

    for name in ("workers", "threads"):
        if options[name] is not None:
            raise RequestError(f"--{name} is for --executor local; see --num-cpus")
    resources = parse_resources(options["num_cpus"], options["num_gpus"], 0)
    require_address(options["address"])
    return resources
