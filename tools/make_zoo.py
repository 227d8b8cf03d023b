"""Write mibench/assets/zoo.json, the targets of the boards, from the filed records.

    python tools/make_zoo.py [--check] [--pin URL]

`--pin URL` takes the checksums of what a maintainer has pushed from that hub's index; what is
pinned already stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mibench.cell.zoo import TargetName
from mibench.errors import RequestError
from mibench.files import write_atomic
from mibench.leaderboard.parsing import read_record
from mibench.store.hub import Hub, Shipped, ShippedIndex, shipped

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "mibench" / "assets" / "zoo.json"


def targets(pins: dict[str, str]) -> list[Shipped]:
    """The targets of all filed records, by name; of one that was trained twice each.

    Args:
        pins: checksums of manifests, by key.
    """
    found = {}
    for path in sorted((ROOT / "leaderboards" / "records").glob("*/*.json")):
        record = read_record(path)
        settings = {**record.target.passed, **record.defense.passed}
        name = TargetName(
            record.protocol.name, record.target.name, record.defense.name, settings, record.seed
        )
        try:
            TargetName.parse(str(name))
        except RequestError:
            continue  # of a method or a protocol that is not mibench's own
        if record.defense.source or record.protocol.source or record.protocol.passed:
            continue
        key = record.artifacts["target"]
        makers = [cost.maker for cost in record.costs if cost.stage == "target" and cost.maker]
        maker = makers[0] if makers else None  # records of schema 2 do not say
        found[str(name), key] = Shipped(
            name=str(name),
            key=key,
            manifest=pins.get(key),
            mibench=maker.mibench if maker else None,
            commit=maker.commit if maker else None,
        )
    return [found[pair] for pair in sorted(found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    parser.add_argument("--pin", metavar="URL", help="hub whose index has the checksums")
    options = parser.parse_args()
    pins = {each.key: each.manifest for each in shipped() if each.manifest}
    if options.pin:
        entries = Hub(options.pin).entries.values()
        pins = {each.key: each.manifest for each in entries if each.kind == "target"} | pins
    index = ShippedIndex(targets=tuple(targets(pins)))
    text = json.dumps(index.model_dump(mode="json"), indent=1) + "\n"
    if text == PLACE.read_text("utf-8"):
        return
    if options.check:
        raise SystemExit("zoo.json is not what the records say: run this without --check")
    write_atomic(PLACE, text.encode())


if __name__ == "__main__":
    main()
