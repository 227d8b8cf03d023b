"""Names of methods as links to the papers that they are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mibench.names import VIEWS, AttackName


@dataclass(frozen=True)
class Paper:
    """Where a method is from: a title with its venue, and its address."""

    title: str
    url: str


# LOM and MA, the improvements of every attack that optimises an identity loss.
IMPROVEMENTS = Paper(
    "Re-thinking Model Inversion Attacks Against Deep Neural Networks, CVPR 2023",
    "https://arxiv.org/abs/2304.01669",
)
# TAA and PAA: the same losses averaged over views of the image.
VIEWED = Paper(
    "AlignMI, NeurIPS 2025",
    "https://arxiv.org/abs/2509.20177",
)
_IMPROVED = "improved-"


@dataclass(frozen=True)
class Papers:
    """The papers of the methods that are known here, by their names."""

    attacks: Mapping[str, Paper] = field(default_factory=dict)
    defenses: Mapping[str, Paper] = field(default_factory=dict)

    def titles(self) -> dict[str, str]:
        """The title at each address."""
        own = (IMPROVEMENTS, VIEWED)
        every = (*own, *self.attacks.values(), *self.defenses.values())
        return {paper.url: paper.title for paper in every}

    def parts(
        self, kind: Literal["attack", "defense"], name: str
    ) -> list[tuple[str, Paper | None]]:
        """A method's name in parts, each with its paper: of ``gmi+lom`` that of GMI and of LOM.

        Of ``+taa`` and ``+paa`` it is that of AlignMI; ``+untrap``, the last one, is this suite's.

        A method of somebody's file, or one that is not known here, has none; the parts together are
        the name in any case.
        """
        if kind == "defense" or "@" in name:
            return [(name, self.defenses.get(name) if kind == "defense" else None)]
        base = AttackName.parse(name, strict=False).base.strip()  # printed ones have blanks
        if base not in self.attacks:
            return [(name, None)]
        start = len(_IMPROVED) if name.startswith(_IMPROVED) else 0
        end = start + len(base)
        rest, untrap = name[end:], ""
        if (parted := rest.rpartition("+"))[2].strip() == "untrap":
            rest, untrap = parted[0], "".join(parted[1:])
        improvements, plus, last = rest.rpartition("+")
        if last.strip() == "repeat":
            return [(name[:end], self.attacks[base]), (name[end:], None)]
        views = last.strip() in VIEWS
        found = [
            (name[:start], IMPROVEMENTS),
            (name[start:end], self.attacks[base]),
            (improvements if views else rest, IMPROVEMENTS),
            (plus + last if views else "", VIEWED),
            (untrap, None),
        ]
        return [(text, paper) for text, paper in found if text]
