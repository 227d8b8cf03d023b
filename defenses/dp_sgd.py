"""DP-SGD: every image's gradient is clipped, and Gaussian noise is added to their sum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from opacus.accountants import create_accountant
from opacus.accountants.accountant import IAccountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from mibench.errors import RequestError
from mibench.methods import Defense, DefenseConfig, register_defense
from mibench.models.classifiers import Classifier
from mibench.models.private import (
    GradientFunction,
    check_no_batch_statistics,
    check_vectorises,
    looped_gradients,
    replace_batch_norm,
    trainable,
    vectorised_gradients,
)
from mibench.training import TrainingConfig, TrainState
from mibench.types import DefenseCard

DEFAULT_EPSILON = 8.0
_MOST_PRV_EPSILON = 100.0  # beyond, the discretised privacy loss takes all memory
_LOOPED_AT_ONCE = 16  # spares most of Opacus' work for each part; more was not faster


class DpSgdConfig(DefenseConfig):
    """Options of DP-SGD. The noise is given directly or found from ``target_epsilon``."""

    noise_multiplier: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the noise in units of `max_grad_norm`; null: the least "
        "that reaches `target_epsilon`; 0: the control, without clipping, noise or guarantee",
    )
    target_epsilon: float | None = Field(
        None,
        gt=0,
        description="ε to spend over the whole training; null: 8 unless `noise_multiplier` is "
        "given, which excludes it",
    )
    delta: float | None = Field(
        None, gt=0, lt=1, description="δ of the guarantee; null: 1/N^1.1 for N training images"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="L2 norm that one image's gradient is clipped to"
    )
    accountant: Literal["rdp", "prv"] = Field(
        "rdp", description="privacy accountant: Rényi (`rdp`) or privacy loss variables (`prv`)"
    )
    gradients: Literal["auto", "loop", "vmap"] = Field(
        "auto",
        description="how per-image gradients are computed (exactly, either way): image by image "
        "(`loop`), vectorised (`vmap`), or `loop` on CPUs and `vmap` elsewhere",
    )
    gradient_memory: int = Field(
        512,
        ge=1,
        description="MiB that the per-image gradients held at once may take; bounds memory, not "
        "results",
    )

    @model_validator(mode="after")
    def _one_source_of_noise(self) -> DpSgdConfig:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError(
                "give `noise_multiplier` or `target_epsilon`, not both: the other follows from it; "
                "one that the protocol sets is unset by null"
            )
        return self


@register_defense("dp-sgd")
class DpSgd(Defense):
    """DP-SGD (Abadi et al., CCS 2016, algorithm 1) with Opacus' optimizer and accountants.

    Each image joins a batch independently with probability q = batch size / N (Poisson sampling),
    its gradient is clipped to norm C, and the update is (Σ clipped gradients + N(0, σ²C²I)) /
    (qN). An empty batch takes its step of noise like any other. ε follows from q, σ and the steps
    that were taken. Batch normalisation is replaced by group normalisation, in the control too.
    """

    card: ClassVar[DefenseCard] = DefenseCard(
        title="Deep Learning with Differential Privacy",
        authors="Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang",
        year=2016,
        venue="CCS",
        url="https://arxiv.org/abs/1607.00133",
        reference_code="https://github.com/pytorch/opacus",
        deviations=(
            "the guarantee is for one image; an identity with k images has a far weaker one",
            "noise and batches come from a seeded generator, so that a run can be repeated; it is "
            "not cryptographically secure, and who knows the seed can remove the noise",
            "batch normalisation becomes group normalisation (at most 32 groups of at least 4)",
            "one augmented view of each image a step",
            "per-image gradients by running each image alone instead of Opacus' layer hooks",
        ),
        privacy_unit="example",
        adaptive_attack="white-box inversion as it is: the noise is spent in training, and the "
        "deployed model is deterministic",
    )
    Config = DpSgdConfig
    strength = "noise_multiplier"
    strengths = (0.0, 0.3, 0.6, 1.0, 2.0)
    training: ClassVar[dict[str, Any]] = {
        "batch_size": 256,
        "optimizer": "sgd",
        # Clipped gradients are short: ten times the usual rate. More, and the control is unstable.
        "learning_rate": 0.2,
        "weight_decay": 0.0,
    }

    def __init__(self, config: DpSgdConfig) -> None:
        super().__init__(config)
        self._engine: _Engine | None = None  # None: not engaged yet, or the control

    def prepare(self, model: Classifier) -> Classifier:
        """Replace batch normalisation.

        Raises:
            RequestError: a layer records statistics of the training images.
        """
        replace_batch_norm(model)
        check_no_batch_statistics(model)
        return model

    def sampler(
        self, labels: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Poisson batches: their size varies, and can be 0."""
        rate = _sample_rate(labels, batch_size)
        for _ in range(self.steps_per_epoch(labels, batch_size)):
            draws = torch.rand(len(labels), generator=generator, dtype=torch.float64)
            yield (draws < rate).nonzero()[:, 0]

    def engage(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        labels: Tensor,
        config: TrainingConfig,
        generator: torch.Generator,
    ) -> tuple[Classifier, torch.optim.Optimizer]:
        """Find the noise and put Opacus' optimizer around ``optimizer``; not in the control.

        Raises:
            RequestError: no noise reaches the target ε, or the model cannot be vectorised.
        """
        self._engine = None
        # Drawn in the control too, so that both see the same batches.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        rate = _sample_rate(labels, config.batch_size)
        self._expected_batch = rate * len(labels)
        if self.config.noise_multiplier == 0:
            return model, optimizer
        delta = self.config.delta or len(labels) ** -1.1
        steps = config.steps(self.steps_per_epoch(labels, config.batch_size))
        device = next(model.parameters()).device
        private = DPOptimizer(
            optimizer,
            noise_multiplier=self.config.noise_multiplier or self._find_noise(rate, steps, delta),
            max_grad_norm=self.config.max_grad_norm,
            expected_batch_size=self._expected_batch,
            generator=torch.Generator(device).manual_seed(seed),
        )
        accountant = create_accountant(self.config.accountant)
        private.attach_step_hook(accountant.get_optimizer_hook_fn(rate))
        how, at_once = self._gradient_function(model, device)
        self._engine = _Engine(private, accountant, delta, how, at_once)
        return model, private

    def backward(
        self, model: Classifier, images: Tensor, labels: Tensor, state: TrainState
    ) -> Tensor:
        """Prepare the step on a batch of images ``(n, 3, h, w)``, n ≥ 0.

        Opacus clips and sums part after part of the batch; the last part is left to the loop's
        ``optimizer.step()``, which then adds the noise once.

        Returns:
            The sum of the losses over the *expected* batch size, which is what is stepped on.
        """
        parameters = list(trainable(model).values())
        if self._engine is None:
            for p in parameters:
                p.grad = torch.zeros_like(p)  # stays so in an empty batch
            if len(images) == 0:
                return images.new_zeros(())
            loss = F.cross_entropy(model(images), labels, reduction="sum") / self._expected_batch
            loss.backward()
            return loss.detach()
        engine, total = self._engine, images.new_zeros(())
        for p in parameters:
            p.grad_sample = p.new_zeros(0, *p.shape)  # type: ignore[attr-defined]
        starts = range(0, len(images), engine.at_once)
        for start in starts:
            part = slice(start, start + engine.at_once)
            losses, gradients = engine.gradients(model, images[part], labels[part])
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad_sample = gradient  # type: ignore[attr-defined]
            total += losses.sum()
            if start != starts[-1]:
                engine.optimizer.signal_skip_step()
                engine.optimizer.step()
                engine.optimizer.zero_grad()
        return total / self._expected_batch

    def release(self, model: Classifier) -> Classifier:
        """Take Opacus' attributes off the parameters."""
        for p in model.parameters():
            p.grad = None
            for name in ("grad_sample", "summed_grad"):
                vars(p).pop(name, None)
        return model

    def guarantee(self) -> dict[str, float | str]:
        """ε and δ of the steps taken, and the noise multiplier; empty for the control."""
        if self._engine is None:
            return {}
        return {
            "epsilon": float(self._engine.accountant.get_epsilon(self._engine.delta)),
            "delta": self._engine.delta,
            "noise_multiplier": float(self._engine.optimizer.noise_multiplier),
        }

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
        labels = torch.zeros(images, dtype=torch.int64)
        steps = training.steps(self.steps_per_epoch(labels, training.batch_size))
        rate = _sample_rate(labels, training.batch_size)
        epsilon = _epsilon("rdp", noise, rate, steps, delta)
        if config.accountant == "prv":
            if epsilon > _MOST_PRV_EPSILON:
                return [f"epsilon is far above {_MOST_PRV_EPSILON}, where prv cannot compute it"]
            epsilon = _epsilon("prv", noise, rate, steps, delta)
        stated, most = claimed["epsilon"], config.target_epsilon or DEFAULT_EPSILON
        if config.noise_multiplier is None and complete and not 0.9 * most <= stated <= most:
            return [f"epsilon is {stated}, the noise is to be the least that reaches {most}"]
        if abs(stated - epsilon) > 1e-6 * epsilon and (complete or stated > epsilon):
            return [f"epsilon is {stated}, of {steps} steps of noise {noise} it is {epsilon}"]
        return []

    def _find_noise(self, rate: float, steps: int, delta: float) -> float:
        epsilon = self.config.target_epsilon or DEFAULT_EPSILON
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the accountant, about noise that it tries first
            try:
                return get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=rate,
                    steps=steps,
                    accountant=self.config.accountant,
                    epsilon_tolerance=min(0.01, epsilon / 100),
                )
            except ValueError as error:
                raise RequestError(
                    f"dp-sgd cannot reach target_epsilon={epsilon:g} at δ={delta:.3g} in {steps} "
                    f"steps of sample rate {rate:.3g} ({error}): raise target_epsilon or delta, "
                    "or train for fewer epochs"
                ) from error

    def _gradient_function(
        self, model: Classifier, device: torch.device
    ) -> tuple[GradientFunction, int]:
        """How per-image gradients are computed, and for how many images at once."""
        how = self.config.gradients
        size = sum(p.numel() * p.element_size() for p in trainable(model).values())
        at_once = max(1, self.config.gradient_memory * 2**20 // size)
        if how == "loop" or (how == "auto" and device.type == "cpu"):
            return looped_gradients, min(at_once, _LOOPED_AT_ONCE)
        check_vectorises(model)
        return vectorised_gradients, at_once


@dataclass(frozen=True)
class _Engine:
    """What one private training works with; the optimizer counts its steps in the accountant."""

    optimizer: DPOptimizer
    accountant: IAccountant
    delta: float
    gradients: GradientFunction
    at_once: int


def _epsilon(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    """ε at δ after steps of one noise multiplier and sample rate."""
    counted = create_accountant(accountant)
    counted.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of RDP, about the orders that it tries
        return float(counted.get_epsilon(delta))


def _sample_rate(labels: Tensor, batch_size: int) -> float:
    return min(1.0, batch_size / len(labels))
