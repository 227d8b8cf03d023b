from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mibench.data import synthfaces
from mibench.data.rendered import (
    SynthFacesData,
    private_attributes,
    public_attributes,
    render_dataset,
    render_public,
)
from mibench.data.synthfaces import (
    ATTRIBUTES,
    FAMILY,
    LOOKALIKE_SHARE,
    NUISANCES,
    render,
    render_identities,
    sample_apart,
    sample_identities,
    sample_nuisances,
)
from mibench.protocols.synthfaces import DEV_DATA, SYNTHFACES_DATA
from mibench.streams import stream

SPEC = SynthFacesData(
    private_name="test",
    public_name="test",
    identities=6,
    train=3,
    val=1,
    test=2,
    public_identities=5,
    public_images=2,
)


def faces(identities: Tensor, nuisances: Tensor, resolution: int = 32) -> Tensor:
    noise = torch.zeros(len(identities), 3, resolution, resolution)
    return render(identities, nuisances, resolution, noise)


def draw(count: int, name: str = "identities") -> Tensor:
    return sample_identities(count, stream(0, name))


def nuisances(count: int) -> Tensor:
    return sample_nuisances(count, stream(0, "nuisances"))


def test_equal_specifications_give_equal_images() -> None:
    first, second = render_dataset(SPEC, 32), render_dataset(SPEC, 32)
    for part in ("train", "val", "test", "public"):
        one, other = getattr(first, part), getattr(second, part)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.names == other.names
    other = render_dataset(SPEC.model_copy(update={"seed": 1}), 32)
    assert not torch.equal(first.train.images, other.train.images)
    assert not torch.equal(first.public.images, other.public.images)


@pytest.mark.parametrize("resolution", [32, 64])
def test_shapes_types_and_values(resolution: int) -> None:
    data = render_dataset(SPEC, resolution)
    for part, per_identity in (("train", 3), ("val", 1), ("test", 2)):
        images = getattr(data, part)
        assert images.images.shape == (6 * per_identity, 3, resolution, resolution)
        assert images.images.dtype == torch.uint8
        assert images.labels.tolist() == [i for i in range(6) for _ in range(per_identity)]
        assert len(images.names) == 6
    assert data.public.images.shape == (10, 3, resolution, resolution)
    assert len(data.public.names) == 5
    assert not set(data.public.names) & set(data.train.names)
    assert data.attributes is not None
    assert data.attributes.shape == (6, len(ATTRIBUTES))
    pixels = data.train.images.float()
    assert pixels.min() < 30
    assert pixels.max() > 220
    assert pixels.std() > 25
    # Few pixels are burnt out or black.
    assert ((pixels == 0) | (pixels == 255)).float().mean() < 0.2


def test_no_image_is_in_two_splits() -> None:
    data = render_dataset(SPEC, 32)
    parts = [data.train, data.val, data.test, data.public]
    images = [tuple(image.flatten().tolist()) for part in parts for image in part.images]
    assert len(set(images)) == len(images) == 46


def test_private_and_public_identities_are_disjoint_draws() -> None:
    private, public = private_attributes(SYNTHFACES_DATA)[0], public_attributes(SYNTHFACES_DATA)
    nearest = torch.cdist(private, public).min(1).values
    assert nearest.min() > 0.3  # no private identity, and no lookalike of one, is public


def test_the_development_twin_shares_the_public_images_alone() -> None:
    few = {"identities": 5, "public_identities": 4, "train": 1, "val": 1, "test": 1}
    main = SYNTHFACES_DATA.model_copy(update=few)
    twin = DEV_DATA.model_copy(update=few)
    assert torch.equal(render_public(main, 32).images, render_public(twin, 32).images)
    first, second = render_dataset(main, 32), render_dataset(twin, 32)
    assert first.attributes is not None
    assert second.attributes is not None
    assert torch.cdist(first.attributes, second.attributes).min() > 0.3
    assert not torch.equal(first.train.images, second.train.images)


def test_decoys_are_rendered_where_judges_bring_none() -> None:
    asked = {"decoys": 2 * FAMILY, "decoy_images": 2}
    spec = SynthFacesData.model_validate({**SPEC.model_dump(), **asked})
    data, plain = render_dataset(spec, 32), render_dataset(SPEC, 32)
    assert plain.decoys is None
    assert data.decoys is not None
    assert data.decoys.labels.tolist() == [i for i in range(2 * FAMILY) for _ in range(2)]
    assert len(set(data.decoys.names)) == 2 * FAMILY
    assert torch.equal(data.train.images, plain.train.images)  # they draw on a stream of their own
    seen = {image.numpy().tobytes() for image in data.decoys.images}
    others = (data.train, data.val, data.test, data.public)
    assert len(seen) == 4 * FAMILY
    assert not seen & {image.numpy().tobytes() for part in others for image in part.images}
    counts = spec.divide(resolution=32).counts
    assert (counts.decoys, counts.decoy_images) == (2 * FAMILY, 2)
    assert SPEC.divide(resolution=32).counts.decoys == 0


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"decoys": FAMILY + 1}, "multiple of 200"),
        ({"decoy_images": 2}, "does nothing without decoys"),
        ({"decoys": FAMILY, "decoy_images": 3}, "more than test"),
    ],
)
def test_decoys_that_cannot_be_drawn_are_refused(asked: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SynthFacesData.model_validate({**SPEC.model_dump(), **asked})


COINS = SPEC.model_copy(update={"coins": True, "identities": 400})


def test_coins_choose_each_private_identity_from_two() -> None:
    chosen, passed_by = private_attributes(COINS)
    assert passed_by is not None
    rng = stream(COINS.seed, COINS.private_name, "private", "identities")
    pairs = sample_apart(400, 2, rng)
    first = (chosen == pairs[:, 0]).all(1)
    assert ((chosen == pairs[:, 1]).all(1) ^ first).all()
    torch.testing.assert_close(chosen + passed_by, pairs.sum(1))  # the other one is the foil
    assert 160 <= int(first.sum()) <= 240  # a fair coin falls outside once in 10,000 times


def test_identities_drawn_apart_have_one_law_and_no_relatives() -> None:
    """A quarter of a draw are relatives; of draws apart, none."""
    rng = stream(0, "apart")
    apart = sample_apart(300, 1, rng)[:, 0]
    together = torch.cat([sample_identities(200, rng) for _ in range(5)])
    assert (torch.pdist(apart) < 0.9).sum() == 0
    assert (torch.pdist(together[:200]) < 0.9).sum() > 30
    # The mean is that of uniform draws, and the ends hold as many as in whole draws.
    for share in (0.02, 0.5, 0.98):
        torch.testing.assert_close(
            apart.quantile(share), together.quantile(share), rtol=0, atol=0.02
        )


def test_nobody_trains_on_foils() -> None:
    spec = COINS.model_copy(update={"identities": 4})
    data, plain = render_dataset(spec, 32), render_dataset(SPEC, 32)
    assert data.foils is not None
    assert plain.foils is None
    assert data.foils.names == data.test.names
    assert torch.equal(data.foils.labels, data.test.labels)
    shown = {tuple(each.flatten().tolist()) for each in data.foils.images}
    assert len(shown) == len(data.test)
    for part in (data.train, data.val, data.test, data.public):
        assert not shown & {tuple(each.flatten().tolist()) for each in part.images}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_shows(name: str) -> None:
    """Turned from one end to the other it changes some of the picture of most identities."""
    low, high = draw(12), draw(12)
    index = ATTRIBUTES.index(name)
    low[:, index], high[:, index] = 0, 1
    high[:, :index], high[:, index + 1 :] = low[:, :index], low[:, index + 1 :]
    given = nuisances(12)
    difference = (faces(low, given).float() - faces(high, given).float()).abs()
    changed = (difference.amax(1) > 8).flatten(1).float().mean(1)  # share of the pixels
    assert (changed > 0.004).float().mean() > 0.7, changed  # four pixels, for most identities
    assert changed.max() < 0.9  # the background stays


@pytest.mark.parametrize("name", NUISANCES)
def test_every_nuisance_shows(name: str) -> None:
    identities, low = draw(9), nuisances(9)
    high = low.clone()
    index = NUISANCES.index(name)
    low[:, index] = 0 if index >= NUISANCES.index("mouth_open") else -1
    high[:, index] = 1
    if name == "blink":  # lids close both ways
        low[:, index] = 0
    difference = (faces(identities, low).float() - faces(identities, high).float()).abs()
    # Of some identities or under some light a nuisance hides; it shows for most.
    assert difference.amax((1, 2, 3)).median() > 8


def test_rendering_leaves_its_inputs_as_they_were() -> None:
    identities, given = draw(4), nuisances(4)
    kept = identities.clone(), given.clone()
    faces(identities, given)
    assert torch.equal(identities, kept[0])
    assert torch.equal(given, kept[1])
    data = render_dataset(SPEC, 32)
    assert data.attributes is not None
    assert torch.equal(data.attributes, private_attributes(SPEC)[0])


def test_a_picture_does_not_depend_on_the_others_of_its_batch() -> None:
    identities, given = draw(5), nuisances(5)
    together = faces(identities, given).int()
    for index in range(5):
        alone = faces(identities[index : index + 1], given[index : index + 1]).int()
        assert (together[index] - alone[0]).abs().max() <= 1


def test_sensor_noise_is_what_it_says() -> None:
    identities, given = draw(4), nuisances(4)
    noise = torch.randn(4, 3, 32, 32, generator=stream(0, "noise"))
    clean, noisy = faces(identities, given), render(identities, given, 32, noise)
    inside = (clean > 20) & (clean < 235)
    difference = (noisy.float() - clean.float())[inside]
    assert difference.std() == pytest.approx(0.015 * 255, rel=0.05)


def test_identities_and_nuisances_are_in_their_ranges() -> None:
    identities, given = draw(500), nuisances(500)
    assert identities.min() >= 0
    assert identities.max() <= 1
    signed = NUISANCES.index("mouth_open")
    assert given[:, :signed].min() < -0.9
    assert given[:, signed:].min() >= 0
    assert given.max() <= 1


def test_lookalikes_exist() -> None:
    """A quarter is far nearer to an earlier identity than uniform draws ever are."""
    identities = draw(400)
    uniform = torch.rand(400, len(ATTRIBUTES), generator=stream(0, "uniform"))

    def nearest(points: Tensor) -> Tensor:
        return torch.cdist(points, points).fill_diagonal_(9).min(1).values

    # Offsets of 0.14 in 24 dimensions are 0.69 long; uniform draws are 1.99 apart on average.
    threshold = nearest(uniform).min()
    close = (nearest(identities) < threshold).float().mean()
    assert threshold > 0.9
    assert LOOKALIKE_SHARE * 0.8 < close < 2.5 * LOOKALIKE_SHARE
    # A lookalike is no copy.
    assert nearest(identities).min() > 0.3


def test_the_first_identities_do_not_depend_on_later_ones_being_lookalikes() -> None:
    assert torch.equal(draw(30), draw(30))
    assert not torch.equal(draw(30), draw(30, "other"))


def test_images_of_one_identity_are_nearer_than_those_of_others() -> None:
    """Seen through the colours of the middle of the picture, where the face is."""
    count, each = 20, 8
    images = render_identities(draw(count), each, 32, stream(0, "images")).float()
    colours = torch.nn.functional.avg_pool2d(images[:, :, 4:28, 6:26], 4).flatten(1)
    colours = colours - colours.mean(1, keepdim=True)  # exposure is a nuisance
    distance = torch.cdist(colours, colours)
    labels = torch.arange(count).repeat_interleave(each)
    same = labels[:, None] == labels[None]
    own = distance[same & ~torch.eye(len(labels), dtype=torch.bool)].mean()
    assert own < 0.8 * distance[~same].mean()
    # The nearest other picture is of the same identity far more often than by chance (5 %).
    hits = labels[distance.fill_diagonal_(1e9).argmin(1)] == labels
    assert hits.float().mean() > 0.3


def test_the_split_into_chunks_leaves_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """70 pictures are two chunks; each picture is of the identity that its place says."""
    identities = draw(35)
    seen = []

    def spy(rows: Tensor, given: Tensor, resolution: int, noise: Tensor) -> Tensor:
        seen.append((rows.clone(), given.clone(), noise.clone()))
        return render(rows, given, resolution, noise)

    monkeypatch.setattr(synthfaces, "render", spy)
    images = render_identities(identities, 2, 32, stream(0, "chunks"))
    assert [len(rows) for rows, _, _ in seen] == [64, 6]
    assert torch.equal(torch.cat([rows for rows, _, _ in seen]), identities.repeat_interleave(2, 0))
    given, noise = (torch.cat([each[i] for each in seen]) for i in (1, 2))
    assert len(given.unique(dim=0)) == len(noise.flatten(1).unique(dim=0)) == 70
    whole = render(identities.repeat_interleave(2, 0), given, 32, noise)
    assert (whole.int() - images.int()).abs().max() <= 1


def test_a_longer_rendering_starts_as_a_shorter_one() -> None:
    identities = draw(40)
    short = render_identities(identities[:32], 2, 32, stream(0, "chunks"))  # one chunk of 64
    long = render_identities(identities, 2, 32, stream(0, "chunks"))
    assert torch.equal(long[:64], short)
