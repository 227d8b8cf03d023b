"""Look-up: which public images it answers with, and what it asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mibench.data.images import to_float
from mibench.errors import MibenchError
from mibench.inversion.attack import ATTACKS, Attack
from tests.kit.problems import drawn_images, reconstruct, tiny_classifier, tiny_problem

each_lookup = pytest.mark.parametrize("name", ["lookup", "lookup-label-only"])


def made(name: str, **fields: Any) -> Attack[Any]:
    cls = ATTACKS.get(name)
    return cls(cls.Config(**fields))


def test_it_answers_with_the_images_that_the_target_scores_highest() -> None:
    attack, public = made("lookup"), drawn_images(700)
    given = replace(tiny_problem(type(attack), samples=3), public=public)
    found = reconstruct(attack, given)
    with torch.no_grad():
        scores = tiny_classifier()(to_float(public.images)).softmax(1)
    for label, answers in enumerate(found):
        order = scores[:, label].argsort(descending=True)[:3]
        assert torch.equal(answers, to_float(public.images[order]))


def test_labels_alone_find_images_of_the_label_that_are_sure() -> None:
    attack, public = made("lookup-label-only"), drawn_images(700)
    given = replace(tiny_problem(type(attack), samples=5), public=public)
    found = reconstruct(attack, given)
    with torch.no_grad():
        every = tiny_classifier()(to_float(public.images)).softmax(1)
        scores = tiny_classifier()(found.flatten(0, 1)).softmax(1).view(3, 5, -1)
    for label in range(3):
        own = every[every.argmax(1) == label, label]
        assert (scores[label].argmax(1) == label).all()
        assert scores[label, :, label].mean() > own.mean()


@each_lookup
def test_it_asks_once_for_all_chunks(name: str) -> None:
    attack = made(name, max_rows=1)
    given = replace(tiny_problem(type(attack)), public=drawn_images(700))
    assert len(list(attack(given))) == 3
    assert given.target.queries == 700 * (1 if name == "lookup" else 9)
    given = replace(tiny_problem(type(attack)), public=drawn_images(700))
    reconstruct(attack, given)  # another target is asked anew
    assert given.target.queries == 700 * (1 if name == "lookup" else 9)


@each_lookup
def test_too_few_public_images(name: str) -> None:
    attack = made(name, images=1)
    with pytest.raises(MibenchError, match="2 of 1 public images"):
        reconstruct(attack, tiny_problem(type(attack)))
