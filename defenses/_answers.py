"""What defenses of the answers share: the target before its filter, and scores as logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.errors import RequestError
from mibench.models.classifiers import predict
from mibench.training.loop import Job

LEAST = 1e-12
"""Stands for a score of 0, so that logarithms are finite."""

AHEAD = 1e-5
"""What the label's logarithm is raised by where another score equals it."""


def scores_of(logits: Tensor) -> Tensor:
    """Softmax scores ``(n, classes)`` in double precision, in which a filter computes."""
    return logits.double().softmax(1)


def as_logits(scores: Tensor, like: Tensor) -> Tensor:
    """Finite logits whose softmax are ``scores``, in the precision of ``like``.

    Args:
        scores: ``(n, classes)``, none negative; they need not sum to 1, their softmax does.
    """
    total = scores.sum(1, keepdim=True)
    return (scores / total).clamp_min(LEAST).log().to(like.dtype)


def with_label(logits: Tensor, labels: Tensor) -> Tensor:
    """The same logits ``(n, classes)`` with the label ``(n,)`` ahead of those that equal it.

    For filters after which others may score as much as the label, and none more: an answer says
    the label beside the scores, so the first of equal scores must not take its place.
    """
    own = logits.gather(1, labels[:, None])
    tied = (logits == own).sum(1, keepdim=True) > 1
    return logits.scatter(1, labels[:, None], own + AHEAD * tied)


@torch.no_grad()
def unfiltered(job: Job, images: ImageSet) -> Tensor:
    """Logits ``(n, classes)`` of the trained network without the filter that is to be fitted."""
    fitted, job.model.output = job.model.output, nn.Identity()
    try:
        return predict(job.model, images.images, progress=job.progress, label="output filter")[0]
    finally:
        job.model.output = fitted


def require_validation(job: Job, what: str) -> ImageSet:
    """The validation images, of which a filter needs one or more of each identity.

    Args:
        what: the defense, as a message calls it.

    Raises:
        RequestError: there are none, or an identity has none.
    """
    if job.val is None:
        raise RequestError(f"{what} is fitted on validation images, and there are none")
    there = torch.bincount(job.val.labels, minlength=job.model.classes)
    if absent := int((there == 0).sum()):
        raise RequestError(
            f"{what} is fitted on validation images of every identity, and {absent} of "
            f"{job.model.classes} have none: keep more of them for validation"
        )
    return job.val
