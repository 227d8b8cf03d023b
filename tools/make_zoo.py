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
from mibench.files import write_atomic
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
        record = json.loads(path.read_bytes())
        protocol, target, defense = (record[part] for part in ("protocol", "target", "defense"))
        if protocol["passed"] or protocol.get("source") or defense.get("source"):
            continue  # of a method or a setting that is not mibench's own
        settings = {**target["passed"], **defense["passed"]}
        name = str(
            TargetName(protocol["name"], target["name"], defense["name"], settings, record["seed"])
        )
        key = record["artifacts"]["target"]
        makers = [each.get("maker") for each in record["costs"] if each["stage"] == "target"]
        maker = makers[0] if makers and makers[0] else {}  # records of schema 2 do not say
        found[name, key] = Shipped(
            name=str(TargetName.parse(name)),
            key=key,
            manifest=pins.get(key),
            mibench=maker.get("mibench"),
            commit=maker.get("commit"),
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
