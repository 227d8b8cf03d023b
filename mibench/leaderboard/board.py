"""What a board is made of: plain data that every format writes in its own way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mibench.record import Record
from mibench.types import Access

Kind = Literal["text", "percent", "number", "count"]


@dataclass(frozen=True)
class Measure:
    """What a board ranks by, and its tables and curves show.

    Attributes:
        key: the metric.
        title: what a reader sees.
        kind: ``percent`` for a fraction in [0, 1].
        unit: of numbers as they are shown.
        left: what a heading calls the worst case that is left at a budget.
    """

    key: str
    title: str
    kind: Kind
    unit: str
    left: str = "leaks"

    @property
    def scale(self) -> float:
        """What a number is multiplied with to be shown."""
        return 100.0 if self.kind == "percent" else 1.0

    @property
    def digits(self) -> int:
        """Decimals of a number as it is shown."""
        return 1 if self.kind == "percent" else 2


BITS = Measure("identity_bits", "identity bits", "number", "bits")
TOP1 = Measure("attack_accuracy_top1", "top-1 attack accuracy", "percent", "%")
# The same number where classes are no identities, and nobody leaks.
CLASSES = Measure(TOP1.key, "class accuracy", "percent", "%", left="class accuracy")


def measure_of(record: Record) -> Measure:
    """What the board of a record's protocol shows: bits where the card has judges.

    Photographs that show nobody, as of digits, have classes and no identities.
    """
    if record.protocol.resolved.get("judges"):
        return BITS
    things = record.protocol.resolved["data"].get("dataset") and not record.people
    return CLASSES if things else TOP1


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: short name, stable, for ``--columns`` and CSV headers.
        title: what a reader sees.
        kind: ``percent`` holds fractions in [0, 1] that are shown as per cent.
        better: which direction is better for the defender; None where neither is.
        help: one sentence on what the column holds.
        detail: whether a table as wide as a page of a paper does without it; None for a column that
            a reader has chosen.
    """

    key: str
    title: str
    kind: Kind = "text"
    better: Literal["lower", "higher"] | None = None
    help: str = ""
    detail: bool | None = False


@dataclass(frozen=True)
class Value:
    """An entry of a table.

    Attributes:
        number: None where there is none; then ``text`` says why or is a dash.
        spread: standard deviation over seeds, in the unit of ``number``; None with one seed.
        interval: 95 % interval, for differences.
        text: shown instead of the number (names, reasons).
        note: why the number does not count as the others of its column do; of a text, what is
            behind it.
    """

    number: float | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None
    text: str = ""
    note: str = ""


DASH = Value(text="—")


@dataclass(frozen=True)
class DefenseFacts:
    """What a defense says of itself that boards need.

    Attributes:
        attack: the attack that it should be tested with, as that knows of it; None where its card
            names none.
        note: why that one, or why none.
        smaller_is_stronger: whether a smaller value of its main knob protects more, 0, the control,
            apart: the order in which it lists its strengths.
        access: what that attack may see of the target; None where nobody knows.
        output: whether the defense changes the answers only, so that who has the weights takes it
            off.
        undefended_control: whether the undefended target is its control.
    """

    attack: str | None
    note: str = ""
    smaller_is_stronger: bool = False
    access: Access | None = None
    output: bool = False
    undefended_control: bool = False


@dataclass(frozen=True)
class Method:
    """A method in a sentence, whose name can link to its paper."""

    kind: Literal["attack", "defense"]
    name: str


Sentence = tuple[str | Method, ...]


@dataclass(frozen=True)
class Table:
    """A table: rows map column keys to values; a row without a key has nothing to show there.

    Attributes:
        key: short name, stable: ``"defenses"``, ``"defenses-black-box"``, ``"cells"``, …
        notes: sentences below the table: what ± means, what is conditional on what.
        files: for each row, the record files behind it, relative to the records folder.
        commands: for each row, the command that makes its first record.
        about: a sentence above it, for whom its title does not tell enough.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Value], ...]
    notes: tuple[str, ...] = ()
    files: tuple[tuple[str, ...], ...] = ()
    commands: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class CurvePoint:
    """A point of a privacy–utility curve.

    Attributes:
        natural: natural accuracy, a fraction in [0, 1].
        attack: what leaks, in the board's measure.
        strength: value of the defense's main knob (for ``none``: epochs); 0 is the control.
        default: whether it is the protocol's default strength.
        control: whether it is the defense's control, its code without its protection.
        ranked: whether it may be ranked; not where the evaluator is right on less than 90 % of the
            private test images, or a seed diverged.
    """

    strength: float
    natural: float
    attack: float
    natural_spread: float | None
    attack_spread: float | None
    seeds: tuple[int, ...]
    default: bool
    files: tuple[str, ...]
    control: bool = False
    ranked: bool = True


@dataclass(frozen=True)
class Curve:
    """The privacy–utility curve of one defense under one attack on one architecture.

    Attributes:
        knob: name of the main knob, as ``"scale"``; ``""`` where there is none (then there is one
            point, of strength 1).
    """

    defense: str
    attack: str
    target: str
    knob: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class QueryPoint:
    """A point of a curve over queries: an attack with so many of them against undefended targets.

    Attributes:
        queries: how often the target was asked for each attacked identity, mean over seeds.
        attack: what leaks, in the board's measure; its spread is the standard deviation over seeds.
        setting: what was set for it, ``"attack.queries = 500"``; ``""`` of the default.
    """

    queries: float
    attack: float
    attack_spread: float | None
    setting: str
    seeds: tuple[int, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class QueryCurve:
    """What an attack without the weights learns of undefended targets, over its queries."""

    attack: str
    access: Access
    target: str
    points: tuple[QueryPoint, ...]


@dataclass(frozen=True)
class Board:
    """All that is shown of one protocol.

    Attributes:
        measure: what is shown: identity bits where the protocol has judges, else accuracies.
        nominal: whether the judges' decoys are no draw from the same people as the private ones, so
            that ranks among them hold only by name.
        summary: what leaks and who is first, in sentences.
        strongest: the attack that leaks most from undefended targets, and how much.
        rule: how ranks are made, whole; rule_in_short: in one sentence.
        references: floors and ceiling, in that measure, from the lowest to the highest.
        reference_target: the architecture whose undefended targets the references are of.
        headline: the attack of curves; the strongest of those that have a long one has them, too,
            where it is stronger.
        over_queries: what attacks without the weights learn, over their queries.
    """

    protocol: str
    version: int
    title: str
    tables: tuple[Table, ...]
    curves: tuple[Curve, ...] = field(default=())
    references: tuple[tuple[str, Value], ...] = field(default=())
    reference_target: str = ""
    headline: str = ""
    measure: Measure = TOP1
    nominal: bool = False
    summary: tuple[Sentence, ...] = field(default=())
    strongest: tuple[str, Value] | None = None
    rule: str = ""
    rule_in_short: str = ""
    over_queries: tuple[QueryCurve, ...] = ()

    @property
    def order(self) -> tuple[bool, bool, bool, str]:
        """What boards are sorted by: those come first that say most of a person.

        First bits among decoys who could as well have been the private people, then nominal ones,
        then accuracies, those of classes last; and by name.
        """
        return self.measure is not BITS, self.nominal, self.measure is CLASSES, self.protocol
