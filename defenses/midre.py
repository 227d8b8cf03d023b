"""MIDRE: random erasing, so that no training image shows a whole face."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor

from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import TrainState
from mibench.types import DefenseCard

LEAST_AREA = 0.1
"""Share of an image that is erased at the least, as published."""

Level = Annotated[float, Field(ge=0, le=1)]


def erase(
    images: Tensor, most: float, fill: tuple[float, float, float], rng: torch.Generator
) -> Tensor:
    """Paint a square of each image over: its area uniform in [0.1, most], its place in the image.

    A side is the root of the area, rounded to pixels, as torchvision's ``RandomErasing`` has it.

    Args:
        images: ``(n, 3, h, w)``; left as they are.
        most: share of an image, in (0.1, 0.9].
        fill: value of each channel.
        rng: CPU generator.

    Returns:
        ``(n, 3, h, w)``.
    """
    count, _, height, width = images.shape
    # In double precision a place times a number of places is exact, and never rounded up to it.
    size, down, across = torch.rand(3, count, generator=rng).double()
    area = (LEAST_AREA + (most - LEAST_AREA) * size) * height * width
    side = area.sqrt().round().clamp(max=min(height, width))
    top, left = (down * (height - side + 1)).floor(), (across * (width - side + 1)).floor()
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    erased = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(images.device)
    return torch.where(erased, images.new_tensor(fill).view(1, 3, 1, 1), images)


@register_defense("midre")
class Midre(Defense["Midre.Config"]):
    """Random erasing of every training image: one square of one colour, at a random place.

    It follows the standard augmentation, and stays where ``target.augment=false`` silences that.
    The deployed target sees whole images.

    References:
        Tran, Nguyen, Mai, Vandierendonck, Assent, Kot, Cheung. "Random Erasing vs. Model Inversion:
        A Promising Defense or a False Hope?". TMLR 2025.
        Zhong, Zheng, Kang, Li, Yang. "Random Erasing Data Augmentation". AAAI 2020.
    """

    card = DefenseCard(
        kind="data",
        title="Random Erasing vs. Model Inversion: A Promising Defense or a False Hope?",
        authors="Viet-Hung Tran, Ngoc-Bao Nguyen, Son T. Mai, Hans Vandierendonck, Ira Assent, "
        "Alex Kot, Ngai-Man Cheung",
        year=2025,
        venue="TMLR",
        url="https://arxiv.org/abs/2409.01062",
        reference_code="https://github.com/ngoc-nguyen-0/MIDRE_TMLR",
        deviations=(
            "The code erases after it has normalised images by mean and deviation 0.5, with "
            "ImageNet's mean as the value; `fill` is that colour in [0, 1], for targets here "
            "normalise images themselves, each as its architecture expects.",
            "The shifts and the mirroring of every target come before it here, crops, colour "
            "jitter and mirroring in the code.",
            "The training's optimizer and schedule are the protocol's, the same as for the "
            "undefended target.",
        ),
        adaptive_attack="improved-gmi+taa",
        adaptive_note="A target that was trained on parts of faces is asked for a loss averaged "
        "over views; views with the same erasing would be closer still.",
        undefended_control=True,
    )

    class Config(DefenseConfig):
        """Options of MIDRE."""

        area: float = Field(
            0.4,
            ge=0,
            le=0.9,
            description="share of an image that is erased at the most, over 0.1, which is the "
            "least; 0: the control, which erases nothing",
        )
        fill: tuple[Level, Level, Level] = Field(
            (0.7425, 0.728, 0.703), description="red, green and blue of what is erased, in [0, 1]"
        )

        @field_validator("area")
        @classmethod
        def _more_than_the_least(cls, value: float) -> float:
            if 0 < value <= LEAST_AREA:
                raise ValueError(
                    f"area is the largest share that is erased, and the least is {LEAST_AREA:g}: "
                    "give more than that, or 0 for the control, which erases nothing"
                )
            return value

    strength = "area"
    strengths = (0, 0.2, 0.4, 0.6, 0.8)

    def augment(self, images: Tensor, labels: Tensor, state: TrainState) -> Tensor:
        """The standard augmentation, where it is wanted, and then the erasing."""
        images = super().augment(images, labels, state)
        if self.config.area == 0:
            return images
        return erase(images, self.config.area, self.config.fill, state.rng)
