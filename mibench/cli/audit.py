"""``mibench audit``: a network of the user's own."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from mibench.cli.options import (
    ACCESSES,
    budget_option,
    offered,
    print_json,
    quiet_option,
    settings_option,
    store_option,
)
from mibench.files import output_folder
from mibench.names import STANDARD

if TYPE_CHECKING:
    from mibench.types import Access

_OF_MODEL = ("model", "weights", "size", "mean", "std", "channels", "answers", "stochastic")


@click.command(short_help="Measure how much a network of your own leaks of the people it knows.")
@click.option(
    "--model",
    required=True,
    help="The network: a timm architecture; path/to/mine.py:build, a function that returns it; or "
    "a file of TorchScript (.pt) or torch.export (.pt2). With --answers scores or labels, "
    "path/to/mine.py:ask, a function from images to these. Such files are programs, and run.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="Its weights: safetensors, or a state dict that holds tensors alone (.pth, .pt, .bin).",
)
@click.option(
    "--images",
    metavar="PATH",
    required=True,
    help="The private images, a sub-folder for each person, or a .csv, .npz, .parquet or .arrow "
    "file, or a folder of Hugging Face's `datasets`. They are used to judge only.",
)
@click.option(
    "--public",
    metavar="PATH",
    required=True,
    help="What the attacker has: images of other people, in the same layouts, or in one folder "
    "without labels.",
)
@click.option(
    "--decoys",
    metavar="PATH",
    help="Images of people whom neither the network nor the attacker knows, to rank among. Without "
    "it, half of the public people are held out for that, where these are labelled.",
)
@click.option(
    "--classes",
    metavar="FILE",
    help="Names of the network's classes in its order, one a line, as --images has them. Without "
    "it, they are sorted.",
)
@click.option(
    "--trained-on/--held-out",
    "trained_on",
    default=None,
    help="Whether the network was trained on --images, or these were held out from it. Without "
    "either, the report says that it is not known.",
)
@click.option(
    "--size",
    type=click.IntRange(8, 1024),
    default=64,
    show_default=True,
    help="Height and width of the network's images, in pixels.",
)
@click.option(
    "--mean",
    type=float,
    nargs=3,
    help="What its training subtracted from each channel of images in [0, 1]. Without it, nothing "
    "is, but of a timm architecture timm's own.",
)
@click.option("--std", type=float, nargs=3, help="What each channel was then divided by.")
@click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr"]),
    default="rgb",
    show_default=True,
    help="Order of the channels of its images; OpenCV's is bgr.",
)
@click.option(
    "--answers",
    type=click.Choice(["logits", "scores", "labels"]),
    default="logits",
    show_default=True,
    help="logits: --model is a network, which can be attacked with any access. scores, labels: it "
    "is a function that is asked, and attacks see no more than that.",
)
@click.option("--stochastic", is_flag=True, help="The network draws noise on purpose.")
@click.option(
    "--prior",
    metavar="FILE.py:FUNCTION",
    help="An image prior of your own: the function returns a module from standard normal latents "
    "to images in [0, 1]. Without it, a GAN is trained on --public.",
)
@click.option("--prior-weights", metavar="FILE", help="Its weights, as --weights.")
@click.option(
    "--prior-latent",
    type=click.IntRange(1, 65_536),
    help="Dimensions of its latents. Without it, the module's attribute `latent`.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    default=(STANDARD,),
    show_default=True,
    shell_complete=offered("attacks"),
    help="An attack of `mibench list attacks`; can be given several times. `standard` stands for "
    "the lists of all accesses that there are.",
)
@click.option(
    "--access",
    type=click.Choice(ACCESSES),
    help="Which list `--attack standard` runs. Without it, those of all accesses that there are.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of prior, students and attacks. The same seed gives the same result.",
)
@click.option(
    "--preset",
    type=click.Choice(["small", "paper"]),
    help="Size of priors, students, evaluators and budgets: for two CPU cores, or the papers', for "
    "a GPU. Without it, paper where there is a GPU, else small.",
)
@settings_option
@budget_option
@store_option
@click.option(
    "--out",
    metavar="DIR",
    help="Folder of the run folders, an attack each, and of overview.html. Without it, one below "
    "mibench-runs/audit/ is made.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda, cuda:N or mps.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, ask the network about the private images, show the plan, and stop.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what was found as JSON on standard output. Tables then go to standard error.",
)
@quiet_option
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    *,
    images: str,
    attacks: tuple[str, ...],
    access: Access | None,
    settings: tuple[str, ...],
    store: str | None,
    out: str | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Measure how much a network that you have leaks of the people it was trained on.

    The network is asked about the private images first: one that does not know them (a wrong order
    of classes or of channels, another normalisation) is refused, with what would help. Then attacks
    try to reconstruct the people from it and from public images, and judges tell how far each
    result narrows down who the person is. It ends with the worst case, a report for each attack
    and an overview.

    A command that was stopped continues where it was.
    """
    from mibench.cell.request import check_device, check_paths
    from mibench.cli.known import refuse_unknown
    from mibench.settings import parse_settings

    check_device(device)
    overrides = parse_settings(settings)
    check_paths(overrides)
    refuse_unknown("folder", (), attacks)
    kept = None if store is None else output_folder(store, "--store")
    folder = None if out is None else output_folder(out, "--out")

    # All that can be refused without torch, which takes seconds to import, has been.
    from mibench.cell.run import select_device
    from mibench.cli.grid import compute
    from mibench.cli.run import logged_to_stderr
    from mibench.cli.show.audit import show_audit, show_known
    from mibench.cli.show.grid import show_plan
    from mibench.cli.show.progress import display
    from mibench.cli.show.tables import console
    from mibench.grid.audit import ask, audit_plan, audit_request, audited
    from mibench.grid.local import InProcess
    from mibench.store.store import default_root

    select_device(device)
    root = kept or default_root()
    prior = {
        "model": asked["prior"],
        "weights": asked["prior_weights"],
        "latent": asked["prior_latent"],
    }
    request = audit_request(
        {
            "model": {name: asked[name] for name in _OF_MODEL},
            "prior": prior,
            **{name: asked[name] for name in ("public", "decoys", "classes", "trained_on")},
        },
        images=images,
        seed=asked["seed"],
        preset=asked["preset"],
        budget=1.0 if asked["budget"] is None else asked["budget"],
        overrides=overrides,
    )
    shown = console(sys.stderr if as_json else sys.stdout)
    # What files of the user's print must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr), logged_to_stderr():
        planned = audit_plan(request, attacks, access, root, folder)
        with display(quiet=quiet) as progress:
            known = ask(planned, root, device, progress)
    show_known(known, planned, shown)
    show_plan(planned.plan, 1, shown)
    if dry_run:
        return
    with contextlib.redirect_stdout(sys.stderr), logged_to_stderr():
        result, done = compute(planned.plan, root, InProcess, device, 1, shown, quiet=quiet)
        found = audited(planned, known, result, done)
    show_audit(found, shown)
    if as_json:
        print_json(found.dump())
    ctx.exit(1 if found.failed else 0)
