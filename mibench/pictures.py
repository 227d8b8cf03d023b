"""The picture of a run: a private image beside the best and the median reconstruction."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

_COLUMNS = 4  # identities side by side
_ROWS = 15  # rows of identities at most; more would not be read


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
    """
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
            names[index],
            f"best {confidence[index, best]:.0%}",
            f"median {confidence[index, median]:.0%}",
        )
        for column, label in enumerate(labels):
            axis.text((column + 0.5) * side, -1, label, ha="center", va="bottom", fontsize=7)
    figure.suptitle(
        f"{title}\nprivate image | best | median reconstruction, by the evaluator's confidence",
        fontsize=9,
    )
    figure.savefig(path, format="png", metadata={"Software": None})
