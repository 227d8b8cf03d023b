"""LoFt: low-rank feature filtering, a narrow neck and tanh before the last layer."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.types import DefenseCard


class NeckHead(nn.Module):
    """Linear classifier of tanh(Wf + b), whose ``width`` dimensions bound the rank of the logits.

    Source: LoFt (arXiv 2410.05814).

    Args:
        features: size of the features f.
        width: size of the neck.
        classes: number of identities.
        tanh: whether tanh follows the neck; without it the head is a product of two linear maps.

    Shapes:
        ``(n, features)`` to logits ``(n, classes)``.
    """

    def __init__(self, features: int, width: int, classes: int, *, tanh: bool) -> None:
        super().__init__()
        self.neck = nn.Linear(features, width)
        self.activation = nn.Tanh() if tanh else nn.Identity()
        self.classify = nn.Linear(width, classes)

    def read(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what the neck hands on as ``neck``, ``(n, width)``."""
        neck = self.activation(self.neck(features))
        return self.classify(neck), {"neck": neck}

    def forward(self, features: Tensor) -> Tensor:
        return self.read(features)[0]


@register_defense("loft")
class Loft(Defense["Loft.Config"]):
    """Cross-entropy of a network whose last layer sees d numbers in (−1, 1) of the features.

    The fewer dimensions reach the logits, the less of an image can be recovered from them; tanh
    saturates, and its gradient dies. The features that white-box attacks read are the ones before
    the neck.

    References:
        Yu et al. "Rank Matters: Understanding and Defending Model Inversion Attacks via Low-Rank
        Feature Filtering". KDD 2026 (arXiv 2410.05814, of which the first versions were called
        CALoR).
    """

    card = DefenseCard(
        kind="architecture",
        title="Rank Matters: Understanding and Defending Model Inversion Attacks via Low-Rank "
        "Feature Filtering",
        authors="Hongyao Yu, Yixiang Qiu, Hao Fang, Tianqu Zhuang, Bin Chen, Sijin Yu, Bin Wang, "
        "Shu-Tao Xia, Ke Xu",
        year=2026,
        venue="KDD",
        url="https://arxiv.org/abs/2410.05814",
        reference_code="https://github.com/Chrisqcwx/LoFt",
        deviations=(
            "The neck is a linear layer and tanh, as the paper describes it; in the toolbox that "
            "the code is for, a BatchNorm1d of the features comes first.",
            "The confidence adaptation of the first versions (CALoR), a fine-tuning with another "
            "loss, is left out: it is a defense of its own that the last version does without.",
            "The neck is no wider than the features, so that a large rank keeps what they have.",
            "The control has a neck as wide as the features and no tanh, which is a linear head "
            "as any other, factored in two; the largest rank shows what tanh alone does.",
            "The backbone starts where the protocol's target starts; the authors' is trained on "
            "MS-Celeb-1M first. Optimizer, schedule and augmentation are the protocol's, too.",
        ),
        adaptive_attack="ppa+ma",
        adaptive_note="Students have no neck and no tanh, so that what saturates in the network "
        "does not in them; PPA finds more through both than through the network alone.",
    )

    class Config(DefenseConfig):
        """Options of LoFt."""

        rank: int = Field(
            50,
            ge=0,
            le=1_000_000,
            description="width d of the neck, clipped to the size of the target's features (96 of "
            "`test_resnet`, 512 of `resnet18`); 0: the control, as wide as they are and without "
            "tanh",
        )

    strength = "rank"
    strengths = (0, 100, 50, 20, 10)

    def build(self, model: Classifier) -> Classifier:
        """Put the neck and its classifier in place of the linear head."""
        size, rank = model.feature_size, self.config.rank
        width = min(rank, size) if rank else size
        model.head = NeckHead(size, width, model.classes, tanh=rank > 0)
        return model
