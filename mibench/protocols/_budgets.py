"""Budgets and strengths that this suite's small protocols share; no protocol's digest holds them.

Those of the papers' protocols are computed from the published passes (`papers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mibench.training.loop import TrainingConfig

# Settled on synthfaces-32-dev with the baseline attacks: far above random prior samples, below
# saturation, and a minute or less of two cores.
ATTACKS: dict[str, dict[str, Any]] = {
    "gmi": {"attack.iterations": 60},
    "kedmi": {
        "attack.iterations": 200,
        "attack.learning_rate": 0.05,
        "attack.initial_log_variance": 0,
    },
    "vmi": {
        "attack.family": "gaussian",
        "attack.iterations": 300,
        "attack.samples_per_step": 2,
        "attack.optimizer": "adam",
        "attack.learning_rate": 0.01,
        "attack.kl_weight": 0.02,
    },
    # On synthfaces-32-dev by bits, without final selection: steps of .02 7.0, .05 7.1, .1 7.0; with
    # 5 of 20 7.5.
    "ppa": {
        "attack.selection.pool": 2000,
        "attack.selection.candidates": 10,
        "attack.iterations": 60,
    },
    "plg-mi": {"attack.iterations": 60},
    # By bits on the first 16 identities of synthfaces-32-dev (look-up on the first 20: 6.6). Of so
    # few queries, brep-mi's starts 4.2; spheres of 32 points 4.6, of 16 4.8, also where 15 of them
    # are enough, of 8 5.2.
    "brep-mi": {
        "attack.queries": 2500,
        "attack.pool": 5000,
        "attack.draws": 32,
        "attack.directions": 8,
    },
    # A box of 1 6.8, of 2 7.1; 5.8 with the published stop at .95, which is soon reached.
    "mirror-blackbox": {
        "attack.queries": 2000,
        "attack.pool": 5000,
        "attack.population": 50,
        "attack.box": 2,
        "attack.confidence": 1,
    },
    # Steps of .003 5.5, of .01 5.8.
    "rlb-mi": {
        "attack.queries": 2000,
        "attack.hidden": 64,
        "attack.batch_size": 32,
        "attack.learning_rate": 0.01,
    },
    "deepinversion": {"attack.iterations": 500},
    "pixel": {"attack.iterations": 500},
}
# PLG-MI on synthfaces-32-dev by bits: on the general prior 5.4; its own after 150 steps of .0002
# 4.5 (two critic steps each), of .002 5.8, and 3.6 at five times the weight α; after 300 steps
# 7.75. A class's gains and biases learn of the batches alone that show it, so small steps come too
# late.
PRIORS: dict[str, dict[str, Any]] = {
    "conditional-gan": {
        "prior.steps": 300,
        "prior.critic_steps": 1,
        "prior.learning_rate": 0.002,
    },
    "inversion-gan": {"prior.steps": 200},
    # So often is G(z, y) y to the target, on synthfaces-32-dev: after 150 steps of .0002 1.6 %,
    # after 300 of .001 66 %, of .002 with one critic step 5 %.
    "t-acgan": {
        "prior.start": True,
        "prior.warmup": 10,
        "prior.steps": 300,
        "prior.learning_rate": 0.001,
        "prior.critic_steps": 2,
        "prior.batch_size": 64,
        "prior.mirror": True,
        "prior.ema": 0.98,
    },
}
# On photographs of faces, and networks that start from scratch. Validation accuracy on lfw-64-small
# (none .886): control .856, scale 1 .869, 3 .831.
BIDO: dict[str, Any] = {
    "target.optimizer": "adam",
    "target.learning_rate": 1e-3,
    "target.weight_decay": 0.0,
    "defense.scale": 2,
}


def lokt(surrogates: Sequence[str]) -> dict[str, Any]:
    """LOKT's budget; its surrogates are small networks, such as the protocol's students.

    On synthfaces-32-dev 5.5 bits for 48,400 queries; where surrogates learn for 4 epochs 5.1, and
    with a prior of 150 steps of .0002, too, 3.9.
    """
    return {
        "attack.iterations": 60,
        "attack.surrogates.architectures": list(surrogates),
        "attack.surrogates.start": "scratch",
        "attack.surrogates.images_per_class": 100,
        "attack.surrogates.training.epochs": 8,
        "attack.surrogates.training.batch_size": 64,
        "attack.surrogates.training.optimizer": "adamw",
        "attack.surrogates.training.learning_rate": 2e-3,
        "attack.surrogates.training.weight_decay": 0.01,
        "attack.surrogates.training.warmup": 0.05,
    }


STUDENTS = TrainingConfig(epochs=2, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01)
