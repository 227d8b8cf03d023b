"""Numbers that papers report, as they print them: to stand beside measured ones, never among them.

All are of CelebA at 64×64 with targets that start from face recognition or ImageNet weights, which
no protocol here is: nothing in this table compares with a measured number.
"""

from __future__ import annotations

from mibench.leaderboard.board import Column, Table, Value

_SEED = "Nguyen et al., CVPR 2023"
_RERUN = "independent re-run of the code of Nguyen et al. (CVPR 2023)"
_KEDMI = "Chen et al., ICCV 2021 (KEDMI)"
_SSD = "SSD, ICLR 2025"

_COLUMNS = (
    Column("source", "source"),
    Column("target", "target"),
    Column("defense", "defense"),
    Column("natural", "natural accuracy %"),
    Column("attack", "attack"),
    Column("top1", "top-1 %"),
    Column("top5", "top-5 %"),
    Column("knn", "KNN distance", detail=True),
    Column("fid", "FID", detail=True),
)

# KEDMI's attack against undefended targets: target, variant, top-1, KNN distance.
_IMPROVED = (
    ("IR152", "KEDMI", "80.53 ± 3.86", "1247.28"),
    ("IR152", "KEDMI + LOM", "92.47 ± 1.41", "1168.55"),
    ("FaceNet64", "KEDMI + LOM", "92.53 ± 1.51", "1183.76"),
    ("VGG16", "KEDMI + LOM", "89.07 ± 1.46", "1218.46"),
    ("IR152", "KEDMI + LOM, p_reg fixed to the mean", "92.27 ± 1.37", "1155.92"),
    ("FaceNet64", "KEDMI + LOM, p_reg fixed to the mean", "90.40 ± 1.68", "1257.95"),
    ("VGG16", "KEDMI + LOM, p_reg fixed to the mean", "85.60 ± 1.79", "1259.60"),
    ("IR152", "KEDMI + MA (EfficientNet-B0, B1, B2)", "84.73 ± 3.76", "1220.23"),
    ("IR152", "KEDMI + MA (EfficientNet-B0)", "81.20", ""),
    ("IR152", "KEDMI + MA (two EfficientNets)", "84.47", ""),
    ("IR152", "KEDMI + MA (four EfficientNets)", "85.87", ""),
    ("IR152", "KEDMI + MA (DenseNet-121, 161, 169)", "89.07", ""),
    ("IR152", "KEDMI + LOM + MA", "92.93", ""),
)
# target, attack, top-1, FID
_BASES = (
    ("FaceNet64", "GMI", "31", "33.81"),
    ("IR152", "GMI", "32", "50.11"),
    ("VGG16", "GMI", "21", "52.51"),
    ("FaceNet64", "KEDMI", "81", "25.28"),
    ("IR152", "KEDMI", "81", "26.35"),
    ("VGG16", "KEDMI", "72", "23.72"),
)
# Against VGG16: variant, top-1, top-5, FID, KNN distance.
_AGAIN = (
    ("KEDMI", "72.53", "92.33", "25.41", "1293"),
    ("KEDMI + MA", "83.20", "96.67", "25.17", "1246"),
    ("KEDMI + LOM", "88.33", "98.33", "35.93", "1211"),
    ("KEDMI + LOM + MA", "88.07", "98.67", "34.76", "1164"),
)
# Against IR152: defense, natural accuracy, then top-1 of the attacks in this order.
_ATTACKS = ("MIRROR", "C2F", "BREP-MI", "LOKT", "RLB-MI")
_DEFENSES = (
    ("none", "92.1", ("18.0", "5.8", "26.8", "50.2", "44")),
    ("MID", "86.8", ("17.8", "1.2", "20.8", "32.4", "31")),
    ("BiDO", "86.6", ("10.6", "5.4", "11.4", "30.8", "24")),
    ("negative label smoothing", "86.9", ("9.0", "1.8", "19.4", "33.6", "24")),
    ("TL-DMI", "86.5", ("13.6", "2.8", "20.2", "43.0", "37")),
)
# Natural accuracies of the seed paper's targets.
_NATURAL = {"VGG16": "88.26", "IR152": "91.16", "FaceNet64": "88.50"}


def published_table() -> Table:
    """Published results on CelebA with their sources; every entry is text, as printed."""
    rows: list[dict[str, str]] = []
    for target, attack, top1, knn in _IMPROVED:
        rows.append(
            _undefended(_SEED, target, attack, natural=_NATURAL[target], top1=top1, knn=knn)
        )
    for target, attack, top1, fid in _BASES:
        rows.append(_undefended(_KEDMI, target, attack, top1=top1, fid=fid))
    for attack, top1, top5, fid, knn in _AGAIN:
        rows.append(_undefended(_RERUN, "VGG16", attack, top1=top1, top5=top5, fid=fid, knn=knn))
    for defense, natural, accuracies in _DEFENSES:
        for attack, top1 in zip(_ATTACKS, accuracies, strict=True):
            row = _undefended(_SSD, "IR152", attack, natural=natural, top1=top1)
            rows.append({**row, "defense": defense})
    return Table(
        key="published",
        title="Published numbers",
        columns=_COLUMNS,
        rows=tuple({key: Value(text=text) for key, text in row.items() if text} for row in rows),
        notes=(
            "As the sources print them, not measured here: CelebA at 64×64 (private and public "
            "identities both from CelebA), targets that start from pretrained weights, other "
            "evaluators. They do not compare with the measured numbers of any board here.",
            "± is as published; the papers do not all say over what.",
        ),
    )


def _undefended(source: str, target: str, attack: str, **numbers: str) -> dict[str, str]:
    return {"source": source, "target": target, "defense": "none", "attack": attack, **numbers}
