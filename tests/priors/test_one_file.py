"""An attack with a prior of its own kind is one file, which nothing else needs to know of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mibench
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.errors import MibenchError, RequestError
from mibench.inversion.attack import ATTACKS
from mibench.priors import PRIORS
from mibench.protocols import Protocol
from tests.kit.cells import graph

MINE = '''
import torch
from pydantic import Field
from torch import nn

from mibench.inversion.attack import Attack
from mibench.priors import Prior, PriorConfig, PriorKind, register_prior
from mibench.types import AttackCard


class Palette(Prior):
    """The mean of the public images, tinted by the latent."""

    size = 8

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(mean)

    def images(self, latents, labels=None):
        return (self.mean + 0.1 * latents[:, :3, None, None].tanh()).clamp(0, 1)

    def description(self):
        return {"shape": list(self.mean.shape)}


@register_prior("palette")
class MyPrior(PriorKind):
    class Config(PriorConfig):
        steps: int = Field(10, ge=1, description="steps towards the mean")

    title = "tinted mean image"

    def train(self, job):
        prior = Palette(torch.rand(job.public.images.shape[1:], generator=job.rng))
        mean = (job.public.images / 255).mean(0)
        for _ in job.progress.steps(self.config.steps, "palette"):
            with torch.no_grad():
                prior.mean.lerp_(mean, 0.5)
        return prior.eval()

    @classmethod
    def load(cls, description, tensors):
        prior = Palette(torch.empty(description["shape"]))
        prior.load_state_dict(tensors)
        return prior.eval()


class Mine(Attack):
    """Takes the prior's images as they come."""

    card = AttackCard(
        title="Mine",
        authors="Me",
        year=2026,
        venue="test",
        url="https://example.org",
    )
    prior = MyPrior

    def invert(self, problem):
        rows = problem.streams("start", problem.samples)
        images = problem.prior.images(problem.prior.latents(rows))
        return images.detach().unflatten(0, (len(problem.labels), problem.samples))
'''


@pytest.fixture
def attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The attack of a file; what it registers ends with the test."""
    for registry in (ATTACKS, PRIORS):
        loaded: dict[str, Any] = {name: registry.get(name) for name in registry.names()}
        monkeypatch.setattr(registry, "_classes", loaded)
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}:Mine"


def test_it_runs(tiny: Protocol, tiny_store: Path, tmp_path: Path, attack: str) -> None:
    run: dict[str, Any] = {"protocol": tiny.name, "attack": attack, "store": tiny_store}
    record = mibench.run(**run, out=tmp_path / "out", overrides={"prior.steps": 7})
    assert record.status == "complete"
    assert record.prior.recipe == "tinted mean image"
    assert record.prior.passed == {"prior.steps": 7}
    (cost,) = (each for each in record.costs if each.stage == "prior")
    assert not cost.cached
    again = mibench.run(**run, out=tmp_path / "out", overrides={"prior.steps": 7})
    assert all(each.cached for each in again.costs)


def test_its_key_holds_all_of_its_settings_and_its_file(tiny: Protocol, attack: str) -> None:
    def plan(steps: int) -> dict[str, Any]:
        overrides = {"prior.steps": steps}
        return graph(protocol="tiny", attack=attack, overrides=overrides).stages

    few, many = plan(10), plan(5000)
    assert few["prior"].inputs["kind"] == "palette"
    assert few["prior"].key != many["prior"].key
    assert few["reconstructions"].key != many["reconstructions"].key
    assert few["general-prior"].key == many["general-prior"].key
    assert "target" not in {each.name for each in few["prior"].parents}
    path = Path(attack.rpartition(":")[0])
    path.write_text(MINE.replace("0.5)", "0.4)"))
    assert plan(10)["prior"].key != few["prior"].key


def test_another_attack_takes_it_by_the_name_of_its_file(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, attack: str
) -> None:
    kind = attack.replace(":Mine", ":MyPrior")
    record = mibench.run(
        protocol=tiny.name, attack="vmi", prior=kind, store=tiny_store, out=tmp_path / "out"
    )
    assert record.status == "complete"
    assert record.prior.recipe == "tinted mean image"
    cell = resolve(Request(protocol=tiny.name, attack="vmi", prior=kind))
    assert (cell.prior_name, cell.prior_source is None) == ("palette", False)
    own = resolve(Request(protocol=tiny.name, attack=attack)).prior_source
    assert cell.prior_source == own


def test_an_attack_that_asks_for_a_realism_it_lacks_is_told(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, attack: str
) -> None:
    kind = attack.replace(":Mine", ":MyPrior")
    with pytest.raises(MibenchError, match="palette' does not score how real images look"):
        mibench.run(
            protocol=tiny.name, attack="gmi", prior=kind, store=tiny_store, out=tmp_path / "out"
        )
    with pytest.raises(RequestError, match="unknown prior 'pallete'"):
        resolve(Request(protocol=tiny.name, attack="gmi", prior="pallete"))
