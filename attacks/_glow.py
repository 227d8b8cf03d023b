"""A normalising flow for latent vectors, one a batch row of identities and all run at once.

It is Glow (Kingma and Dhariwal, NeurIPS 2018) on vectors, as VMI uses it (Wang et al., "Variational
Model Inversion Attacks", NeurIPS 2021, section 4): levels of steps, each an activation
normalisation, a fixed shuffle and an additive coupling; after each level but the last, half of the
dimensions leave and follow a Gaussian whose mean and deviation are read off the dimensions that
stay. Every parameter has a leading dimension of identities and no operation mixes them, so each
identity's flow is trained as if alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mibench.errors import RequestError
from mibench.streams import RowStreams

Transformed = tuple[Tensor, Tensor]


class Actnorm(nn.Module):
    """Scale and shift every dimension: noise = (latents + shift) · exp(log_scale)."""

    def __init__(self, identities: int, dims: int, device: torch.device) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(identities, 1, dims, device=device))
        self.log_scale = nn.Parameter(torch.zeros(identities, 1, dims, device=device))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Start where each identity's own ``values`` come out with mean 0 and variance 1."""
        self.shift.copy_(-values.mean(1, keepdim=True))
        self.log_scale.copy_(-values.std(1, keepdim=True).clamp_min(1e-6).log())

    def forward(self, noise: Tensor) -> Transformed:
        """Latents and log |d latents / d noise| ``(identities, 1)``."""
        return noise * torch.exp(-self.log_scale) - self.shift, -self.log_scale.sum(2)

    def inverse(self, latents: Tensor) -> Transformed:
        """Noise and log |d noise / d latents| ``(identities, 1)``."""
        return (latents + self.shift) * torch.exp(self.log_scale), self.log_scale.sum(2)


class Coupling(nn.Module):
    """Shift the second half of the dimensions by a network of the first; it keeps volumes.

    The network has two hidden layers with ELU, and a last layer that starts at zero.

    Args:
        streams: a stream for each identity, for its initial weights.
        dims: dimensions, at least 2; of an odd number the second half has one more.
        width: units of each hidden layer.
    """

    def __init__(self, streams: RowStreams, dims: int, width: int) -> None:
        super().__init__()
        self.first = dims // 2
        shifted = dims - self.first
        identities, device = len(streams), streams.device

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(identities, *shape, device=device))

        # The published layers are normalised on data at the start; unit variance does the same.
        self.weight_in = nn.Parameter(streams.normal(self.first, width) / self.first**0.5)
        self.bias_in = zeros(1, width)
        self.weight_hidden = nn.Parameter(streams.normal(width, width) / width**0.5)
        self.bias_hidden = zeros(1, width)
        self.weight_out, self.bias_out = zeros(width, shifted), zeros(1, shifted)

    def _shift(self, first: Tensor) -> Tensor:
        hidden = F.elu(torch.baddbmm(self.bias_in, first, self.weight_in))
        hidden = F.elu(torch.baddbmm(self.bias_hidden, hidden, self.weight_hidden))
        return torch.baddbmm(self.bias_out, hidden, self.weight_out)

    def forward(self, noise: Tensor) -> Tensor:
        first, second = noise[..., : self.first], noise[..., self.first :]
        return torch.cat([first, second - self._shift(first)], 2)

    def inverse(self, latents: Tensor) -> Tensor:
        first, second = latents[..., : self.first], latents[..., self.first :]
        return torch.cat([first, second + self._shift(first)], 2)


class Step(nn.Module):
    """Towards noise: actnorm, shuffle, coupling. The shuffle is the same for every identity."""

    order: Tensor
    back: Tensor

    def __init__(
        self, streams: RowStreams, dims: int, width: int, shuffles: torch.Generator
    ) -> None:
        super().__init__()
        self.actnorm = Actnorm(len(streams), dims, streams.device)
        order = torch.randperm(dims, generator=shuffles)
        self.register_buffer("order", order.to(streams.device))
        self.register_buffer("back", order.argsort().to(streams.device))
        self.coupling = Coupling(streams, dims, width)

    def forward(self, noise: Tensor) -> Transformed:
        return self.actnorm.forward(self.coupling.forward(noise).index_select(2, self.back))

    def inverse(self, latents: Tensor) -> Transformed:
        values, log_volume = self.actnorm.inverse(latents)
        return self.coupling.inverse(values.index_select(2, self.order)), log_volume


class Split(nn.Module):
    """Half of the dimensions leave: a Gaussian given those that stay, a standard one at the start.

    Args:
        identities: number of identities.
        dims: dimensions before the split; of an odd number one more stays than leaves.
    """

    def __init__(self, identities: int, dims: int, device: torch.device) -> None:
        super().__init__()
        self.leaving = dims // 2
        self.staying = dims - self.leaving
        shape = (identities, self.staying, 2 * self.leaving)
        self.weight = nn.Parameter(torch.zeros(shape, device=device))
        self.bias = nn.Parameter(torch.zeros(identities, 1, shape[2], device=device))

    def _moments(self, staying: Tensor) -> Transformed:
        mean, log_std = torch.baddbmm(self.bias, staying, self.weight).chunk(2, 2)
        return mean, log_std

    def forward(self, staying: Tensor, noise: Tensor) -> Transformed:
        """Join ``staying`` with latents made of ``noise``; and log |d latents / d noise|."""
        mean, log_std = self._moments(staying)
        return torch.cat([staying, mean + log_std.exp() * noise], 2), log_std.sum(2)

    def inverse(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What stays, the noise of what leaves, and log |d noise / d latents|."""
        staying, leaving = latents[..., : self.staying], latents[..., self.staying :]
        mean, log_std = self._moments(staying)
        return staying, (leaving - mean) * torch.exp(-log_std), -log_std.sum(2)


class Flow(nn.Module):
    """A flow for each identity, from standard normal noise to latents.

    Before :meth:`fit` it is a shuffle of the dimensions: latents are standard normal too.

    Args:
        streams: a stream for each identity, for its initial weights.
        dims: dimensions of noise and latents.
        levels: levels L; after each but the last half of the dimensions leave.
        depth: steps K a level.
        width: hidden units of each coupling's network.
        shuffles: generator of the shuffles.

    Shapes:
        noise ``(identities, n, dims)`` to latents of that shape and log |d latents / d noise|
        ``(identities, n)``; :meth:`inverse` the other way round.

    Raises:
        RequestError: the last level would have fewer than 2 dimensions.
    """

    def __init__(
        self,
        streams: RowStreams,
        dims: int,
        levels: int,
        depth: int,
        width: int,
        shuffles: torch.Generator,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.levels: list[list[Step]] = []
        self.splits: list[Split] = []
        for level in range(levels):
            if dims < 2:
                raise RequestError(
                    f"a flow of {levels} levels halves a latent of {self.dims} dimensions to fewer "
                    f"than 2; ask for at most {level} levels"
                )
            self.levels.append([Step(streams, dims, width, shuffles) for _ in range(depth)])
            if level < levels - 1:
                self.splits.append(Split(len(streams), dims, streams.device))
                dims = self.splits[-1].staying
        # The lists above are what is read, typed; this one hands their parameters to torch.
        self.parts = nn.ModuleList([*(step for steps in self.levels for step in steps)])
        self.parts.extend(self.splits)
        self.sizes = [dims, *(split.leaving for split in reversed(self.splits))]

    def forward(self, noise: Tensor) -> Transformed:
        values, *left = noise.split(self.sizes, 2)
        log_volume = noise.new_zeros(noise.shape[:2])
        for level in reversed(range(len(self.levels))):
            if level < len(self.splits):
                values, change = self.splits[level](values, left.pop(0))
                log_volume = log_volume + change
            for step in reversed(self.levels[level]):
                values, change = step(values)
                log_volume = log_volume + change
        return values, log_volume

    def inverse(self, latents: Tensor) -> Transformed:
        """Noise of latents, and log |d noise / d latents|."""
        return self._inverse(latents, fit=False)

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """Set every actnorm from the identities' own ``latents`` (Glow, section 3.1)."""
        self._inverse(latents, fit=True)

    def _inverse(self, latents: Tensor, fit: bool) -> Transformed:
        values, left = latents, list[Tensor]()
        log_volume = latents.new_zeros(latents.shape[:2])
        for level, steps in enumerate(self.levels):
            for step in steps:
                if fit:
                    step.actnorm.fit(values)
                values, change = step.inverse(values)
                log_volume = log_volume + change
            if level < len(self.splits):
                values, leaving, change = self.splits[level].inverse(values)
                left.insert(0, leaving)
                log_volume = log_volume + change
        return torch.cat([values, *left], 2), log_volume
