"""Random streams: every use of randomness has a named generator of its own.

A stream depends on the seed and on its names only, never on how much another stream has drawn, so
an identity's noise does not change when other identities join its batch.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


def stream(seed: int, *names: object) -> torch.Generator:
    """A CPU generator seeded by the SHA-256 of ``seed`` and ``names``."""
    text = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator


@contextlib.contextmanager
def seeded(source: torch.Generator | int) -> Iterator[None]:
    """Seed torch's own generators, which layers draw from; after the block they are as before.

    Args:
        source: a generator, of which one number is drawn as the seed, or the seed itself.
    """
    if isinstance(source, torch.Generator):
        source = int(torch.randint(2**31, (1,), generator=source))
    # `manual_seed` reaches every GPU that is in use, so all of them are put back.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(source)
        yield


class RowStreams:
    """One generator per row of a batch; row ``i`` of every draw comes from generator ``i``."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators = list(generators)
        self.device = device

    def __len__(self) -> int:
        return len(self.generators)

    def of(self, rows: Tensor) -> RowStreams:
        """The streams of some rows ``(n,)``, which go on from where they are."""
        return RowStreams([self.generators[row] for row in rows.tolist()], self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal tensor ``(rows, *shape)`` on the device."""
        result = torch.empty(len(self.generators), *shape)
        for row, generator in zip(result, self.generators, strict=True):
            row.normal_(generator=generator)
        return result.to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Tensor ``(rows, *shape)`` on the device, uniform in [0, 1)."""
        result = torch.empty(len(self.generators), *shape)
        for row, generator in zip(result, self.generators, strict=True):
            row.uniform_(generator=generator)
        return result.to(self.device)


class NoiseSource(Protocol):
    """Anything that draws standard normal noise for a batch."""

    def normal(self, *shape: int) -> Tensor: ...


_SOURCE: contextvars.ContextVar[NoiseSource | None] = contextvars.ContextVar("noise", default=None)


@contextlib.contextmanager
def noise_from(source: NoiseSource | None) -> Iterator[None]:
    """Make stochastic modules draw their noise from ``source`` inside the block.

    None leaves it to torch's global generator.
    """
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def noise_like(values: Tensor) -> Tensor:
    """Standard normal noise shaped as ``values`` ``(rows, ...)``, from the current source.

    Outside :func:`noise_from` the noise comes from torch's global generator, as a deployed
    stochastic model would draw it.
    """
    source = _SOURCE.get()
    if source is None:
        return torch.randn_like(values)
    noise = source.normal(*values.shape[1:])
    if noise.shape != values.shape:
        raise ValueError(
            f"the noise source holds {len(noise)} rows, the batch {len(values)}: "
            "give each row of the batch its own stream"
        )
    return noise.to(values.dtype)
