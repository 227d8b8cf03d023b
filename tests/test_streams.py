from __future__ import annotations

import hashlib

import pytest
import torch

from mibench.streams import RowStreams, noise_from, noise_like, seeded, stream

CPU = torch.device("cpu")


def rows(*names: object) -> RowStreams:
    return RowStreams([stream(0, "row", name) for name in names], CPU)


def test_a_stream_is_seeded_by_the_hash_of_seed_and_names() -> None:
    seed = int.from_bytes(hashlib.sha256(b"3/identity/7").digest()[:8], "big") >> 1
    expected = torch.randn(5, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.randn(5, generator=stream(3, "identity", 7)), expected)


def test_seed_and_every_name_matter() -> None:
    keys = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, "a", 1), (0, "a", 2)]
    draws = {tuple(torch.rand(3, generator=stream(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_no_two_seeds_share_a_stream() -> None:
    """The whole seed is hashed, not its lowest bits: the largest ones differ, too."""
    seeds = [0, 1, 2**31, 2**31 + 1, 2**32, 2**53, 2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1]
    draws = {tuple(torch.rand(3, generator=stream(seed, "x")).tolist()) for seed in seeds}
    assert len(draws) == len(seeds)


def test_streams_do_not_share_state_with_one_another_or_torch() -> None:
    first, second = stream(0, "x"), stream(0, "x")
    torch.rand(100, generator=first)
    before = torch.get_rng_state()
    expected = torch.rand(4, generator=stream(0, "x"))
    assert torch.equal(torch.rand(4, generator=second), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_own_generator_is_seeded_in_a_block_and_left_as_it_was() -> None:
    torch.rand(7)
    before = torch.get_rng_state()
    with seeded(5):
        first = torch.randn(4)
        with seeded(6):
            assert not torch.equal(torch.randn(4), first)
        second = torch.randn(4)
    assert torch.equal(torch.cat([first, second]), torch.randn(8, generator=torch.manual_seed(5)))
    torch.set_rng_state(before)
    with pytest.raises(ValueError, match="no"), seeded(5):
        raise ValueError("no")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_gives_one_number_as_the_seed() -> None:
    used, same = stream(0, "x"), stream(0, "x")
    with seeded(used):
        drawn = torch.rand(3)
    with seeded(int(torch.randint(2**31, (1,), generator=same))):
        assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(torch.rand(3, generator=used), torch.rand(3, generator=same))


@pytest.mark.parametrize("shape", [(3,), (40,), (2, 5, 4)])
def test_a_row_is_its_own_generators_draw(shape: tuple[int, ...]) -> None:
    drawn = rows("a", "b", "c").normal(*shape)
    assert drawn.shape == (3, *shape)
    for row, name in zip(drawn, "abc", strict=True):
        assert torch.equal(row, torch.randn(shape, generator=stream(0, "row", name)))


def test_rows_do_not_depend_on_their_mates_over_many_draws() -> None:
    together, alone = rows("a", "b", "c"), rows("b")
    for _ in range(3):
        assert torch.equal(together.normal(7)[1:2], alone.normal(7))
    assert len(together) == 3


def test_rows_are_standard_normal() -> None:
    drawn = rows("a", "b").normal(20_000)
    assert drawn.mean(1).abs().max() < 0.03
    assert (drawn.std(1) - 1).abs().max() < 0.03


def test_noise_like_draws_from_the_current_source() -> None:
    values = torch.zeros(2, 3, 4, dtype=torch.float64)
    with noise_from(rows("a", "b")):
        noise = noise_like(values)
    assert noise.dtype == torch.float64
    assert torch.equal(noise, rows("a", "b").normal(3, 4).double())


def test_sources_nest_and_are_left_after_an_error() -> None:
    outer, inner = rows("outer"), rows("inner")
    with noise_from(outer):
        with noise_from(inner):
            assert torch.equal(noise_like(torch.zeros(1, 4)), rows("inner").normal(4))
        with pytest.raises(ValueError, match="holds 1 rows"), noise_from(inner):
            noise_like(torch.zeros(2, 4))
        assert torch.equal(noise_like(torch.zeros(1, 4)), rows("outer").normal(4))
    with seeded(5):
        outside = noise_like(torch.zeros(6, 4))
    with seeded(5):
        assert torch.equal(outside, torch.randn(6, 4))


def test_a_source_with_too_few_rows_is_refused() -> None:
    with (
        noise_from(rows("a", "b")),
        pytest.raises(ValueError, match="holds 2 rows, the batch 3: give each row"),
    ):
        noise_like(torch.zeros(3, 4))


def test_some_rows_go_on_from_where_they_are() -> None:
    def rows() -> RowStreams:
        return RowStreams([stream(0, row) for row in range(4)], torch.device("cpu"))

    whole, parted = rows(), rows()
    first, second = whole.normal(3), whole.uniform(2)
    assert torch.equal(parted.of(torch.tensor([2, 0])).normal(3), first[[2, 0]])
    assert torch.equal(parted.of(torch.tensor([2])).uniform(2), second[[2]])
    assert (second >= 0).all()
    assert (second < 1).all()
