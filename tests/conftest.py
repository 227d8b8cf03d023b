"""Shared fixtures: a protocol so small that every stage takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mibench import protocols
from mibench.data.rendered import SynthFacesData
from mibench.judges.evaluators import EvaluatorConfig
from mibench.priors import GanConfig
from mibench.record import BoardCard
from mibench.training.loop import TrainingConfig
from mibench.training.students import StudentsConfig
from tests.kit import problems

torch.set_num_threads(1)

BRIEF = TrainingConfig(epochs=1, batch_size=16, learning_rate=0.02)

TINY = protocols.Protocol(
    name="tiny",
    title="A protocol for tests",
    data=SynthFacesData(
        private_name="tiny",
        public_name="tiny",
        identities=5,
        train=6,
        val=2,
        test=4,
        public_identities=8,
        public_images=4,
    ),
    board=BoardCard(headline="improved-kedmi", worst_case=("gmi", "improved-kedmi")),
    resolution=32,
    samples=4,
    chance_kappa=-1,  # an epoch on thirty images learns nothing
    target="test_resnet",
    training=BRIEF,
    evaluator=EvaluatorConfig(architecture="test_efficientnet", resolution=32, training=BRIEF),
    second=EvaluatorConfig(architecture="test_convnext", resolution=32, training=BRIEF),
    gan=GanConfig(steps=3, batch_size=8, latent=16, generator_width=4, critic_width=8),
    students=StudentsConfig(architectures=("test_byobnet",), training=BRIEF),
    attacks={
        "gmi": {"attack.iterations": 3},
        "kedmi": {"attack.iterations": 3},
        "lokt": {
            "attack.iterations": 3,
            "attack.surrogates.architectures": ["test_byobnet", "test_convnext"],
            "attack.surrogates.start": "scratch",
            "attack.surrogates.images_per_class": 7,
            "attack.surrogates.training.epochs": 1,
            "attack.surrogates.training.batch_size": 16,
        },
        "plg-mi": {"attack.iterations": 3},
        "vmi": {"attack.iterations": 3},
    },
    priors={
        "conditional-gan": {"prior.steps": 2, "prior.critic_steps": 1},
        "inversion-gan": {"prior.steps": 5},
        "t-acgan": {
            "prior.start": True,
            "prior.warmup": 1,
            "prior.steps": 2,
            "prior.critic_steps": 3,
            "prior.batch_size": 8,
        },
    },
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> protocols.Protocol:
    """The protocol ``tiny``, known by name during the test."""
    monkeypatch.setitem(protocols.PROTOCOLS, "tiny", TINY)
    return TINY


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests of a session share, so that stages are computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Tiny problems in float64: what then differs is a mistake.

    In float32 a batch of another size rounds otherwise, and an attack's steps over ReLUs can turn
    that into a visible difference on some processors.
    """
    usual = torch.get_default_dtype()
    made = ("public_images", "tiny_generator", "tiny_prior")  # a classifier knows its precision
    cached = [getattr(problems, name) for name in made]
    try:
        torch.set_default_dtype(torch.float64)
        for each in cached:
            each.cache_clear()
        yield
    finally:
        torch.set_default_dtype(usual)
        for each in cached:
            each.cache_clear()
