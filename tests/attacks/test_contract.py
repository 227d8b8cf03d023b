"""What every registered attack must keep, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from mibench.data.views import Views
from mibench.inversion import identity
from mibench.inversion.attack import ATTACKS, Attack, LatentConfig, Problem, TransferConfig
from mibench.inversion.identity import IdentityLoss
from mibench.models.access import RepeatConfig, access_to
from mibench.names import variants as names_of_variants
from mibench.priors import conditional_gan
from mibench.streams import RowStreams
from mibench.types import AttackCard
from tests.kit.problems import (
    CLASSES,
    SURROGATES,
    drawn_images,
    reconstruct,
    tiny_classifier,
    tiny_problem,
    tiny_surrogate,
)

NAMES = ATTACKS.names()
VARIANTS: dict[str, dict[str, Any]] = {
    "{}": {},
    "{}+lom": {"objective": "logit"},
    "{}+ma": {"students": 1},
    "improved-{}": {"objective": "logit", "students": 1},
    "{}+taa": {"views": "taa"},
    "{}+paa": {"views": "paa"},
    "improved-{}+taa": {"objective": "logit", "students": 1, "views": "taa"},
    "{}+lom+taa": {"objective": "logit", "views": "taa"},
    "{}+ma+taa": {"students": 1, "views": "taa"},
    "{}+lom+paa": {"objective": "logit", "views": "paa"},
    "{}+ma+paa": {"students": 1, "views": "paa"},
    "improved-{}+paa": {"objective": "logit", "students": 1, "views": "paa"},
}
# Settings with which an attack finds the identities of the tiny problem in a second or two; an
# attack that is not here must do it with its defaults.
FINDS: dict[str, dict[str, Any]] = {
    "brep-mi": {"queries": 1600, "draws": 8, "directions": 12},
    "mirror-blackbox": {"queries": 800, "population": 20, "pool": None},
    "rlb-mi": {"queries": 400, "hidden": 16, "batch_size": 32, "learning_rate": 0.01},
    "gmi": {"iterations": 30, "learning_rate": 0.3},
    "kedmi": {"iterations": 100, "learning_rate": 0.1},
    "vmi": {
        "iterations": 30,
        "samples_per_step": 4,
        "optimizer": "adam",
        "learning_rate": 0.04,
        "flow_depth": 2,
        "flow_levels": 2,
        "flow_width": 6,
    },
    "ppa": {
        "iterations": 80,
        "learning_rate": 0.2,
        "selection": {"pool": None, "candidates": None},
    },
    "lokt": {"iterations": 40},
    "plg-mi": {"iterations": 40, "learning_rate": 0.3},
    "pixel": {"iterations": 100, "learning_rate": 5},
    # Moved by two pixels, the tiny prior's noise is other noise to the tiny target.
    "deepinversion": {
        "iterations": 40,
        "learning_rate": 0.3,
        "statistics_weight": 1e-4,
        "jitter": 0,
        "batch": 8,
    },
}
# What to add to them so that it stays where it starts; an attack without `iterations` says so here.
STARTS: dict[str, dict[str, Any]] = {
    "brep-mi": {"queries": 8},
    "mirror-blackbox": {"queries": 8},
    "rlb-mi": {"queries": 8},
    "lookup": {"images": 8},
    "lookup-label-only": {"images": 8},
}
LONG = ("deepinversion", "pixel", "plg-mi")
PAIRED = ("{}+lom+taa", "{}+ma+taa", "{}+lom+paa", "{}+ma+paa", "improved-{}+paa")
MARGIN = 0.2  # of the target's confidence, whose chance level is 0.2; the attacks gain 0.3 to 0.7


def variants(*, long: bool) -> Iterator[Any]:
    """Every name of an attack, with the options of the problem that it is for.

    Args:
        long: whether an attack runs until it finds something. Then the default suite has, of those
            that take many steps, the two ends and one between, and of what combines with averaged
            views one form.
    """
    for name in NAMES:
        for form, options in VARIANTS.items():
            if not options or ATTACKS.get(name).varied():
                few = name in LONG and form not in ("{}", "improved-{}", "improved-{}+taa")
                marks = [pytest.mark.slow] if long and (few or form in PAIRED) else []
                yield pytest.param(name, options, id=form.format(name), marks=marks)


@pytest.fixture(autouse=True)
def _gentle_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tiny prior's noise a smaller crop or another shade is other noise to the target."""
    monkeypatch.setattr(identity, "TRANSFORMED", Views(scale=(0.95, 1)))
    monkeypatch.setattr(conditional_gan, "CROP", Views(scale=(0.98, 1)))
    monkeypatch.setattr(conditional_gan, "JITTER", 0.05)


each_attack = pytest.mark.parametrize("name", NAMES)


def described(config: type[BaseModel], where: str) -> None:
    """Every field of a configuration says what it means, nested ones too."""
    for name, field in config.model_fields.items():
        assert field.description, f"{where}.{name} needs a description"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            described(field.annotation, f"{where}.{name}")


def short(cls: type[Attack[Any]], **fields: Any) -> Attack[Any]:
    """An attack cut to a few steps, if it has steps."""
    of_steps = {"iterations": 3}
    of_queries = {"queries": 90, "pool": 16, "draws": 8, "population": 6}
    of_queries |= {"hidden": 16, "batch_size": 16}
    fewer = of_queries if "queries" in cls.Config.model_fields else of_steps
    few: dict[str, Any] = {k: v for k, v in fewer.items() if k in cls.Config.model_fields}
    if issubclass(cls.Config, LatentConfig) and cls.Config().selection.pool is not None:
        few["selection"] = {"pool": 16, "candidates": 4, "crops": 2}
    return cls(cls.Config(**{**few, **fields}))


def problem(cls: type[Attack[Any]], **options: Any) -> Problem:
    """A tiny problem; an attack with a prior of its own kind gets a critic with classes."""
    given = tiny_problem(cls, **options)
    # Who answers with public images finds but what these hold.
    return replace(given, public=drawn_images(512)) if cls.searches else given


def test_all_forms_of_a_name_are_here() -> None:
    """But for those of another target, the copy whose trapdoors are closed."""
    names = {each for each in names_of_variants("{}") if "untrap" not in each}
    assert set(VARIANTS) == names


@each_attack
def test_card_and_config(name: str) -> None:
    cls = ATTACKS.get(name)
    assert isinstance(cls.card, AttackCard)
    described(cls.Config, name)


@pytest.mark.parametrize(("name", "options"), list(variants(long=False)))
def test_it_returns_images(name: str, options: dict[str, Any]) -> None:
    cls = ATTACKS.get(name)
    images = reconstruct(short(cls), problem(cls, **options))
    assert images.shape == (3, 2, 3, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
    assert not images.requires_grad


@each_attack
def test_identities_are_independent(name: str) -> None:
    """Neither others that are attacked nor how many are attacked at once change a result."""
    cls = ATTACKS.get(name)
    together = reconstruct(short(cls), problem(cls))
    alone = reconstruct(short(cls), problem(cls, labels=(1,)))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)
    chunks = list(short(cls, max_rows=1)(problem(cls)))
    assert [len(chunk) for chunk in chunks] == [1, 1, 1]
    torch.testing.assert_close(together, torch.cat(chunks), rtol=1e-3, atol=1e-3)


@each_attack
def test_identities_start_apart_and_seeds_matter(name: str) -> None:
    cls = ATTACKS.get(name)
    first, same, other = (reconstruct(short(cls), problem(cls, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert cls.searches or not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])


@each_attack
def test_only_latents_get_gradients(name: str) -> None:
    cls = ATTACKS.get(name)
    given = problem(cls, students=1)
    reconstruct(short(cls), given)
    made = list(given.prior.children())
    networks = [tiny_classifier(), *made]
    if cls.access == "white-box":
        target, loss = given.white_box()
        networks += [target.model, *loss.students]
    transfers = issubclass(cls.Config, TransferConfig)
    if transfers:
        networks += map(tiny_surrogate, SURROGATES)
    assert made
    for network in networks:
        for parameter in network.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
    if transfers:
        assert given.target.queries == 0, "surrogates have asked before"
    else:
        assert given.target.queries >= 3 * 3, "queries are counted"


@pytest.mark.parametrize("name", [n for n in NAMES if ATTACKS.get(n).asks()])
def test_repeated_questions_of_a_target_without_noise_find_the_same(name: str) -> None:
    """Twice the same answer is the same answer, and two questions, which a bound counts."""
    cls, found, asked = ATTACKS.get(name), [], []
    for times in (1, 2):
        given = problem(cls)
        if times > 1:
            repeats = RepeatConfig(times=times, noise=0)
            given = replace(given, target=access_to(tiny_classifier(), cls.access, repeats))
        fields = dict(STARTS.get(name, {}))
        if "queries" in cls.Config.model_fields:
            fields["queries"] = times * fields.get("queries", 40)
        found.append(reconstruct(short(cls, **fields), given))
        asked.append(given.target.queries)
    assert torch.equal(*found)
    assert asked[1] == 2 * asked[0] > 0


# --- an attack attacks ------------------------------------------------------------------------


class Scaled(IdentityLoss):
    """An identity loss times a number: with 0 an attack does nothing, below it the contrary."""

    def __init__(self, loss: IdentityLoss, scale: float) -> None:
        self.loss, self.scale = loss, scale

    def __call__(
        self, images: Tensor, labels: Tensor, streams: RowStreams, whose: Tensor | None = None
    ) -> Tensor:
        return self.scale * self.loss(images, labels, streams, whose)


def gains(name: str, options: dict[str, Any], scale: float = 1) -> Tensor:
    """What each identity ``(CLASSES,)`` gains of the target's confidence over the attack's start.

    Args:
        scale: what the identity loss is multiplied by, to break the attack.
    """
    cls = ATTACKS.get(name)
    given = problem(cls, labels=range(CLASSES), samples=8, **options)
    if given.identity_loss is not None:
        given = replace(given, identity_loss=Scaled(given.identity_loss, scale))
    found, confidences = FINDS.get(name, {}), []
    for fields in ({**found, **STARTS.get(name, {"iterations": 1})}, found):
        images = reconstruct(cls(cls.Config(**fields)), given)
        with torch.no_grad():
            scores = tiny_classifier()(images.flatten(0, 1)).softmax(1)
        confidences.append(scores.view(CLASSES, -1, CLASSES).mean(1).diagonal())
    return confidences[1] - confidences[0]


@pytest.mark.parametrize(("name", "options"), list(variants(long=True)))
def test_it_raises_the_targets_confidence(name: str, options: dict[str, Any]) -> None:
    found = gains(name, options)
    assert found.mean() > MARGIN, found
    # The tiny student hardly knows one of the five: `ppa+ma` gains .09 there, and views take it.
    missed = (name, options) == ("ppa", VARIANTS["{}+ma+taa"])
    assert (found > 0).sum() >= CLASSES - missed, found


@each_attack
@pytest.mark.parametrize("scale", [0, -1])
def test_a_broken_attack_does_not(name: str, scale: float) -> None:
    """One that does nothing for its identities, or the contrary, stays far below the margin."""
    if problem(ATTACKS.get(name)).identity_loss is None:
        pytest.skip("it minimises no identity loss")
    found = gains(name, {}, scale)
    assert found.mean() < MARGIN / 4, found
