"""``mibench store``: looking after the folder of cached stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mibench.cli.options import FiniteRange, json_option, print_json, store_option
from mibench.cli.show.tables import console, show_artifacts
from mibench.errors import MibenchError, RequestError
from mibench.files import user_path
from mibench.progress import size
from mibench.registry import closest

if TYPE_CHECKING:
    from mibench.store.store import Store


@click.group("store")
def store_commands() -> None:
    """Look after the folder of cached stages."""


@store_commands.command()
@store_option
@json_option
def ls(store: str | None, as_json: bool) -> None:
    """List the cached stages with their sizes."""
    opened, root = _open_store(store)
    artifacts = opened.ls() if opened else []
    if as_json:
        print_json([dataclasses.asdict(each) for each in artifacts])
    else:
        show_artifacts(artifacts, str(root), console())


@store_commands.command()
@click.option(
    "--older-than",
    metavar="DAYS",
    type=FiniteRange(0, 100_000),
    help="Remove stages that were last used more than so many days ago. Without it, only what "
    "killed runs left behind is removed.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    help="Remove only this kind of stage, as `reconstructions`; can be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say how much it would be.")
@store_option
def gc(older_than: float | None, stages: tuple[str, ...], dry_run: bool, store: str | None) -> None:
    """Remove cached stages that are not used any more. They can always be computed again."""
    if stages and older_than is None:
        raise click.UsageError("--stage needs --older-than DAYS (0 removes all of that stage)")
    opened, root = _open_store(store)
    held = {each.stage for each in opened.ls()} if opened else set()
    for stage in sorted(set(stages) - held):
        hint = closest(stage, held) or f"stages: {', '.join(sorted(held)) or 'none'}"
        raise RequestError(f"the store {root} holds no stage {stage!r}; {hint}")
    freed = opened.gc(older_than, stages or None, dry_run=dry_run) if opened else 0
    click.echo(f"{'would free' if dry_run else 'freed'} {size(freed)} in {root}")


@store_commands.command()
@store_option
@json_option
def verify(store: str | None, as_json: bool) -> None:
    """Check every file against its checksum; exit code 1 if one does not match."""
    opened, root = _open_store(store)
    count = len(opened.ls()) if opened else 0
    problems = opened.verify() if opened else []
    if as_json:
        print_json({"store": str(root), "artifacts": count, "problems": problems})
    for problem in problems if not as_json else ():
        click.echo(problem)
    if problems:
        raise MibenchError(
            f"{len(problems)} of {count} artifacts in {root} are corrupt; the next run that needs "
            "one computes it again"
        )
    if not as_json:
        click.echo(f"{count} artifacts in {root} are intact")


def _open_store(chosen: str | None) -> tuple[Store | None, Path]:
    """The store and its folder; None where the default one was never made.

    Raises:
        RequestError: a folder that was chosen does not exist; it would only be made by mistake.
    """
    from mibench.store.store import Store, default_root  # with torch

    root = default_root() if chosen is None else user_path(chosen, "--store").absolute()
    if not root.is_dir() and (chosen or root.exists()):
        raise RequestError(f"there is no store at {root}; --store names the folder of a store")
    return (Store(root) if root.exists() else None), root
