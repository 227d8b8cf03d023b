"""A record's cell run anew, and what two runs of one cell may differ by."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from mibench.cell.request import Request, make_request
from mibench.cell.run import run_cell
from mibench.errors import RequestError
from mibench.inversion.attack import ATTACKS
from mibench.leaderboard.checks import HEADLINE
from mibench.leaderboard.names import cell_name, overrides
from mibench.names import AttackName
from mibench.priors import PRIORS
from mibench.record import Part, PriorPart, Record
from mibench.registry import Registry
from mibench.store.source import outside_digest
from mibench.training.defense import DEFENSES
from mibench.verify.compare import ABSENT, EXACT, Comparison, Verdict
from mibench.verify.recompute import Place
from mibench.verify.settings import is_own, require_comparable

_LEAST_FREEDOM = 4  # degrees of freedom behind the protocol's seed variance
_NORMAL_QUANTILE = 1.96
_BITS = ("identity_bits", "identity_bits_best")  # where a protocol has judges


def request_of(
    record: Record,
    defense: str | None = None,
    attack: str | None = None,
    prior: str | None = None,
) -> Request:
    """What a record's cell is asked for by, with methods that are on this machine.

    A record names registered methods, or a class in a file that it cannot name: the file is given
    by who verifies, and is the record's if its source is.

    Args:
        record: the claim.
        defense: ``path/to/file.py:Class`` of a defense that is not registered here; else None.
        attack, prior: the same for the attack, and for a kind of prior that was asked for; one that
            comes with its attack is in the attack's file.

    Raises:
        RequestError: a method is not registered and no file was given, or one was that is of
            another source, or is not needed.
    """
    named, name = AttackName.parse(record.attack.name, strict=False), record.defense.name
    defended = _method(DEFENSES, name, record.defense, defense)
    attacked = _method(ATTACKS, named.base, record.attack, attack)
    chosen = "prior.kind" in record.prior.passed
    if prior is not None and not chosen:
        raise RequestError("the record's prior is its attack's own: leave --prior out")
    return make_request(
        protocol=record.protocol.name,
        target=record.target.name,
        defense=defended,
        attack=replace(named, base=attacked).full,
        prior=_method(PRIORS, record.prior.kind, record.prior, prior) if chosen else None,
        seed=record.seed,
        overrides={path: v for path, v in overrides(record).items() if path != "prior.kind"},
    )


def _method(registry: Registry[Any], name: str, part: Part | PriorPart, given: str | None) -> str:
    kind = registry.kind
    if name in registry.names():
        if given is not None:
            raise RequestError(f"the record's {kind} {name!r} is registered: leave --{kind} out")
        method, what = registry.get(name), f"the installed {kind}"
        if is_own(method):
            return name
    elif given is None:
        raise RequestError(
            f"the record's {kind} {name!r} is not registered here: get its file, read it, and "
            f"name it by --{kind} FILE.py:CLASS"
        )
    else:
        method, what = registry.load_file(given), f"--{kind} {given}"
    source = outside_digest(method, *registry.files_of(method))
    if source != part.source:
        raise RequestError(
            f"{what}: its source is {str(source)[:12]}…, the record's {name!r} has "
            f"{str(part.source)[:12]}…: it is another file, or another version of it"
        )
    return given or name


def retrain(
    record: Record,
    filed: Sequence[Record],
    *,
    defense: str | None = None,
    attack: str | None = None,
    prior: str | None = None,
    place: Place,
) -> list[Comparison]:
    """Run a record's cell anew in an empty store and compare top-1, bits and natural accuracy.

    The measure is the protocol's seed variance, pooled over its filed cells: two independent runs
    differ by less than √2·s times Student's .975 quantile in 95 % of all cases. Where too few seeds
    are filed to know it, top-1 must lie in the record's own interval, and natural accuracy within
    the 95 % interval of two counts over the private test images.

    Args:
        record: the claim.
        filed: all filed records of its protocol, at all seeds.
        defense, attack, prior: files of methods that are not registered here, :func:`request_of`.
        place: where to compute; its store is not looked into.

    Raises:
        MibenchError: the record is of another version of the protocol, or the run failed.
        RequestError: a method is not known here, as :func:`request_of` says.
    """
    require_comparable(record)
    request = request_of(record, defense, attack, prior).model_copy(update={"data": place.data})
    with tempfile.TemporaryDirectory() as temporary:
        store, out = Path(temporary, "store"), Path(temporary, "out")
        again = run_cell(request, store, out, place.device, place.progress).record
    return compare_runs(record, again, filed)


def compare_runs(record: Record, again: Record, filed: Sequence[Record]) -> list[Comparison]:
    """Compare a claim with a second run of its cell; see :func:`retrain`."""
    if "diverged" in (record.status, again.status):
        verdict: Verdict = "agrees" if record.status == again.status else "differs"
        note = f"the record's cell is {record.status}, the new one {again.status}"
        return [Comparison(HEADLINE, _top1(record), _top1(again), verdict, note)]
    interval = record.metrics[HEADLINE].interval
    few = f"fewer than {_LEAST_FREEDOM} degrees of freedom are filed"
    result = []
    bits = [key for key in _BITS if record.metrics.get(key, ABSENT).value is not None]
    reads = {HEADLINE: _top1, "natural_accuracy": _natural, **{key: _metric(key) for key in bits}}
    for name, read in reads.items():
        unit, scale = ("bits", 1) if name in bits else ("points", 100)
        if name in bits:
            interval = record.metrics[name].interval
        claimed, found = read(record), read(again)
        if claimed is None or found is None:
            result.append(Comparison(name, claimed, found, "differs", "one of them is missing"))
            continue
        difference = abs(claimed - found)
        spread, freedom = _seed_spread(record, filed, read)
        if freedom >= _LEAST_FREEDOM:
            allowed = float(stdtrit(freedom, 0.975)) * math.sqrt(2) * spread
            near = difference <= allowed + EXACT
            note = (
                f"within {scale * allowed:.2f} {unit}: seeds of the protocol spread by "
                f"{scale * spread:.2f} ({freedom} degrees of freedom)"
            )
        elif name != "natural_accuracy" and interval is not None:
            near = interval[0] - EXACT <= found <= interval[1] + EXACT
            note = f"within the record's own interval: {few}"
        else:
            # Half the 95 % interval of the difference of two shares of n images (Agresti, Coull).
            # The card states how many test images there are, or it is as many as reconstructions.
            data = record.protocol.resolved["data"]
            stated = (data.get("identities") or 0) * (data.get("test") or 0)
            n = stated or record.metrics[HEADLINE].n or 1
            share = (claimed * n + 2) / (n + 4)
            allowed = _NORMAL_QUANTILE * math.sqrt(2 * share * (1 - share) / (n + 4))
            near = difference <= allowed + EXACT
            note = f"within {100 * allowed:.1f} points: {few}"
        note = note if near else f"not {note}"
        result.append(Comparison(name, claimed, found, "agrees" if near else "differs", note))
    return result


def _seed_spread(
    record: Record, filed: Sequence[Record], read: Callable[[Record], float | None]
) -> tuple[float, int]:
    """Standard deviation over seeds, pooled over filed cells, and its degrees of freedom.

    The claim itself does not count.
    """
    cells: dict[str, list[float]] = {}
    for each in filed:
        value, own = read(each), cell_name(each)
        if each.status == "complete" and value is not None and own != cell_name(record):
            cells.setdefault(own.rpartition("_seed")[0], []).append(value)
    squares = [(n - 1) * statistics.variance(of) for of in cells.values() if (n := len(of)) > 1]
    freedom = sum(len(of) - 1 for of in cells.values())
    return (math.sqrt(math.fsum(squares) / freedom) if freedom else 0.0), freedom


def _top1(record: Record) -> float | None:
    return record.metrics[HEADLINE].value


def _metric(key: str) -> Callable[[Record], float | None]:
    return lambda record: record.metrics.get(key, ABSENT).value


def _natural(record: Record) -> float | None:
    value = record.utility.get("natural_accuracy")
    return float(value) if isinstance(value, float | int) else None
