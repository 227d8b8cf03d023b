"""DP-SGD: every image's gradient is clipped, and Gaussian noise is added to their sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from opacus.optimizers import DPOptimizer
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mibench.defenses._accounting import Accountant, Mechanism
from mibench.defenses._per_image_gradients import (
    check_no_batch_statistics,
    check_vectorises,
    looped_gradients,
    replace_batch_norm,
    trainable,
    vectorised_gradients,
)
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.training.defense import Defense, DefenseConfig, register_defense
from mibench.training.loop import Job, TrainingConfig, TrainState
from mibench.types import MEMORY, DefenseCard

DEFAULT_EPSILON = 8.0
_LOOPED_AT_ONCE = 16  # spares most of Opacus' work for each part; more was not faster


@register_defense("dp-sgd")
class DpSgd(Defense["DpSgd.Config"]):
    """DP-SGD (algorithm 1) with Opacus' optimizer and accountants.

    Each of N images joins a lot independently with probability q = batch size / N (Poisson
    sampling), its gradient is clipped to norm C, and the update is (Σ clipped gradients +
    N(0, σ²C²I)) / (qN). An empty lot takes its step of noise like any other. ε follows from q, σ
    and the number of steps, and is computed before the first; a training that ends early has spent
    no more. Batch normalisation is replaced by group normalisation, in the control too.

    ε holds for this algorithm alone. A subclass that changes a part of it also says what it
    guarantees, in ``guarantee()``; without that it is refused (see :meth:`check`).

    References:
        Abadi et al. "Deep Learning with Differential Privacy". CCS 2016.
    """

    card = DefenseCard(
        title="Deep Learning with Differential Privacy",
        authors="Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang",
        year=2016,
        venue="CCS",
        url="https://arxiv.org/abs/1607.00133",
        reference_code="https://github.com/pytorch/opacus",
        deviations=(
            "the guarantee is for one image; an identity with k images has a far weaker one",
            "ε is of the training steps alone: choosing settings by validation accuracy spends "
            "more, which is not counted, and weights to start from are taken to be public",
            "noise and batches come from a seeded generator, so that a run can be repeated; it is "
            "not cryptographically secure, and who knows the seed can remove the noise",
            "batch normalisation becomes group normalisation (at most 32 groups of at least 4)",
            "one augmented view of each image a step",
            "per-image gradients by running each image alone instead of Opacus' layer hooks",
        ),
        kind="privacy",
        privacy_unit="example",
        adaptive_note="None is needed: the noise is spent in training, and the deployed model is "
        "deterministic.",
    )

    class Config(DefenseConfig):
        """Options of DP-SGD. The noise is given directly or found from ``target_epsilon``."""

        noise_multiplier: float | None = Field(
            None,
            ge=0,
            le=1e6,
            description="standard deviation of the noise in units of `max_grad_norm`; null: the "
            "least that reaches `target_epsilon`; 0: the control, without clipping, noise or "
            "guarantee",
        )
        target_epsilon: float | None = Field(
            None,
            gt=0,
            le=1e9,
            description="ε to spend over the whole training; null: 8 unless `noise_multiplier` is "
            "given, which excludes it",
        )
        delta: float | None = Field(
            None,
            gt=0,
            lt=1,
            description="δ of the guarantee, below 1/N; null: 1/N^1.1 for N training images",
        )
        max_grad_norm: float = Field(
            1.0,
            # Far beyond these, clipped gradients or their noise leave single precision.
            ge=1e-9,
            le=1e9,
            description="L2 norm that one image's gradient is clipped to",
        )
        accountant: Accountant = Field(
            "rdp",
            description="privacy accountant: Rényi (`rdp`) or privacy loss variables (`prv`), "
            "which is tighter, and knows no ε over about 100",
        )
        gradients: Literal["auto", "loop", "vmap"] = Field(
            "auto",
            description="how per-image gradients are computed (exactly, either way): image by "
            "image (`loop`), vectorised (`vmap`), or `loop` on CPUs and `vmap` elsewhere",
        )
        gradient_memory: int = Field(
            512,
            ge=1,
            le=2**20,
            description="MiB that the per-image gradients held at once may take; bounds memory, "
            "not results",
            json_schema_extra=MEMORY,
        )

        @model_validator(mode="after")
        def _one_source_of_noise(self) -> DpSgd.Config:
            if self.noise_multiplier is not None and self.target_epsilon is not None:
                raise ValueError(
                    "give `noise_multiplier` or `target_epsilon`, not both: the other follows from "
                    "it; one that the protocol sets is unset by null"
                )
            return self

    strength = "noise_multiplier"
    strengths = (0.0, 0.3, 0.6, 1.0, 2.0)
    training = {
        "batch_size": 256,
        "optimizer": "sgd",
        # Clipped gradients are short: ten times the usual rate. More, and the control is unstable.
        "learning_rate": 0.2,
        "weight_decay": 0.0,
    }

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._private: DPOptimizer | None = None  # None: not made yet, or the control
        self._planned: dict[str, float] = {}

    def check(self, job: Job) -> None:
        """Refuse a training whose ε would be unknown or wrong; the control has none.

        Raises:
            RequestError: the class changes what ε was computed for, δ protects no single image,
                or the accountant gives no ε or finds no noise.
        """
        images = len(job.train)
        self._plan(images, job.config, _lots(images, job.config))

    def _plan(self, images: int, config: TrainingConfig, lots: int) -> dict[str, float]:
        """ε, δ and noise of the whole training; empty for the control.

        Args:
            lots: how many there are in an epoch.
        """
        own = self.config
        if own.noise_multiplier == 0:
            return {}
        self._check_own_algorithm()
        delta = own.delta or images**-1.1
        if delta >= 1 / images:
            raise RequestError(
                f"dp-sgd: δ = {delta:.3g} is no guarantee for one of {images} images, since "
                f"publishing one of them would have it: set defense.delta below {1 / images:.3g}"
            )
        mechanism = Mechanism(own.accountant, _rate(images, config), config.steps(lots), delta)
        target = own.target_epsilon or DEFAULT_EPSILON
        noise = own.noise_multiplier or mechanism.least_noise(target)
        if noise is None:
            raise RequestError(
                f"dp-sgd: the accountant {own.accountant} knows no noise that spends "
                f"target_epsilon={target:g} in {mechanism.text}: where it is too small, raise "
                "target_epsilon or delta or train for fewer epochs; where it is too large, lower "
                "it or give defense.noise_multiplier instead"
            )
        epsilon = mechanism.epsilon(noise)
        if math.isinf(epsilon):
            way = "less" if noise > 1 else "more"
            if own.accountant == "prv":
                way = f"--set defense.accountant=rdp, or {way}"
            raise RequestError(
                f"dp-sgd: the accountant {own.accountant} knows no ε for "
                f"defense.noise_multiplier={noise:g} in {mechanism.text}: use {way} noise "
                "(0 is the control, without a guarantee)"
            )
        return {"epsilon": epsilon, "delta": delta, "noise_multiplier": noise}

    def _check_own_algorithm(self) -> None:
        """Refuse a subclass that replaces a part of the algorithm and keeps the guarantee.

        Layers it may replace, which are checked in :meth:`optimizer`. What is done before the loop
        and after it sees private images, and so is a part.
        """
        if type(self).guarantee is not DpSgd.guarantee:
            return
        below = type(self).__mro__[: type(self).__mro__.index(DpSgd)]
        replaced = sorted(
            name
            for name in {name for each in (self, *below) for name in vars(each)}
            if name not in ("Config", "build") and not name.startswith("__")
            if callable(getattr(DpSgd, name, None))
        )
        if replaced:
            raise RequestError(
                f"{type(self).__name__} replaces {', '.join(replaced)} of dp-sgd, for which ε was "
                "computed, and might claim a guarantee that it does not have: override guarantee() "
                "too, with what holds (super().guarantee() if ε does, {} for none)"
            )

    def build(self, model: Classifier) -> Classifier:
        """Replace batch normalisation.

        Raises:
            RequestError: a layer records statistics of the training images.
        """
        replace_batch_norm(model)
        check_no_batch_statistics(model)
        return model

    def steps_per_epoch(self, job: Job) -> int:
        """As many lots as hold all images on average."""
        return _lots(len(job.train), job.config)

    def sampler(self, job: Job) -> Iterator[Tensor]:
        """Poisson sampling: the size of a lot varies, and can be 0."""
        images = len(job.train)
        for _ in range(self.steps_per_epoch(job)):
            draws = torch.rand(images, generator=job.rng, dtype=torch.float64)
            yield (draws < _rate(images, job.config)).nonzero()[:, 0]

    def optimizer(self, job: Job) -> torch.optim.Optimizer:
        """Opacus' optimizer, which clips and adds noise, around the usual one; not in the control.

        Raises:
            RequestError: as :meth:`check` does; a layer records statistics of the training images,
                or the model cannot be vectorised.
        """
        own, model, images = self.config, job.model, len(job.train)
        usual = super().optimizer(job)
        # Drawn in the control too, so that both see the same lots.
        seed = int(torch.randint(2**62, (1,), generator=job.rng))
        self._lot = _rate(images, job.config) * images  # its size on average
        self._planned = self._plan(images, job.config, self.steps_per_epoch(job))
        self._private = None
        if not self._planned:
            return usual
        check_no_batch_statistics(model)  # again, for what a subclass has made of it
        device = job.train.images.device
        size = sum(p.numel() * p.element_size() for p in trainable(model).values())
        self._at_once = max(1, own.gradient_memory * 2**20 // size)
        if own.gradients == "loop" or (own.gradients == "auto" and device.type == "cpu"):
            self._gradients, self._at_once = looped_gradients, min(self._at_once, _LOOPED_AT_ONCE)
        else:
            check_vectorises(model)
            self._gradients = vectorised_gradients
        private: torch.optim.Optimizer = DPOptimizer(
            usual,
            noise_multiplier=self._planned["noise_multiplier"],
            max_grad_norm=own.max_grad_norm,
            expected_batch_size=self._lot,
            generator=torch.Generator(device).manual_seed(seed),
        )
        self._private = private
        return private

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        """Prepare the step on a lot of images ``(n, 3, h, w)``, n ≥ 0; :meth:`loss` is not asked.

        Returns:
            The sum of the losses over the *expected* size of a lot, which is what is stepped on.
        """
        total = images.new_zeros(())
        parameters = list(trainable(model).values())
        if self._private is None:
            for p in parameters:
                p.grad = torch.zeros_like(p)  # stays so in an empty lot
            if len(images) > 0:
                total = F.cross_entropy(model(images), labels, reduction="sum") / self._lot
                total.backward()
            return total.detach()
        for p in parameters:
            p.grad_sample = p.new_zeros(0, *p.shape)  # type: ignore[attr-defined]
        starts = range(0, len(images), self._at_once)
        for start in starts:
            part = slice(start, start + self._at_once)
            losses, gradients = self._gradients(model, images[part], labels[part])
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad_sample = gradient  # type: ignore[attr-defined]
            total += losses.sum()
            # Opacus clips and sums part after part; the last one is left to the loop's own
            # step(), which then adds the noise once.
            if start != starts[-1]:
                self._private.signal_skip_step()
                self._private.step()
                self._private.zero_grad()
        return total / self._lot

    def finish(self, job: Job) -> None:
        """Take Opacus' attributes off the parameters."""
        for p in job.model.parameters():
            p.grad = None
            for name in ("grad_sample", "summed_grad"):
                vars(p).pop(name, None)

    def guarantee(self) -> dict[str, float]:
        """ε and δ of the training, and the noise multiplier; empty for the control."""
        return dict(self._planned)

    def audit(
        self,
        claimed: Mapping[str, float],
        images: int | None,
        training: TrainingConfig,
        *,
        complete: bool = True,
    ) -> list[str]:
        """Compute ε anew from the claimed noise, the settings and the number of images.

        Where the card states no number of images, the default δ = N^-1.1 tells it.
        """
        config = self.config
        if config.noise_multiplier == 0:
            return ["the control, without noise, has no guarantee"] if claimed else []
        if claimed.keys() != {"epsilon", "delta", "noise_multiplier"}:
            return ["epsilon, delta and noise_multiplier are the guarantee of dp-sgd: all of them"]
        delta, noise = claimed["delta"], claimed["noise_multiplier"]
        if not (0 < delta < 1 and noise > 0):
            return [f"delta {delta} and noise_multiplier {noise} give no guarantee"]
        if images is None:
            images = max(1, round(delta ** (-1 / 1.1))) if config.delta is None else None
        if images is None:  # nothing here tells the sample rate
            return [] if delta == config.delta else [f"delta is {delta}, {config.delta} was set"]
        expected = images**-1.1 if config.delta is None else config.delta
        if abs(delta - expected) > 1e-9 * expected:
            return [f"delta is {delta}, of {images} images it is {expected}"]
        if config.noise_multiplier is not None and noise != config.noise_multiplier:
            return [f"noise_multiplier is {noise}, {config.noise_multiplier} was set"]
        steps = training.steps(_lots(images, training))
        mechanism = Mechanism(config.accountant, _rate(images, training), steps, delta)
        epsilon = mechanism.epsilon(noise)
        if math.isinf(epsilon):
            return [f"the accountant {config.accountant} knows no epsilon for noise {noise}"]
        stated, most = claimed["epsilon"], config.target_epsilon or DEFAULT_EPSILON
        if config.noise_multiplier is None and complete and not 0.9 * most <= stated <= most:
            return [f"epsilon is {stated}, the noise is to be the least that reaches {most}"]
        if abs(stated - epsilon) > 1e-6 * epsilon and (complete or stated > epsilon):
            return [f"epsilon is {stated}, of {steps} steps of noise {noise} it is {epsilon}"]
        return []


def _rate(images: int, config: TrainingConfig) -> float:
    """Probability q that an image joins a lot."""
    return min(1.0, config.batch_size / images)


def _lots(images: int, config: TrainingConfig) -> int:
    """Lots of an epoch."""
    return math.ceil(images / config.batch_size)
