"""The picture of a run: a private image beside the best and the median reconstruction."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mibench.files import write_atomic
from mibench.text import printable

_COLUMNS = 4  # identities side by side
_ROWS = 15  # rows of identities at most; more would not be read
_NAME, _TITLE = 18, 150  # characters that have room


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
    shown = torch.linspace(0, len(names) - 1, min(len(names), _COLUMNS * _ROWS)).round().long()
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
