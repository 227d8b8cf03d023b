"""Small protocols on real data sets, sized for two CPU cores.

They are settings of this suite, not of any paper: small networks that start from scratch, few
iterations, and one general prior for all seeds. Evaluators are trained once on each machine, and
every record holds their accuracy.
"""

from __future__ import annotations

from typing import Any

from mibench.data.identity_split import IdentitySplit
from mibench.gan_training import GanConfig
from mibench.methods import StudentsConfig
from mibench.models.evaluators import JudgeConfig
from mibench.protocols.card import Protocol
from mibench.training import TrainingConfig

_STUDENTS = ("test_efficientnet", "test_byobnet", "test_convnext")
_QUICK = TrainingConfig(epochs=2, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01)
_KEDMI: dict[str, Any] = {
    "attack.iterations": 400,
    "attack.learning_rate": 0.05,
    "attack.initial_log_variance": 0,
    "attack.prior_training.steps": 200,
}

CARDS = (
    Protocol(
        name="mnist-32-small",
        title="MNIST at 32×32, sized for two CPU cores: digits 0–4 private, 5–9 public",
        data=IdentitySplit(
            dataset="mnist",
            classes=tuple("01234"),
            test_fraction=None,
            max_train=2000,
            public_images=10_000,
        ),
        split="b1681e2b066c0da3f20707d4b63037299af724be28404e2b5e53e7012f2ece5c",
        resolution=32,
        samples=20,
        target="test_resnet",
        training=TrainingConfig(epochs=5, learning_rate=0.05, weight_decay=5e-4),
        evaluator=JudgeConfig(
            architecture="regnetx_002",
            resolution=32,
            training=TrainingConfig(epochs=3, learning_rate=0.05, weight_decay=5e-4),
        ),
        second=JudgeConfig(
            architecture="mobilenetv2_050",
            resolution=32,
            training=TrainingConfig(epochs=3, learning_rate=0.05, weight_decay=5e-4),
        ),
        judges_know_public=True,
        gan=GanConfig(steps=2000, generator_width=16, critic_width=32),
        prior_seed=0,
        students=StudentsConfig(architectures=_STUDENTS, training=_QUICK),
        attacks={"gmi": {"attack.iterations": 200}, "kedmi": _KEDMI},
        defenses={"bido": {"target.learning_rate": 1e-3, "defense.scale": 10}},
        notes=(
            "Budgets were settled on digits 5–9 with baseline attacks. There no strength of BiDO "
            "up to 30 cost more than half a point of accuracy. Its learning rate is that of "
            "synthfaces-32, at which HSIC is stable.",
        ),
    ),
)
