"""The stage of the picture: a private image beside the best and the median reconstruction."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mibench.cell.measures import Metrics
from mibench.cell.reconstructions import Shards
from mibench.cell.stage import Bench, Stage
from mibench.data.images import ImageSet, to_float
from mibench.errors import MibenchError, printable
from mibench.files import write_atomic
from mibench.store.artifact import Artifact, save_json

if TYPE_CHECKING:
    from mibench.cell.resolve import Cell

PICTURE = "reconstructions.png"

_COLUMNS = 4  # identities side by side
_ROWS = 15  # rows of identities at most; more would not be read
_NAME, _TITLE = 18, 150  # characters that have room


class Picture(Stage[Artifact]):
    """Draw a complete cell; that it could not be drawn costs no number."""

    kind = "picture"

    def __init__(self, cell: Cell, measured: Metrics) -> None:
        self.cell, self.metrics = cell, measured
        self.title = (
            f"{cell.attack.full} against {cell.architecture} under {cell.defense_name} "
            f"({cell.protocol.name}, seed {cell.request.seed})"
        )
        parents: list[Stage[Any]] = [measured, measured.reconstructions, measured.references.images]
        super().__init__({"title": self.title}, None, parents)

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        measured, reason = bench.get(self.metrics), None
        if measured.load_json("summary.json")["status"] == "complete":
            data = bench.get(self.metrics.references.images)
            shown = _shown(self.metrics.references.images.attacked(self.cell))
            private, names = private_images(data.train, shown.to(bench.device))
            images = _select(bench.get(self.metrics.reconstructions), shown)
            confidence = measured.load_tensors("confidence.safetensors")["confidence"][shown]
            try:
                reconstructions_picture(
                    folder / PICTURE, private, images, confidence, names, self.title
                )
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
    first = [train.images[train.labels == label][0] for label in labels]
    return to_float(torch.stack(first)), [train.names[label] for label in labels.tolist()]


def _shown(count: int) -> Tensor:
    """The identities that are drawn, evenly chosen."""
    return torch.linspace(0, count - 1, min(count, _COLUMNS * _ROWS)).round().long()


def _select(shards: Shards, wanted: Tensor) -> Tensor:
    """The reconstructions of some identities, of which a shard is in memory at a time."""
    chosen, start = [], 0
    for images in shards:
        inside = wanted[(wanted >= start) & (wanted < start + len(images))]
        chosen.append(images[(inside - start).to(images.device)].cpu())
        start += len(images)
    return torch.cat(chosen)


def reconstructions_picture(
    path: Path, private: Tensor, images: Tensor, confidence: Tensor, names: list[str], title: str
) -> None:
    """Draw private image, best and median reconstruction of each identity, and write a PNG.

    Args:
        path: file to write.
        private: one private training image an identity ``(k, 3, h, w)`` in [0, 1].
        images: reconstructions ``(k, samples, 3, h, w)`` in [0, 1].
        confidence: the evaluator's confidence in the identity ``(k, samples)``.
        names: identity names.
        title: line above the picture. At most 60 identities are drawn, evenly chosen.

    Names and title are text, whatever they hold: nothing in them is mathematics or a line's end,
    and long ones lose their middle.

    Raises:
        MibenchError: the file could not be written.
    """
    # The user's matplotlibrc may ask for LaTeX, whose markup no name is to be read as.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        # A character that the font lacks is drawn as a box, which says it, too.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = _figure(private, images, confidence, names, title)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_atomic(path, picture.getvalue())


def _figure(
    private: Tensor, images: Tensor, confidence: Tensor, names: list[str], title: str
) -> Figure:
    shown = _shown(len(names))
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure((_COLUMNS * 3.3, rows * 1.3 + 0.7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, shown.tolist(), strict=False):
        order = confidence[index].argsort(descending=True)
        best, median = order[0], order[len(order) // 2]
        strip = torch.cat([private[index], images[index, best], images[index, median]], dim=2)
        axis.imshow(strip.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
        side = strip.shape[1]
        labels = (
            printable(names[index], _NAME),
            f"best {confidence[index, best]:.0%}",
            f"median {confidence[index, median]:.0%}",
        )
        for column, label in enumerate(labels):
            place = ((column + 0.5) * side, -1)
            axis.text(*place, label, ha="center", va="bottom", fontsize=7, parse_math=False)
    figure.suptitle(
        f"{printable(title, _TITLE)}\n"
        "private image | best | median reconstruction, by the evaluator's confidence",
        fontsize=9,
        parse_math=False,
    )
    return figure
