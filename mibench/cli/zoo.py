"""``mibench zoo``: trained targets, priors, judges and records, shared through a hub."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.options import json_option, print_json, quiet_option, store_option
from mibench.cli.show.tables import console, show_boards_targets, show_hub
from mibench.errors import HubError, MibenchError, RequestError, UnreachableError, printable
from mibench.files import output_folder, user_path
from mibench.progress import size
from mibench.registry import closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mibench.cell.push import Shared
    from mibench.store.artifact import Artifact
    from mibench.store.hub import Entry, Hub
    from mibench.store.store import Store

protocol_option = click.option("--protocol", help="Only what belongs to this protocol.")


@click.group("zoo")
def zoo_commands() -> None:
    """Share trained targets, priors, judges and records through a hub.

    A hub is a folder somewhere: its URL is http(s)://…, s3://bucket/…, hf://…, or a path of this
    machine.
    """


@zoo_commands.command("list")
@click.argument("url", required=False)
@protocol_option
@store_option
@json_option
def list_(url: str | None, protocol: str | None, store: str | None, as_json: bool) -> None:
    """List what the hub at URL has; without it and MIBENCH_HUB, the targets of the boards."""
    from mibench.store.hub import Hub, named_hub, shipped

    kept, named = _store(store), named_hub(url)
    if named is None:
        targets = [each for each in shipped() if _of(protocol, [each.name])]
        held = [kept.manifest("target", each.key) is not None for each in targets]
        said = [each.model_dump(mode="json") for each in targets]
    else:
        entries = [each for each in Hub(named).entries.values() if _of(protocol, each.names)]
        held = [kept.manifest(each.kind, each.key) is not None for each in entries]
        said = [each.model_dump(mode="json") for each in entries]
    if as_json:
        print_json([{**each, "here": here} for each, here in zip(said, held, strict=True)])
    elif named is None:
        show_boards_targets(targets, held, console())
    else:
        show_hub(entries, held, named, console())


@zoo_commands.command()
@click.argument("url")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that the hub has.")
@protocol_option
@click.option("--stage", "stages", multiple=True, help="Only this kind of stage, as `target`.")
@click.option(
    "--any-version",
    is_flag=True,
    help="Also take a target of the same settings that other code than this made.",
)
@store_option
@json_option
@quiet_option
def pull(
    url: str,
    names: tuple[str, ...],
    everything: bool,
    protocol: str | None,
    stages: tuple[str, ...],
    any_version: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Take what is called NAME from the hub at URL into the store, and check all of it.

    A target is called protocol/architecture/defense/seed. What was half fetched goes on where it
    ended.
    """
    chosen = everything or protocol is not None or bool(stages)
    if bool(names) == chosen:
        raise click.UsageError("give either NAMEs, or --all, --protocol or --stage")
    from mibench.cli.show.progress import display
    from mibench.store.hub import Hub

    kept = _store(store)
    pulled: list[dict[str, Any]] = []
    failed = 0
    with display(quiet=quiet) as progress:
        hub = Hub(url, progress)
        wanted: Sequence[str | Entry] = names
        if chosen:
            wanted = _chosen(hub, protocol, stages)
        for each in wanted:
            try:
                artifact = _pull(each, kept, hub, any_version)
            except UnreachableError:
                raise
            except HubError as error:
                click.echo(f"error: {printable(str(error))}", err=True)
                failed += 1
                continue
            manifest, path = artifact.manifest, str(artifact.path)
            pulled.append({"stage": manifest.stage, "key": manifest.key, "path": path})
            if not as_json:
                name = each if isinstance(each, str) else ", ".join(each.names)
                click.echo(f"{manifest.stage} {name or manifest.key[:12]}: {path}")
    if as_json:
        print_json(pulled)
    if failed:
        raise HubError(f"{failed} of {len(wanted)} could not be taken from {hub.url}")


def _pull(wanted: str | Entry, store: Store, hub: Hub, any_version: bool) -> Artifact:
    """What a name stands for, or an entry of the index, in the store."""
    if not isinstance(wanted, str):
        return store.fetch(wanted.kind, wanted.key, functools.partial(hub.fetch, wanted))
    found = [each for each in hub.named(wanted) if each.kind != "target"]
    if found:
        return _pull(found[0], store, hub, any_version)
    from mibench.cell.zoo import find_target
    from mibench.cell.zoo import wanted as target_of

    return find_target(target_of(wanted), store, hub, any_version)


def _chosen(hub: Hub, protocol: str | None, stages: tuple[str, ...]) -> list[Entry]:
    kinds = {kind for kind, _ in hub.entries}
    for stage in stages:
        if stage not in kinds:
            hint = closest(stage, kinds) or f"it has {', '.join(sorted(kinds)) or 'nothing'}"
            raise RequestError(f"the hub {hub.url} has no stage {stage!r}; {hint}")
    found = [each for each in hub.entries.values() if _of(protocol, each.names)]
    found = [each for each in found if not stages or each.kind in stages]
    if not found:
        raise RequestError(f"the hub {hub.url} has nothing of {protocol or 'any protocol'}")
    return found


@zoo_commands.command()
@click.argument("url")
@click.argument("file", required=False, metavar="[FILE.toml]")
@click.option("--protocol", help="The targets of this protocol's board.")
@click.option("--name", "names", multiple=True, help="The target of this name.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    help="With FILE.toml: this kind of stage, or `all`; can be given several times.  [default: "
    "target, general-prior and evaluator]",
)
@click.option(
    "--record",
    "records",
    metavar="RUN",
    multiple=True,
    help="The record of this run folder; can be given several times.",
)
@store_option
@quiet_option
def push(
    url: str,
    file: str | None,
    protocol: str | None,
    names: tuple[str, ...],
    stages: tuple[str, ...],
    records: tuple[str, ...],
    store: str | None,
    quiet: bool,
) -> None:
    """Put on the hub at URL what the store has: of a board, of a grid FILE.toml, or by name.

    What is there already is not sent again, and a push that was stopped goes on. The index is
    written last. Pictures of people are not shared.
    """
    if not (file or protocol or names or records):
        raise click.UsageError("say what: --protocol, FILE.toml, --name or --record")
    if stages and not file:
        raise click.UsageError("--stage is for the cells of a FILE.toml")
    from mibench.store.hub import Hub

    kept, hub = _store(store), Hub(url)
    hub.open_for_push()
    runs = [user_path(each, "--record") for each in records]
    shared = _shared(file, protocol, names, stages)
    from mibench.cell.push import push as put

    def told(entry: Entry) -> None:
        if not quiet:
            what = ", ".join(entry.names) or entry.key[:12]
            click.echo(f"{entry.kind} {what}  {size(entry.size)}")

    done = put(shared, runs, kept, hub, told)
    for each in done.others:
        click.echo(
            f"{each.kind} {', '.join(each.names) or each.key[:12]}: there already, made elsewhere "
            f"({each.maker}); theirs stays"
        )
    total = size(sum(each.size for each in done.entries))
    click.echo(f"{len(done.entries)} artifacts, {total}, on {hub.url}")
    if done.absent:
        shown = "; ".join(done.absent[:3]) + ("; …" if len(done.absent) > 3 else "")
        click.echo(f"{len(done.absent)} are not in the store {kept.root}: {shown}")
    if not done.entries and not done.others:
        raise MibenchError(f"the store {kept.root} has nothing of what was to be pushed")


def _shared(
    file: str | None, protocol: str | None, names: tuple[str, ...], stages: tuple[str, ...]
) -> list[Shared]:
    """The stages that are asked for."""
    from mibench.cell.push import NETWORKS, STAGES, shared_by_cells, shared_by_name
    from mibench.store.hub import shipped

    kinds = set(STAGES) if "all" in stages else set(stages or NETWORKS)
    for kind in sorted(kinds - set(STAGES)):
        hint = closest(kind, STAGES) or f"stages: {', '.join(STAGES)}"
        raise RequestError(f"--stage {kind}: there is no such stage; {hint}")
    wanted = list(names)
    if protocol is not None:
        board = [each.name for each in shipped() if _of(protocol, [each.name])]
        if not board:
            counts = Counter(each.name.partition("/")[0] for each in shipped())
            raise RequestError(
                f"--protocol {protocol}: no target of its is on a board; there are those of "
                f"{', '.join(sorted(counts)) or 'no protocol'}"
            )
        wanted += board
    shared = shared_by_name(dict.fromkeys(wanted))
    if file is not None:
        from mibench.grid.grid import expand, read_grids

        cells = expand(read_grids(user_path(file, "the grid file")))
        shared += shared_by_cells(cells, kinds)
    return shared


def _store(chosen: str | None) -> Store:
    from mibench.store.store import Store, default_root  # with torch

    root: Path = default_root() if chosen is None else output_folder(chosen, "--store")
    return Store(root)


def _of(protocol: str | None, names: Sequence[str]) -> bool:
    """Whether one of the names is a protocol's; without a protocol, each is."""
    return protocol is None or any(name.partition("/")[0] == protocol for name in names)
