"""What a protocol card can choose: one prior for all seeds, and judges that know public classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mibench
import mibench.record
from mibench import protocols
from mibench.cell.graph import Graph
from mibench.cell.request import Request
from mibench.cell.resolve import resolve
from mibench.data.folder import FolderOptions
from mibench.data.images import Dataset, ImageSet
from mibench.data.rendered import render_dataset
from mibench.errors import RequestError
from mibench.protocols import Protocol
from mibench.streams import stream
from mibench.training.loop import Hooks, TrainingConfig, train
from tests.kit.cells import bench, graph
from tests.kit.training import job
from tests.training.test_training import Linear


def change(monkeypatch: pytest.MonkeyPatch, card: Protocol, **fields: object) -> Protocol:
    changed = card.model_copy(update=fields)
    monkeypatch.setitem(protocols.PROTOCOLS, card.name, changed)
    return changed


def keys(seed: int, attack: str = "gmi") -> Graph:
    return graph(protocol="tiny", attack=attack, seed=seed)


def test_a_prior_seed_shares_the_general_prior_and_nothing_else(
    tiny: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys(1).general.key != keys(2).general.key
    change(monkeypatch, tiny, prior_seed=0)
    assert keys(1).general.key == keys(2).general.key
    assert keys(1, "kedmi").prior.key != keys(2, "kedmi").prior.key
    assert keys(1).target.key != keys(2).target.key
    change(monkeypatch, tiny, prior_seed=1)
    assert keys(2).general.seed == 1


def test_a_shared_prior_is_that_of_its_seed_and_named_in_records(
    tiny: Protocol, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"protocol": "tiny", "attack": "gmi", "store": tiny_store}
    alone = mibench.run(**request, seed=3, out=tmp_path / "a")  # type: ignore[arg-type]
    assert not alone.prior.pinned
    own = keys(3).general.key
    change(monkeypatch, tiny, prior_seed=3)
    assert keys(4).general.key == own
    shared = mibench.run(**request, seed=4, out=tmp_path / "b")  # type: ignore[arg-type]
    assert shared.prior.pinned
    (cost,) = [each for each in shared.costs if each.stage == "general-prior"]
    assert cost.cached


def test_everyone_holds_the_public_classes_after_the_private_ones(tiny: Protocol) -> None:
    data = render_dataset(tiny.data, tiny.resolution)  # type: ignore[arg-type]
    everyone, own = data.everyone, len(data.train)
    assert everyone.names == data.train.names + data.public.names
    assert torch.equal(everyone.labels[:own], data.train.labels)
    assert torch.equal(everyone.labels[own:], data.public.labels + data.identities)
    assert torch.equal(everyone.images[own:], data.public.images)


def test_judges_that_know_public_classes(
    tiny: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained to tell dark public pictures from light private ones, they name the public class."""
    light, dark = torch.full((40, 3, 32, 32), 220), torch.full((40, 3, 32, 32), 20)
    noise = torch.randint(0, 30, (40, 3, 32, 32), generator=stream(0, "noise"))
    private = ImageSet((light + noise).byte(), torch.arange(40) % 2, ("a", "b"))
    public = ImageSet((dark + noise).byte(), torch.zeros(40, dtype=torch.long), ("c",))
    data = Dataset(private, private, private, public)
    brief = tiny.evaluator.model_copy(
        update={"training": TrainingConfig(epochs=6, batch_size=16, learning_rate=0.05)}
    )

    def named(know: bool) -> tuple[int, torch.Tensor]:
        change(monkeypatch, tiny, judges_know_public=know, evaluator=brief)
        made = graph(protocol="tiny", attack="gmi")
        for _ in range(2):  # computed, then read from the store
            place = bench(tmp_path / "store")
            place.once(made.images.key, lambda: data)
            logits = place.get(made.evaluator)(public.images)[0]
        return logits.shape[1], logits.argmax(1)

    outputs, found = named(True)
    assert outputs == 3
    assert (found == 2).float().mean() > 0.9
    assert named(False)[0] == 2


def test_cards_that_choose_nothing_keep_their_digest(tiny: Protocol) -> None:
    choices = {"prior_seed": 0, "judges_know_public": True}
    digests = {tiny.model_copy(update={name: value}).digest for name, value in choices.items()}
    assert len(digests | {tiny.digest}) == 3
    later = {"initialisation", "prior_seed", "judges_know_public"}
    gan = {"architecture", "schedule", "mirror"}
    older = tiny.model_dump(mode="json", exclude={**dict.fromkeys(later, True), "gan": gan})
    assert mibench.record.protocol_digest(older) == tiny.digest
    for change in (
        {"architecture": "gmi", "recipe": "wgan-gp"},
        {"recipe": "wgan-gp"},
        {"schedule": "constant"},
        {"mirror": False},
    ):
        digests.add(tiny.model_copy(update={"gan": tiny.gan.model_copy(update=change)}).digest)
    assert len(digests) == 6


# Cards that records are filed under, or that no change of this suite has touched since.
DIGESTS = {
    "synthfaces-32": "55a8ceaa032b65d12fa40c467555d03ca56f366227d75716f08cc231ff2f1b1a",
    "synthfaces-32-dev": "d94d5209dcce45bc23393d9b980d30473ad2b24978931a01ae807525e7e63dd8",
    "synthfaces-64": "6c54e43929c72e8f9454c6dceefeff30570f4e0491729af5421bf03609ab4cdf",
    "mnist-32-small": "859a8e6a26fc115d9e8a227b3954eef5f72960b801fd45beaa05b7a64ff46f8c",
    "lfw-64-small": "faba56d383a99634e4ef9c7d7249d16964c2cdad206b8daac04a4885207fe7ad",
    "celeba-64": "e7a88dd21b8e3a58fd614af15e0b516e953f91c70ea68ab9565fcf078d71a9a4",
    "celeba-64-lists": "8333ba2432fff13dde3e8fa67531fcfff9aeefdcac62cf18872dbffbaf5d2a68",
    "celeba-ffhq-64": "1649469a2239c8161c9fa5d417d7d7adc2127d6db11322479c36cda1036fc7e0",
    "facescrub-224": "314b9f24cb6195f7db3dd8f80c44b2e363fbe59992a28d53723947a769436e00",
    "celeba-224": "b9528c5650ecf583e1405b2f122eebe998643c3981826e1b974f2b4689c9cd1a",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_digests_of_cards_do_not_change_unnoticed(name: str) -> None:
    assert protocols.PROTOCOLS[name].digest == DIGESTS[name]


def test_the_digest_of_a_folders_card() -> None:
    card = protocols.folder_protocol(FolderOptions())
    assert card.digest == "e3de66207efeefe1e4eb470ca88be14c44ef418e9d7482fd6c85793cbb438048"


class Watched(Hooks):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def loss(self, model: object, images: torch.Tensor, labels: object, state: object) -> object:
        self.seen.append(images.detach())
        return super().loss(model, images, labels, state)  # type: ignore[arg-type]


@pytest.mark.parametrize("mirror", [True, False])
def test_training_mirrors_only_where_the_set_allows_it(mirror: bool) -> None:
    """Pictures that are dark on the left and light on the right, shifted by a pixel at most."""
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    images[..., 4:] = 255
    data = ImageSet(images, torch.arange(20) % 3, ("a", "b", "c"), mirror)
    hooks = Watched()
    config = TrainingConfig(epochs=3, batch_size=10)
    train(job(data, config, Linear(), stream(0, "t")), hooks)
    left = torch.cat([each[..., :3].mean((1, 2, 3)) for each in hooks.seen])
    assert bool((left > 0.5).any()) == mirror


def test_a_resolution_that_no_prior_has_is_refused_at_once(tmp_path: Path) -> None:
    spec = Request(
        protocol="folder",
        attack="gmi",
        root=str(tmp_path),
        target="resnet18",
        overrides={"protocol.resolution": 72},
    )
    with pytest.raises(RequestError, match="72 is not"):
        resolve(spec)
