"""Purifier: answers pass an autoencoder, and those of some training images are made wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.defenses._answers import as_logits, require_validation, scores_of, unfiltered
from mibench.models.classifiers import Classifier
from mibench.streams import seeded
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job
from mibench.types import BUDGETED, DefenseCard


class Reformer(nn.Module):
    """A conditional variational autoencoder of score vectors; the condition is the label.

    Args:
        classes: number K of identities.
        hidden: width of the layer on either side.
        latent: size d of the code.
    """

    def __init__(self, classes: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.classes = classes
        self.encode = nn.Sequential(nn.Linear(2 * classes, hidden), nn.ReLU())
        self.statistics = nn.Linear(hidden, 2 * latent)
        self.decode = nn.Sequential(
            nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def code(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the code, ``(n, latent)`` each."""
        condition = F.one_hot(labels, self.classes).to(scores)
        mean, log_variance = self.statistics(self.encode(torch.cat([scores, condition], 1))).chunk(
            2, 1
        )
        return mean, log_variance

    def logits(self, code: Tensor, labels: Tensor) -> Tensor:
        """Logits of the reformed scores, ``(n, classes)``."""
        condition = F.one_hot(labels, self.classes).to(code)
        result: Tensor = self.decode(torch.cat([code, condition], 1))
        return result

    def loss(self, scores: Tensor, label_weight: float, kl_weight: float, noise: Tensor) -> Tensor:
        """The training loss ``(n,)`` of scores ``(n, classes)``.

        ‖p̂ − p‖² + λ·CE(p̂, argmax p) + β·KL(N(μ, σ²) ‖ N(0, 1)), where p̂ is decoded of μ + σ·noise.

        Args:
            label_weight: λ. kl_weight: β.
            noise: standard normal, ``(n, latent)``.
        """
        labels = scores.argmax(1)
        mean, log_variance = self.code(scores, labels)
        decoded = self.logits(mean + (log_variance / 2).exp() * noise, labels)
        apart = (decoded.softmax(1) - scores).square().sum(1)
        label = F.cross_entropy(decoded, labels, reduction="none")
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return apart + label_weight * label + kl_weight * kl


class Purified(nn.Module):
    """The filter: the reformer, and then the label swapper.

    Args:
        classes: number K of identities. hidden, latent: sizes of the reformer.
        radius: L2 distance within which an answer is that of a stored training image.

    Attributes:
        stored: answers to training images ``(m, K)``: those that are swapped, and those so near
            one of them that they could be taken for it.
        swapped: which of them are swapped ``(m,)``.

    Shapes:
        Logits ``(n, K)`` to logits ``(n, K)``, the same for the same.
    """

    def __init__(self, classes: int, hidden: int, latent: int, radius: float) -> None:
        super().__init__()
        self.reformer = Reformer(classes, hidden, latent)
        self.radius = radius
        self.stored: Tensor
        self.swapped: Tensor
        self.register_buffer("stored", torch.zeros(0, classes))
        self.register_buffer("swapped", torch.zeros(0, dtype=torch.bool))
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def store(self, scores: Tensor, swapped: Tensor) -> None:
        """Store the answers to training images ``(m, K)``, of which some are ``swapped`` ``(m,)``.

        Others matter only where a query can be nearer to them than to one that is swapped.
        """
        near = distances(scores, scores[swapped]) <= 2 * self.radius
        needed = near.any(1) | swapped
        self.stored, self.swapped = scores[needed], swapped[needed]

    def members(self, scores: Tensor) -> Tensor:
        """Which scores ``(n, K)`` are nearest to a stored answer that is swapped ``(n,)``."""
        if not len(self.stored):
            return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        distance, index = distances(scores, self.stored).min(1)
        return self.swapped[index] & (distance <= self.radius)

    def forward(self, logits: Tensor) -> Tensor:
        scores = logits.softmax(1)
        labels = scores.argmax(1)
        mean, _ = self.reformer.code(scores, labels)
        reformed = scores_of(self.reformer.logits(mean, labels))
        swapped = self.members(scores)[:, None]
        values, first_two = reformed.topk(2, dim=1)
        exchanged = reformed.scatter(1, first_two, values.flip(1))
        return as_logits(torch.where(swapped, exchanged, reformed), logits)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """L2 distances ``(n, m)`` of rows ``(n, K)`` and ``(m, K)``, exact where they are tiny."""
    # By a matrix product, as cdist would, distances below a thousandth are lost.
    return torch.cdist(one.double(), other.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _make_room(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Make buffers the size of what is loaded, which is known only after training."""
    for name in ("stored", "swapped"):
        if (found := state.get(prefix + name)) is not None:
            own: Tensor = getattr(module, name)
            setattr(module, name, own.new_zeros(found.shape))


@register_defense("purifier")
class Purifier(Defense["Purifier.Config"]):
    """A reformer makes answers typical of their label; a swapper hides who was trained on.

    The reformer is a conditional variational autoencoder, fitted on the answers to validation
    images, which were not trained on. The swapper exchanges the two highest scores of answers to
    so many training images that their accuracy is that of validation images, which it knows by
    their answers: some of these are stored with the target. Made against membership inference.
    Only the answers change: whoever has the weights sees the target as it is.

    References:
        Yang, Wang, Yang, Wan, Zhao, Chang, Zhang, Ren. "Purifier: Defending Data Inference Attacks
        via Transforming Confidence Scores". AAAI 2023.
    """

    card = DefenseCard(
        kind="output",
        title="Purifier: Defending Data Inference Attacks via Transforming Confidence Scores",
        authors="Ziqi Yang, Lijin Wang, Da Yang, Jie Wan, Ziming Zhao, Ee-Chien Chang, Fan Zhang, "
        "Kui Ren",
        year=2023,
        venue="AAAI",
        url="https://arxiv.org/abs/2212.00612",
        deviations=(
            "No released code was at hand: sizes of the layers, Adam's step size and the number of "
            "steps are this suite's.",
            "The reference set is the validation images, whose accuracy also stands for that of "
            "images that were not trained on: test images are for testing alone.",
            "The code of an answer is its mean, not a draw, so that the same question has the same "
            "answer.",
            "Those that are swapped are drawn among the training images with the right label, as "
            "many as their accuracy is above the reference set's.",
            "Of the answers to training images only those are stored that can be nearest to a "
            "question whose answer is swapped; they lie with the target's weights.",
            "It has no main knob: without the divergence, too, an autoencoder that is fitted on "
            "sure answers and keeps labels makes unsure ones sure. Its control is no defense.",
        ),
        adaptive_attack="brep-mi",
        adaptive_note="It asks for labels alone, nearly all of which the autoencoder keeps.",
    )

    class Config(DefenseConfig):
        """Options of Purifier."""

        kl_weight: float = Field(
            1.0,
            ge=0,
            le=1e6,
            description="weight β of the code's divergence from a standard normal in nats, beside "
            "the squared distance of scores: the more, the more typical of its label is an answer",
        )
        label_weight: float = Field(
            1.0, ge=0, le=1e6, description="weight λ of the cross-entropy that keeps the label"
        )
        radius: float = Field(
            5e-5,
            ge=0,
            le=1,
            description="L2 distance of scores within which an answer is that of a training image",
        )
        hidden: int = Field(256, ge=1, le=100_000, description="width of the autoencoder's layers")
        latent: int = Field(32, ge=1, le=100_000, description="size of the autoencoder's code")
        steps: int = Field(
            1000,
            ge=1,
            le=10**7,
            description="steps of the autoencoder's training",
            json_schema_extra=BUDGETED,
        )
        batch_size: int = Field(64, ge=1, le=1_000_000, description="answers a step")
        learning_rate: float = Field(1e-3, gt=0, le=10, description="Adam's step size")

    def build(self, model: Classifier) -> Classifier:
        """Put the purifier behind the last layer."""
        config = self.config
        model.output = Purified(model.classes, config.hidden, config.latent, config.radius)
        return model

    def check(self, job: Job) -> None:
        """Refuse too few validation images to fit the reformer on."""
        require_validation(job, "purifier")

    def finish(self, job: Job) -> None:
        """Fit the reformer on validation images' answers, and store training images' to swap."""
        purified, val = job.model.output, require_validation(job, "purifier")
        assert isinstance(purified, Purified)
        reference = unfiltered(job, val)
        self.fit(purified.reformer, reference.softmax(1), job.rng)
        trained = unfiltered(job, job.train)
        right = trained.argmax(1) == job.train.labels
        accuracy = (reference.argmax(1) == val.labels).double().mean().item()
        purified.store(trained.softmax(1), drawn_to_swap(right, accuracy, job.rng))

    def fit(self, reformer: Reformer, scores: Tensor, rng: torch.Generator) -> None:
        """Train the reformer on scores ``(n, classes)``."""
        config, latent = self.config, self.config.latent
        with seeded(rng), torch.enable_grad():
            for module in reformer.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
            adam = torch.optim.Adam(reformer.parameters(), config.learning_rate)
            for _ in range(config.steps):
                chosen = torch.randint(len(scores), (config.batch_size,)).to(scores.device)
                noise = torch.randn(config.batch_size, latent).to(scores)
                loss = reformer.loss(
                    scores[chosen], config.label_weight, config.kl_weight, noise
                ).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                adam.zero_grad()


def drawn_to_swap(right: Tensor, accuracy: float, rng: torch.Generator) -> Tensor:
    """Which training images ``(n,)`` are to be answered wrong, so that ``accuracy`` is left.

    Args:
        right: which are answered right ``(n,)``; some of these are drawn.
        accuracy: of images that were not trained on, in [0, 1]; where that of the training images
            is no higher, none are drawn.
        rng: CPU generator.
    """
    many = max(0, int(right.sum()) - round(accuracy * len(right)))
    places = right.nonzero()[:, 0]
    chosen = places[torch.randperm(len(places), generator=rng)[:many].to(places.device)]
    return torch.zeros_like(right).index_fill(0, chosen, True)
