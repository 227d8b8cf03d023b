"""What the base class of attacks does for each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mibench.errors import DivergedError
from mibench.inversion.attack import Attack, AttackConfig, Problem
from mibench.progress import Progress
from tests.kit.problems import RESOLUTION, reconstruct, tiny_problem


class Gray(Attack[AttackConfig]):
    """Answers label / 10 in every pixel, in two steps a chunk; notes its chunks."""

    access = "label-only"
    optimises_identity = False

    def __init__(self, config: AttackConfig, *loops: str) -> None:
        super().__init__(config)
        self.loops = loops or ("gray",)
        self.seen: list[list[int]] = []

    def invert(self, problem: Problem) -> Tensor:
        self.seen.append(problem.labels.tolist())
        for loop in self.loops:
            for _ in problem.progress.steps(2, loop):
                problem.progress.report(loss=1.0)
        shape = (len(problem.labels), problem.samples, 3, RESOLUTION, RESOLUTION)
        return (problem.labels / 10).view(-1, 1, 1, 1, 1).expand(shape).clone()


def gray(max_rows: int = 512, *loops: str) -> Gray:
    return Gray(AttackConfig(max_rows=max_rows), *loops)


def given(labels: Any = range(5), samples: int = 2, **options: Any) -> Problem:
    return tiny_problem(Gray, labels, samples, **options)


@pytest.mark.parametrize(
    ("max_rows", "samples", "chunks"),
    [
        (512, 2, [[3, 0, 4, 1, 2]]),
        (5, 2, [[3, 0], [4, 1], [2]]),
        (4, 2, [[3, 0], [4, 1], [2]]),
        (3, 2, [[3], [0], [4], [1], [2]]),
        (1, 7, [[3], [0], [4], [1], [2]]),  # one identity is never divided
    ],
)
def test_chunks_hold_at_most_max_rows(max_rows: int, samples: int, chunks: list[list[int]]) -> None:
    attack = gray(max_rows)
    images = reconstruct(attack, given([3, 0, 4, 1, 2], samples))
    assert attack.seen == chunks
    assert images[:, samples - 1, 2, 5, 5].tolist() == pytest.approx([0.3, 0, 0.4, 0.1, 0.2])


def test_an_attack_says_how_many_rows_an_identity_takes() -> None:
    class Wide(Gray):
        def rows_per_identity(self, samples: int) -> int:
            return 10 * samples

    class Fixed(Gray):
        def chunk(self, samples: int) -> int:
            return 3

    for kind, chunks in ((Wide, [[0, 1], [2, 3], [4]]), (Fixed, [[0, 1, 2], [3, 4]])):
        attack = kind(AttackConfig(max_rows=40))
        reconstruct(attack, given())
        assert attack.seen == chunks


def test_a_chunk_is_handed_over_before_the_next_is_attacked() -> None:
    attack = gray(2)
    chunks = attack(given())
    assert attack.seen == []
    assert next(chunks).shape == (1, 2, 3, RESOLUTION, RESOLUTION)
    assert attack.seen == [[0]]


@pytest.mark.parametrize("max_rows", [512, 4, 1])
def test_the_first_identity_that_is_lost_is_named_whatever_the_chunks(max_rows: int) -> None:
    class Lost(Gray):
        def invert(self, problem: Problem) -> Tensor:
            images = super().invert(problem)
            images[problem.labels >= 3, 1, 0, 5, 5] = float("nan")
            return images

    with pytest.raises(DivergedError, match=r"^reconstructions of identity 4 are not finite$"):
        reconstruct(Lost(AttackConfig(max_rows=max_rows)), given([0, 4, 1, 3]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda images: images[:, :1], r"returned shape \(1, 1, 3, 32, 32\), wanted \(1, 2, 3"),
        (lambda images: images.flatten(0, 1), "returned shape"),
        (lambda images: images + 1, r"values outside \[0, 1\]"),
        (lambda images: images - 1, r"values outside \[0, 1\]"),
    ],
)
def test_what_is_no_reconstruction_is_refused_in_its_chunk(wrong: Any, words: str) -> None:
    class Wrong(Gray):
        def invert(self, problem: Problem) -> Tensor:
            images = super().invert(problem)
            return wrong(images) if 2 in problem.labels else images

    chunks = Wrong(AttackConfig(max_rows=2))(given())
    assert len([next(chunks), next(chunks)]) == 2
    with pytest.raises(ValueError, match=words):
        next(chunks)


class Log(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, total: int, label: str) -> None:
        self.told.append(f"{label} {total}")

    def advance(self, steps: int) -> None:
        self.told.append("+" * steps)

    def report(self, **values: float | Tensor) -> None:
        self.told.append(f"{values}")

    def end(self) -> None:
        self.told.append("end")

    def __str__(self) -> str:
        return " ".join(each for each in self.told if not each.startswith("{"))


def test_a_loop_of_all_chunks_is_told_as_one() -> None:
    log = Log()
    reconstruct(gray(4), given(progress=log))
    assert str(log) == "gray 6 + + + + + + end"
    assert log.told.count("{'loss': 1.0}") == 6


def test_several_loops_are_told_one_after_the_other() -> None:
    log = Log()
    reconstruct(gray(512, "start", "descent"), given(progress=log))
    assert str(log) == "start 2 + + end descent 2 + + end"


def test_a_loop_that_is_left_is_ended() -> None:
    log = Log()
    chunks = gray(2)(given(progress=log))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert str(log) == "gray 10 + + end"


def test_an_identity_draws_the_same_in_any_company() -> None:
    problem = given([4, 1, 2])
    together, alone = problem.streams("z", 2).normal(3), problem.of(torch.tensor([1]))
    assert torch.equal(together[2:4], alone.streams("z", 2).normal(3))
    assert torch.equal(together[3], torch.randn(3, generator=problem.stream(1, "z/1")))
    assert not torch.equal(together[2], together[3])
    assert alone.labels.tolist() == [1]
    assert (alone.samples, alone.seed, alone.prior) == (2, problem.seed, problem.prior)
