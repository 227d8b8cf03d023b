"""ε of DP-SGD's steps and the noise that a given ε needs, by Opacus' accountants.

Beyond the settings that they were made for, the accountants do not end, take all memory that there
is, or raise. Here both questions are answered before training, in bounded time and memory; where
an accountant gives no bound, ε is infinite.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Literal

from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

Accountant = Literal["rdp", "prv"]

_LEAST_NOISE = 1e-12  # below about 1e-154 σ² underflows, and the Rényi accountant never ends
_MOST_NOISE = {"rdp": 1e6, "prv": 1e3}  # above them rounding errors decide
_MANY_TERMS = 1e3  # noise over which Rényi divergences of fractional orders take too many terms
_MOST_POINTS = 2**22  # of a discretised privacy loss: about 1 GiB and 10 s
_MOST_LOSS = 700.0  # exp of a larger privacy loss overflows
_PRV_EPSILON_ERROR, _PRV_DELTA_ERROR = 0.01, 1e-3  # Opacus' own; the second is relative to δ
_FIRST_NOISE, _TOLERANCE = 20.0, 0.01  # of the search, Opacus' own


@dataclass(frozen=True)
class Mechanism:
    """Steps of the subsampled Gaussian mechanism, but for their noise.

    Attributes:
        accountant: Rényi (``"rdp"``) or privacy loss variables (``"prv"``).
        rate: probability that an image joins a step's batch, in (0, 1].
        steps: how many there are.
        delta: δ of the guarantee, in (0, 1).
    """

    accountant: Accountant
    rate: float
    steps: int
    delta: float

    @property
    def text(self) -> str:
        """As messages name it."""
        return f"{self.steps} steps of sample rate {self.rate:.3g} at δ={self.delta:.3g}"

    @functools.lru_cache(maxsize=256)  # noqa: B019 (it is small, and frozen)
    def epsilon(self, noise: float) -> float:
        """ε ≥ 0 for a noise multiplier; ∞ where the accountant gives no bound."""
        if not _LEAST_NOISE <= noise <= _MOST_NOISE[self.accountant]:
            return math.inf
        spent = self._renyi if self.accountant == "rdp" else self._loss_variables
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about orders at the end of the range, overflows
            try:
                epsilon = float(spent(noise))
            except (ArithmeticError, ValueError, RuntimeError, MemoryError):
                return math.inf
        # A negative ε says that δ alone would do.
        return max(0.0, epsilon) if math.isfinite(epsilon) else math.inf

    def _renyi(self, noise: float) -> float:
        accountant = RDPAccountant()
        accountant.history = [(noise, self.rate, self.steps)]
        orders = accountant.DEFAULT_ALPHAS
        if noise > _MANY_TERMS and self.rate < 1:
            orders = [order for order in orders if float(order).is_integer()]
        return float(accountant.get_epsilon(self.delta, alphas=orders))

    def _loss_variables(self, noise: float) -> float:
        accountant = PRVAccountant()
        accountant.history = [(noise, self.rate, self.steps)]
        error = self.delta * _PRV_DELTA_ERROR
        domain = accountant._get_domain(
            [PoissonSubsampledGaussianPRV(self.rate, noise)],
            [self.steps],
            eps_error=_PRV_EPSILON_ERROR,
            delta_error=error,
        )
        if domain.size > _MOST_POINTS or domain.t_max > _MOST_LOSS:
            return math.inf
        error_of = {"eps_error": _PRV_EPSILON_ERROR, "delta_error": error}
        return float(accountant.get_epsilon(self.delta, **error_of))

    def least_noise(self, epsilon: float) -> float | None:
        """The least noise multiplier that spends at most ``epsilon``; None where none is known to.

        The same bisection as Opacus' ``get_noise_multiplier``, and so the same result where that
        has one. None also where ``epsilon`` is so large that less noise would do than the
        accountant gives a bound for.
        """
        tolerance = min(_TOLERANCE, epsilon / 100)
        low, high = 0.0, _FIRST_NOISE
        while self.epsilon(high) > epsilon:
            high *= 2
            if high > _MOST_NOISE[self.accountant]:
                return None
        while epsilon - self.epsilon(high) > tolerance:
            middle = (low + high) / 2
            if math.isinf(self.epsilon(low)) and high - low < high / 20:
                return None  # near the least noise that has an ε at all, where each is dear
            if middle in (low, high):  # neighbours in floating point, between which ε jumps
                return high
            if self.epsilon(middle) < epsilon:
                high = middle
            else:
                low = middle
        return high
