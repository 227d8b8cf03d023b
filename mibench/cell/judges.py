"""The stages of the embedding judges, and what they say of who an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mibench import metrics
from mibench.cell.stage import Bench, Stage
from mibench.data.images import ImageSet
from mibench.judges import (
    JUDGES,
    ROUNDING,
    Gallery,
    Judge,
    dequantised,
    quantised,
    ranks,
    restored_judge,
    template,
)
from mibench.record import (
    IDENTITY_METRICS,
    LEAKS,
    NO_OTHERS,
    RULES_VERSION,
    MetricValue,
    missing,
)
from mibench.store.artifact import save_tensors

if TYPE_CHECKING:
    from mibench.cell.images import Images
    from mibench.cell.resolve import Cell

_ORDER = ("first", "second", "third")  # judges, in the order of the card
NO_JUDGE = "the protocol pins no embedding judge"
NOBODY = (
    "there is nobody to rank among: the public images have no labels, so that none of their people "
    "could be held out; name a folder of other people by --decoys"
)
NO_TARGET = "the best guess is the target's choice, and the target is not at hand"
NO_COIN = "no coin chose the private identities"
_OF_THE_TARGET = ("identity_bits_best", *IDENTITY_METRICS[-5:])


@dataclass(frozen=True)
class Enrolled:
    """One judge, and its embeddings of all that a reconstruction is compared with.

    Attributes:
        decoys: unit templates ``(N, d)``, of g images each.
        own: unit templates of the private identities ``(k, d)``.
        held_out: for each test image the template of g others of its identity ``(k, m, d)``; None
            where an identity has no more than g.
        foils: unit templates of the identities that the coins passed by ``(k, d)``, or None.
        test: embeddings of the private test images ``(k, m, d)``, as many as all have.
        public: embeddings of the public images ``(n, d)``.
    """

    judge: Judge
    decoys: Tensor
    own: Tensor
    held_out: Tensor | None
    foils: Tensor | None
    test: Tensor
    public: Tensor


class Enrolment(Stage[Enrolled]):
    """Embed private test images, foils and public images, by one of the protocol's judges."""

    kind = "enrolment"

    def __init__(self, cell: Cell, images: Images, number: int) -> None:
        self.cell, self.images = cell, images
        self.card = cell.protocol.judges[number]
        self.judge = kind = cell.judges[number]
        pinned = {"network": self.card.network, "decoys": self.card.decoys}
        super().__init__(
            {name: asset and asset.sha256 for name, asset in pinned.items()},
            None,
            [images],
            [kind, *JUDGES.files_of(kind)],
            _ORDER[number],
        )

    def _restored(self, bench: Bench) -> tuple[Judge, Gallery | None]:
        judge, gallery = bench.once(
            (self.key, "judge"), lambda: restored_judge(self.card, self.judge)
        )
        return judge.to(bench.device), gallery

    def compute(self, folder: Path, bench: Bench) -> dict[str, Any]:
        judge, gallery = self._restored(bench)
        data = bench.get(self.images)
        sets = {"test": data.test, "public": data.public, "foils": data.foils}
        if gallery is None:
            sets["decoys"] = data.decoys
        found = {}
        for name, images in sets.items():
            if images is not None:
                made = judge(images.images, bench.progress, name)
                found[name] = made if name == "public" else _by_identity(made, images)
        if "decoys" in found:
            found["decoys"] = quantised(template(found["decoys"]))
        save_tensors(folder / "embeddings.safetensors", found)
        return {}

    def load(self, bench: Bench) -> Enrolled:
        found = bench.artifact(self).load_tensors("embeddings.safetensors")
        found = {name: tensor.to(bench.device) for name, tensor in found.items()}
        judge, gallery = self._restored(bench)
        if gallery is None:
            gallery = Gallery(found["decoys"], self.images.divided.counts.decoy_images)
        enough = found["test"].shape[1] > gallery.images
        return Enrolled(
            judge,
            dequantised(gallery.decoys.to(bench.device)),
            gallery.enrolled(found["test"]),
            gallery.held_out(found["test"]) if enough else None,
            gallery.enrolled(found["foils"]) if "foils" in found else None,
            found["test"],
            found["public"],
        )


def _by_identity(embeddings: Tensor, images: ImageSet) -> Tensor:
    """Embeddings ``(n, d)`` of labelled images as ``(identities, m, d)``, m as many as all have."""
    rows = [(images.labels == label).nonzero()[:, 0] for label in range(len(images.names))]
    fewest = min(map(len, rows))
    return embeddings[torch.stack([each[:fewest] for each in rows])]


class Identification:
    """How well images tell whom they are of, by the rules of :mod:`mibench.metrics.identity`.

    Args:
        judges: the protocol's, in the order of its card.
        labels: the attacked identities ``(k,)``.
        lookup: positions ``(k, samples)`` of the public images that the target scores highest, the
            best first; None where the target is not at hand.
        rules: version of the intervals' rules.
    """

    def __init__(
        self,
        judges: Sequence[Enrolled],
        labels: Tensor,
        lookup: Tensor | None,
        rules: int = RULES_VERSION,
    ) -> None:
        self.judges, self.labels, self.rules = judges, labels, rules
        self.found = lookup
        self.lookup = None if lookup is None else self._p([e.public[lookup] for e in judges])

    @property
    def decoys(self) -> int:
        """N."""
        return len(self.judges[0].decoys)

    def __call__(
        self, embeddings: Sequence[Tensor], scores: Tensor | None, held_out: bool = False
    ) -> dict[str, MetricValue]:
        """All identity metrics of images.

        Args:
            embeddings: each judge's ``(k, samples, d)``.
            scores: the target's score of each image for its identity ``(k, samples)``, which
                chooses the best guess; None where the target is not at hand.
            held_out: whether the images are the first of the private test images, each of which is
                scored against a template without itself.
        """
        labels, rules = self.labels, self.rules
        if held_out and any(each.held_out is None for each in self.judges):
            return dict.fromkeys(IDENTITY_METRICS, missing(NO_OTHERS))
        p = self._p(embeddings, held_out)
        found = self._of_p(p)
        if scores is None or self.lookup is None:
            return found | dict.fromkeys(_OF_THE_TARGET, missing(NO_TARGET))
        best = scores.argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        chosen = [each[rows, best] for each in embeddings]
        templates = [_templates(each, labels, len(p[0]), held_out) for each in self.judges]
        templates = [each[rows, best] for each in templates]
        own = torch.stack([_cosine(*pair) for pair in zip(chosen, templates, strict=True)])
        guess, lookup = p.gather(1, best.cpu()[:, None]), self.lookup
        alike = torch.stack([self._lookalike(judge)[0] for judge in self.judges])
        found |= {
            "identity_bits_best": metrics.identity_bits(guess, labels, rules=rules),
            "excess_bits": metrics.excess_bits(p, lookup, labels, rules=rules),
            "excess_bits_best": metrics.excess_bits(guess, lookup[:, :1], labels, rules=rules),
            "beats_lookalike": metrics.beats_lookalike(own, alike, labels, rules=rules),
            "two_choice_accuracy": missing(NO_COIN),
        }
        if (foils := self.judges[0].foils) is not None:
            other = _cosine(chosen[0], foils[labels])
            found["two_choice_accuracy"] = metrics.two_choice_accuracy(
                own[0], other, labels, rules=rules
            )
        found["epsilon_lower_bound"] = metrics.audited_epsilon(found["two_choice_accuracy"])
        return found

    def of_samples(self, embeddings: Sequence[Tensor], scores: Tensor | None) -> dict[str, Tensor]:
        """What a picture shows: the rank of each sample, the best guess, and the look-alikes.

        Returns:
            ``rank (k, samples)``; ``lookalike (k,)``, positions of the first judge's among the
            public images, with their ``lookalike_rank (k,)``; and ``best (k,)``, where the target
            is at hand. A rank is the largest of the judges'.
        """
        public = self._lookalike(self.judges[0])[1]
        alike = self._p([each.public[public][:, None] for each in self.judges])[:, 0]
        found = {
            "rank": metrics.ranks_of(self._p(embeddings), self.decoys),
            "lookalike": public,
            "lookalike_rank": metrics.ranks_of(alike, self.decoys),
        }
        return found if scores is None else found | {"best": scores.argmax(dim=1)}

    def of_each_guess(self, embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the best-guess metrics would be of each sample, were it the best: ``(k, samples)``.

        Whoever has no target can so tell whether a claim is of any one guess at all.
        """
        people = self.labels[:, None]
        own = [_cosine(e, j.own[people]) for e, j in zip(embeddings, self.judges, strict=True)]
        wins = [s > self._lookalike(j)[0][:, None] for s, j in zip(own, self.judges, strict=True)]
        found = {
            "identity_bits_best": -self._p(embeddings).log2(),
            "beats_lookalike": torch.stack(wins).all(0).double().cpu(),
        }
        if (foils := self.judges[0].foils) is not None:
            right = own[0] > _cosine(embeddings[0], foils[people])
            found["two_choice_accuracy"] = right.double().cpu()
        return found

    def of_lookup(self) -> dict[str, MetricValue]:
        """All metrics of look-up's images, whose best guess is their first.

        Raises:
            ValueError: without the target there is none.
        """
        if self.lookup is None or self.found is None:
            raise ValueError(NO_TARGET)
        order = -torch.arange(self.found.shape[1], device=self.found.device)
        return self([each.public[self.found] for each in self.judges], order.expand_as(self.found))

    def of_lookalikes(self) -> dict[str, MetricValue]:
        """Bits and leaks of the look-alikes: for each judge, its own."""
        every = [self._lookalike(judge)[1] for judge in self.judges]
        pairs = zip(self.judges, every, strict=True)
        return self._of_p(self._p([judge.public[which][:, None] for judge, which in pairs]))

    def _of_p(self, p: Tensor) -> dict[str, MetricValue]:
        found = {
            "identity_bits": metrics.identity_bits(p, self.labels, rules=self.rules),
            "median_rank": metrics.median_rank(p, self.labels, self.decoys, rules=self.rules),
        }
        for name, alpha in LEAKS.items():
            found[name] = metrics.leak(p, self.labels, alpha, self.decoys, rules=self.rules)
        return found

    def _p(self, embeddings: Sequence[Tensor], held_out: bool = False) -> Tensor:
        """The largest p of the judges ``(k, samples)``, on the CPU."""
        found = []
        for judge, own in zip(self.judges, embeddings, strict=True):
            templates = _templates(judge, self.labels, own.shape[1], held_out)
            flat = ranks(own.flatten(0, 1), templates.flatten(0, 1), judge.decoys)
            found.append(flat.view(own.shape[:2]))
        return metrics.p_values(torch.stack(found), self.decoys)

    def _lookalike(self, judge: Enrolled) -> tuple[Tensor, Tensor]:
        """For each identity, what a score must exceed to beat that of any public image, and which.

        The same image scored elsewhere may get other last digits, and its tie is no win.
        """
        best = (judge.public @ judge.own[self.labels].T).max(dim=0)
        return best.values + ROUNDING, best.indices


def _templates(judge: Enrolled, labels: Tensor, samples: int, held_out: bool) -> Tensor:
    """What each sample is scored against ``(k, samples, d)``."""
    if held_out and judge.held_out is not None:
        return judge.held_out[labels, :samples]
    return judge.own[labels, None].expand(-1, samples, -1)


def _cosine(embeddings: Tensor, templates: Tensor) -> Tensor:
    return (embeddings * templates).sum(dim=-1)
