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
_P = "mibench; conformal p-values, Vovk, Gammerman and Shafer (2005)"
_ISO = "ISO/IEC 19795-1; rank among decoys as in mibench's identity bits"
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


def _leak(rate: str) -> str:
    return (
        f"Share of all reconstructions that resemble the attacked identity more than all but {rate}"
        " of the decoys: true accepts at a fixed false-match rate. Knowing nothing gives that rate "
        "or less. Missing with fewer decoys than ten times its inverse."
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
    "identity_bits": _info(
        "Identity bits",
        "bits; 10 = one in a thousand people",
        HIGHER,
        _P,
        "Mean of log₂(1/p) over all reconstructions. A reconstruction's p is the rank of the "
        "attacked identity among decoys, people of the same source that nobody trained on, by how "
        "much it resembles each; of several judges the largest p. Knowing nothing of the identity "
        "gives 1.44 bits by one judge, and 1.44 / k to 1.44 by k of them, whatever is shown.",
    ),
    "identity_bits_best": _info(
        "Identity bits (best guess)",
        "bits; 10 = one in a thousand people",
        HIGHER,
        _P,
        "Identity bits of one reconstruction an identity, the one that the target scores highest. "
        "No judge has a say in the choice.",
    ),
    "median_rank": _info(
        "Median rank",
        "people; 1 = the most alike",
        LOWER,
        _P,
        "For half of the identities, half of their reconstructions rank the identity at least as "
        "high among the decoys and itself; of several judges the largest rank. Knowing nothing "
        "gives half of these people or more.",
    ),
    "leak_at_1e-2": _info(
        "Leak at 1e-2", "fraction of reconstructions", HIGHER, _ISO, _leak("1 in 100")
    ),
    "leak_at_1e-3": _info(
        "Leak at 1e-3", "fraction of reconstructions", HIGHER, _ISO, _leak("1 in 1,000")
    ),
    "leak_at_1e-4": _info(
        "Leak at 1e-4", "fraction of reconstructions", HIGHER, _ISO, _leak("1 in 10,000")
    ),
    "excess_bits": _info(
        "Excess over look-up",
        "bits",
        HIGHER,
        "mibench",
        "Identity bits minus those of look-up against the same target: the public images that it "
        "scores highest, as many an identity. No measure between defenses, as a bad target weakens "
        "look-up, too.",
    ),
    "excess_bits_best": _info(
        "Excess over look-up (best guess)",
        "bits",
        HIGHER,
        "mibench",
        "Identity bits of the best guess minus those of look-up's: the public image that the "
        "target scores highest.",
    ),
    "beats_lookalike": _info(
        "Beats the look-alike",
        "fraction of identities",
        HIGHER,
        "mibench",
        "Share of identities whose best guess is closer to them, for every judge, than the public "
        "image that is most like them, which the private data was used to find.",
    ),
    "two_choice_accuracy": _info(
        "Two-choice accuracy",
        "fraction of identities",
        HIGHER,
        "Green and Swets, Signal Detection Theory and Psychophysics (1966), two-alternative forced "
        "choice",
        "How often the best guess is closer, for the first judge, to the private identity than to "
        "the one that a seeded coin passed by. Knowing nothing gives one half. A tie is wrong.",
    ),
    "epsilon_lower_bound": _info(
        "Audited ε (lower bound)",
        "ε of pure differential privacy, an identity as the unit",
        HIGHER,
        "Steinke, Nasr and Jagielski, Privacy Auditing with One Training Run, NeurIPS 2023",
        "ln(p/(1-p)), p the one-sided 95 % lower limit of two-choice accuracy: no training whose "
        "model tells as much of the coins is ε-differentially private with a smaller ε (replacing "
        "one identity; δ = 0). 3.49 is the most that 100 identities can show. Not to be compared "
        "with DP-SGD's (ε, δ), whose unit is an image.",
    ),
}
