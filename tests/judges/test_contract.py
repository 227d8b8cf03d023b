"""What every registered embedding judge must keep, and the pairs that protocols pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mibench.errors import ArtifactError, MibenchError
from mibench.judges import JUDGES, Judge, JudgeCard, restored_judge
from mibench.judges.evaluators.classifier import ResizingClassifier
from mibench.protocols import PROTOCOLS
from mibench.streams import stream

PINNED = [
    pytest.param(judge, id=f"{card.name}-{number}")
    for card in PROTOCOLS.values()
    for number, judge in enumerate(card.judges)
    if judge.decoys
]


def small_embedding() -> Judge:
    said = {"architecture": "test_resnet", "dimensions": 16, "resolution": 32}
    network = ResizingClassifier("test_resnet", 16, 32)
    return JUDGES.get("embedding")(network.state_dict(), said)


# A judge of each kind; one that is not here has no contract that it keeps.
MADE: dict[str, Callable[[], Judge]] = {
    "embedding": small_embedding,
    "dlib": lambda: restored_judge(JudgeCard(kind="dlib"))[0],
}
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
        for name, reason in ((name, JUDGES.get(name).absent()) for name in JUDGES.names())
    ],
)


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "faces"))


@each_kind
def test_embeddings_are_unit_vectors(kind: str) -> None:
    judge = MADE[kind]()
    made = judge(images(5))
    assert made.ndim == 2
    assert len(made) == 5
    torch.testing.assert_close(made.norm(dim=1), torch.ones(5))
    assert not made.requires_grad
    assert type(judge).title


@each_kind
def test_a_judge_sees_its_own_size_and_each_image_alone(kind: str) -> None:
    judge = MADE[kind]()
    assert judge(images(2, 48)).shape == judge(images(2)).shape
    together = judge(images(130))
    torch.testing.assert_close(judge(images(130)[129:]), together[129:], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        judge((images(3) * 255).byte()), judge((images(3) * 255).byte() / 255)
    )


@each_kind
def test_a_judge_does_not_learn(kind: str) -> None:
    judge = MADE[kind]()
    assert not judge.network.training
    assert not any(each.requires_grad for each in judge.network.parameters())


def test_a_wrong_shape_is_named() -> None:
    class Wrong(JUDGES.get("embedding")):  # type: ignore[misc]
        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return super().embed(images)[:1]

    judge = small_embedding()
    wrong = Wrong(judge.network.state_dict(), judge.description)
    with pytest.raises(MibenchError, match=r"Wrong.embed\(\) gave shape \(1, 16\)"):
        wrong(images(3))


@pytest.mark.parametrize("card", PINNED)
def test_pinned_judges_and_their_decoys(card: Any) -> None:
    judge, gallery = restored_judge(card)
    assert gallery is not None
    made = judge(images(2))
    assert made.shape[1] == gallery.decoys.shape[1]
    assert gallery.decoys.dtype == torch.int8
    assert len(gallery) == 100_000
    assert gallery.images == 9


@pytest.mark.parametrize("card", PINNED[:1])
def test_decoys_of_another_network_are_refused(card: Any) -> None:
    other = PROTOCOLS["synthfaces-32-dev"].judges[1]
    with pytest.raises(ArtifactError, match="are of another network"):
        restored_judge(card.model_copy(update={"decoys": other.decoys}))
