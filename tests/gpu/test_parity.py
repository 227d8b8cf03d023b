"""The GPU computes what the CPU computes, within the precision of its arithmetic."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import mibench
from mibench.attacks.kedmi import Kedmi
from mibench.cell.run import open_bench
from mibench.models.classifiers import Classifier
from mibench.models.freeze import freeze
from mibench.priors._networks import Generator
from mibench.priors.inversion_gan import Discriminator
from mibench.progress import SILENT
from mibench.protocols import Protocol

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _full_precision(tmp_path: Path) -> None:
    open_bench(tmp_path, "cuda", SILENT)


@pytest.mark.parametrize("architecture", ["test_resnet", "vgg11_bn", "efficientnet_b0", "test_vit"])
def test_frozen_classifiers_agree(architecture: str) -> None:
    images = torch.rand(4, 3, 32, 32)
    model = freeze(Classifier(architecture, 7, 32), images)
    here, there = model(images), model.to(GPU)(images.to(GPU)).cpu()
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("published", [False, True])
def test_priors_agree(published: bool) -> None:
    generator, discriminator = Generator(32), Discriminator(32, 64, 5)
    if published:
        generator = Generator(32, architecture="gmi")
        discriminator = Discriminator(32, 64, 5, "instance", "kedmi", kernel_std=1)
    generator, discriminator = generator.eval(), discriminator.eval()
    latents = torch.randn(6, 100)
    images = generator(latents)
    scores = discriminator(images)
    there = generator.to(GPU)(latents.to(GPU))
    torch.testing.assert_close(images, there.cpu(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scores, discriminator.to(GPU)(there).cpu(), rtol=1e-3, atol=1e-3)


def test_attacks_agree() -> None:
    """A few steps of an attack on both devices, from the same streams."""
    from dataclasses import replace

    from mibench.inversion.identity import IdentityLoss
    from mibench.models.access import WhiteBoxTarget
    from tests.kit.problems import reconstruct, tiny_problem

    attack = Kedmi(Kedmi.Config(iterations=3))
    problem = tiny_problem(Kedmi)
    here = reconstruct(attack, problem)
    target = WhiteBoxTarget(copy.deepcopy(problem.white_box()[0].model).to(GPU))
    moved = replace(
        problem,
        target=target,
        prior=copy.deepcopy(problem.prior).to(GPU),
        identity_loss=IdentityLoss(target.outputs, [], problem.white_box()[1].config),
        labels=problem.labels.to(GPU),
        public=problem.public.to(GPU),
        device=GPU,
    )
    torch.testing.assert_close(here, reconstruct(attack, moved).cpu(), rtol=1e-2, atol=1e-2)


def test_a_cell_runs_on_the_gpu(tiny: Protocol, tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    record = mibench.run(
        protocol="tiny",
        attack="improved-kedmi",
        defense="mid",
        device="cuda",
        store=tmp_path / "store",
        out=tmp_path / "out",
    )
    assert record.status == "complete"
    assert record.environment.device
    assert torch.cuda.max_memory_allocated() > 0
