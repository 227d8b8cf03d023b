"""The stage of the picture: private images, reconstructions and look-alikes, with their ranks."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mibench.cell.measures import SAMPLES, Metrics
from mibench.cell.reconstructions import Shards
from mibench.cell.stage import Bench, Stage
from mibench.data.images import Dataset, ImageSet, to_float
from mibench.errors import MibenchError, printable
from mibench.files import write_atomic
from mibench.record import GALLERY, ordinal
from mibench.store.artifact import Artifact, save_json, save_tensors

if TYPE_CHECKING:
    from mibench.cell.resolve import Cell

PICTURE = "reconstructions.png"

MOST_PEOPLE = 500  # of whom a report shows pictures

_COLUMNS = 4  # identities side by side
_ROWS = 15  # rows of identities at most; more would not be read
_NAME, _TITLE = 18, 150  # characters that have room
_FOUND = "private image | best | median reconstruction, by the evaluator's confidence"
_RANKED = (
    "private image | best guess, by the target's choice | median reconstruction | look-alike: the "
    "public image most like the person\n"
    "above each: how alike it finds the person among {people} people, 1st = more than all others"
)


class Picture(Stage[Artifact]):
    """Draw a complete cell; that it could not be drawn costs no number."""

    kind = "picture"

    def __init__(self, cell: Cell, measured: Metrics) -> None:
        self.cell, self.metrics = cell, measured
        attacked = f"{cell.architecture} under {cell.defense_name} "
        if cell.given is not None:
            attacked = "the network that was given "
        self.title = (
            f"{cell.attack.full} against {attacked}({cell.protocol.name}, seed {cell.request.seed})"
        )
        parents: list[Stage[Any]] = [measured, measured.reconstructions, measured.references.images]
        super().__init__({"title": self.title}, None, parents)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        measured, reason = bench.get(self.metrics), None
        if measured.load_json("summary.json")["status"] == "complete":
            data = bench.get(self.metrics.references.images)
            attacked = self.metrics.references.images.attacked(self.cell)
            samples = measured.load_tensors(SAMPLES)
            _save_gallery(folder / GALLERY, data, samples, _shown(attacked, MOST_PEOPLE))
            shown = _shown(attacked)
            private, names = private_images(data.train, shown.to(bench.device))
            images = _select(bench.get(self.metrics.reconstructions), shown)
            samples = {k: v[shown] for k, v in samples.items()}
            legend, alike = _FOUND, None
            if "lookalike" in samples:
                people = measured.load_json("metrics.json")["metrics"]["median_rank"]["among"]
                legend = _RANKED.format(people=f"{people:,}")
                alike = to_float(data.public.images[samples["lookalike"].to(bench.device)])
            strips, labels = _strips(private, names, images, samples, alike)
            try:
                reconstructions_picture(folder / PICTURE, strips, labels, self.title, legend)
            except MibenchError:  # it could not be written
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        save_json(folder / "picture.json", {"not drawn": reason})
        return {}

    def load(self, bench: Bench) -> Artifact:
        return bench.artifact(self)


def private_images(train: ImageSet, labels: Tensor) -> tuple[Tensor, list[str]]:
    """A private training image of each identity ``(k, 3, h, w)`` in [0, 1], and their names."""
    return to_float(_first(train, labels)), [train.names[label] for label in labels.tolist()]


def _first(train: ImageSet, labels: Tensor) -> Tensor:
    return torch.stack([train.images[train.labels == label][0] for label in labels])


def _save_gallery(path: Path, data: Dataset, samples: dict[str, Tensor], shown: Tensor) -> None:
    """Write what a report shows of some identities beside their reconstructions.

    ``identities (m,)``; of each the ``private`` image and the ``lookalike`` (uint8
    ``(m, 3, h, w)``), which samples are the ``best`` guess and the ``median`` ``(m,)``, the
    ``lookalike_rank (m,)``; and the ``names``, a JSON list, as a text. Without embedding judges
    there is no look-alike.
    """
    labels = shown.to(data.train.images.device)
    judged = "lookalike" in samples
    chosen = _chosen(samples, judged)[shown]
    found = {"identities": shown, "private": _first(data.train, labels)}
    found |= {"best": chosen[:, 0], "median": chosen[:, 1]}
    if judged:
        places = samples["lookalike"][shown].to(data.public.images.device)
        found["lookalike"] = data.public.images[places]
        found["lookalike_rank"] = samples["lookalike_rank"][shown]
    names = [data.train.names[label] for label in shown.tolist()]
    save_tensors(path, found, {"names": json.dumps(names)})


def _chosen(samples: dict[str, Tensor], judged: bool) -> Tensor:
    """Of each identity the best guess and the median sample ``(k, 2)``.

    The best guess is the target's choice; without embedding judges the evaluator's confidence
    stands in the place of ranks, and chooses.
    """
    if judged:
        order = samples["rank"].argsort(dim=1, stable=True)
        best = samples["best"]
    else:
        order = samples["confidence"].argsort(dim=1, descending=True, stable=True)
        best = order[:, 0]
    return torch.stack([best, order[:, order.shape[1] // 2]], dim=1)


def _shown(count: int, most: int = _COLUMNS * _ROWS) -> Tensor:
    """The identities that are drawn, evenly chosen."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _select(shards: Shards, wanted: Tensor) -> Tensor:
    """The reconstructions of some identities, of which a shard is in memory at a time."""
    chosen, start = [], 0
    for images in shards:
        inside = wanted[(wanted >= start) & (wanted < start + len(images))]
        chosen.append(images[(inside - start).to(images.device)].cpu())
        start += len(images)
    return torch.cat(chosen)


def _strips(
    private: Tensor,
    names: list[str],
    images: Tensor,
    samples: dict[str, Tensor],
    lookalikes: Tensor | None,
) -> tuple[list[list[Tensor]], list[list[str]]]:
    """What is drawn of each identity, and what stands above it.

    Args:
        private: ``(k, 3, h, w)``.
        images: reconstructions ``(k, samples, 3, h, w)``.
        samples: what the metrics' stage says of them.
        lookalikes: ``(k, 3, h, w)``; None without embedding judges, and the evaluator's confidence
            stands in the place of ranks.
    """
    strips, labels = [], []
    every = _chosen(samples, lookalikes is not None).tolist()
    for row, (name, chosen) in enumerate(zip(names, every, strict=True)):
        of = {key: values[row] for key, values in samples.items()}
        if lookalikes is None:
            found = [f"{each:.0%}" for each in of["confidence"].tolist()]
        else:
            found = [ordinal(each) for each in of["rank"].tolist()]
        strips.append([private[row], *images[row, chosen]])
        labels.append([name, *(found[each] for each in chosen)])
        if lookalikes is not None:
            strips[-1].append(lookalikes[row])
            labels[-1].append(ordinal(int(of["lookalike_rank"])))
    return strips, labels


def reconstructions_picture(
    path: Path,
    strips: Sequence[Sequence[Tensor]],
    labels: Sequence[Sequence[str]],
    title: str,
    legend: str,
) -> None:
    """Draw a strip of images for each identity, and write a PNG.

    Args:
        path: file to write.
        strips: for each identity as many images ``(3, h, w)`` in [0, 1].
        labels: what stands above each of them.
        title: line above the picture.
        legend: line under it, which says what the columns of a strip are.

    Labels and title are text, whatever they hold: nothing in them is mathematics or a line's end,
    and long ones lose their middle.

    Raises:
        MibenchError: the file could not be written.
    """
    # The user's matplotlibrc may ask for LaTeX, whose markup no name is to be read as.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        # A character that the font lacks is drawn as a box, which says it, too.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = _figure(strips, labels, title, legend)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_atomic(path, picture.getvalue())


def _figure(
    strips: Sequence[Sequence[Tensor]], labels: Sequence[Sequence[str]], title: str, legend: str
) -> Figure:
    rows = -(-len(strips) // _COLUMNS)
    width = _COLUMNS * (0.3 + len(strips[0]))
    figure = Figure((width, rows * 1.3 + 0.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, images, texts in zip(axes.flat, strips, labels, strict=False):
        strip = torch.cat([image.clamp(0, 1).cpu() for image in images], dim=2)
        axis.imshow(strip.permute(1, 2, 0).numpy(), interpolation="nearest")
        side = strip.shape[1]
        for column, text in enumerate(texts):
            place = ((column + 0.5) * side, -1)
            text = printable(text, _NAME)
            axis.text(*place, text, ha="center", va="bottom", fontsize=7, parse_math=False)
    figure.suptitle(f"{printable(title, _TITLE)}\n{legend}", fontsize=9, parse_math=False)
    return figure
