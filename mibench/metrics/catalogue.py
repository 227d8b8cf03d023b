"""What each metric of a record means, as tables and ``mibench info`` show it."""

from __future__ import annotations

from typing import Literal

from mibench.types import Frozen

Direction = Literal["higher leaks more", "lower leaks more"]

HIGHER: Direction = "higher leaks more"
LOWER: Direction = "lower leaks more"

_GMI = "Zhang et al., The Secret Revealer, CVPR 2020, section 4.3"
_FID = "Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017"
_PR = "Kynkäänniemi et al., Improved Precision and Recall Metric, NeurIPS 2019"
_DC = "Naeem et al., Reliable Fidelity and Diversity Metrics, ICML 2020"


class MetricInfo(Frozen):
    """A metric as readers see it.

    Attributes:
        title: column heading.
        definition: one paragraph.
        unit: what a value of 1 means.
        direction: which way means more leakage.
        source: where the definition comes from.
    """

    title: str
    definition: str
    unit: str
    direction: Direction
    source: str


def _info(title: str, unit: str, direction: Direction, source: str, definition: str) -> MetricInfo:
    return MetricInfo(
        title=title, definition=definition, unit=unit, direction=direction, source=source
    )


METRICS: dict[str, MetricInfo] = {
    "attack_accuracy_top1": _info(
        "Attack accuracy (top-1)",
        "fraction of reconstructions",
        HIGHER,
        _GMI,
        "Share of all reconstructions to which the evaluator, a classifier that the attacker never "
        "sees, gives the attacked identity as its first choice. A tie is not a hit.",
    ),
    "attack_accuracy_top5": _info(
        "Attack accuracy (top-5)",
        "fraction of reconstructions",
        HIGHER,
        _GMI,
        "Share of all reconstructions for which the attacked identity is among the evaluator's "
        "five highest scores. Missing with five classes or fewer, where it is always 1.",
    ),
    "knn_distance": _info(
        "KNN distance",
        "squared L2 in evaluator features",
        LOWER,
        _GMI + "; squared, as in the released code",
        "Squared L2 distance from a reconstruction's penultimate evaluator feature to the nearest "
        "private training image of the same identity, averaged over all reconstructions. "
        "Comparable only with the same evaluator.",
    ),
    "fid": _info(
        "FID",
        "squared distance in Inception-v3 features",
        LOWER,
        _FID,
        "Fréchet distance in Inception-v3 pool features (the TensorFlow graph of 2015) between all "
        "reconstructions and the private training images of the attacked identities, both as "
        "8-bit images of one resolution. Biased upwards, the more so the fewer the images: compare "
        "at equal n. A realism measure: many recognisable faces can still have a high FID.",
    ),
    "fid_successful": _info(
        "FID (successful)",
        "squared distance in Inception-v3 features",
        LOWER,
        _FID + "; over successful reconstructions as in Nguyen et al., CVPR 2023",
        "FID over the reconstructions that the evaluator assigns to the attacked identity, with "
        "the same reference. Its n differs between methods, and with it the bias: it never ranks.",
    ),
    "fd_evaluator": _info(
        "Fréchet distance (evaluator)",
        "squared distance in evaluator features",
        LOWER,
        _FID + ", with the evaluator's features",
        "Fréchet distance in the evaluator's penultimate features between all reconstructions and "
        "the private training images of the attacked identities. Needs no download; comparable "
        "only with the same evaluator and equal n.",
    ),
    "attack_accuracy_both": _info(
        "Attack accuracy (both evaluators)",
        "fraction of reconstructions",
        HIGHER,
        "mibench; an intersection of two evaluators' top-1 attack accuracies",
        "Share of all reconstructions that two evaluators of different families both give the "
        "attacked identity as first choice: a single evaluator has false positives.",
    ),
    "precision": _info(
        "Precision",
        "fraction of reconstructions",
        HIGHER,
        _PR,
        "Within an identity (k = 3), the share of reconstructions that lie within the radius of at "
        "least one private training image, its distance to its third nearest neighbour; averaged "
        "over identities.",
    ),
    "recall": _info(
        "Recall",
        "fraction of private training images",
        HIGHER,
        _PR,
        "Within an identity (k = 3), the share of private training images that lie within the "
        "radius of at least one reconstruction; averaged over identities. Reconstructions that are "
        "widely scattered raise it too: read it with precision.",
    ),
    "density": _info(
        "Density",
        "1 = as dense as the private images; may exceed 1",
        HIGHER,
        _DC,
        "Within an identity (k = 3), in how many private training images' radii a reconstruction "
        "lies on average, divided by k; averaged over identities. Less sensitive to outliers than "
        "precision.",
    ),
    "coverage": _info(
        "Coverage",
        "fraction of private training images",
        HIGHER,
        _DC,
        "Within an identity (k = 3), the share of private training images that have a "
        "reconstruction within their radius; averaged over identities.",
    ),
    "evaluator_agreement": _info(
        "Evaluator agreement",
        "fraction of reconstructions",
        HIGHER,
        "mibench",
        "Share of all reconstructions for which two evaluators of different families name the same "
        "class, right or wrong. Low agreement says that the accuracies rest on one network's "
        "quirks; it qualifies them and is no measure of leakage alone.",
    ),
    "attribute_error": _info(
        "Attribute error",
        "fraction of an attribute's range",
        LOWER,
        "mibench; synthfaces protocols only",
        "Mean absolute difference between the attributes that a regressor, trained on public "
        "identities, reads off a reconstruction and the identity's true ones, each scaled "
        "to [0, 1].",
    ),
}
