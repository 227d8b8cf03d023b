"""Whether there is enough of everything that a cell needs, before anything is trained.

What a data set must have to be divided at all is refused where it is divided; what a defense or an
attack needs beyond this, by its own code.
"""

from __future__ import annotations

from mibench.cell.resolve import Cell
from mibench.data.divided import Divided
from mibench.errors import RequestError
from mibench.judges import pinned_decoys

# Statistics of features (LOM) have a spread, and batch normalisation a variance, over two or more.
_LEAST = 2


def require_enough(cell: Cell, divided: Divided) -> None:
    """Refuse a cell that lacks images or identities for what it asks for.

    Raises:
        RequestError: names all that is too little, and the settings that would do.
    """
    counts = divided.counts
    problems = []
    if (attacked := cell.protocol.attacked or 0) > counts.identities:
        problems.append(
            f"{attacked} identities are to be attacked, but {counts.identities} are private: lower "
            "--set protocol.attacked"
        )
    if counts.public < _LEAST:
        problems.append(
            f"there is {counts.public} public image, but priors, students and statistics of "
            f"features need {_LEAST} or more: make fewer identities private, or add public ones"
        )
    batch = cell.prior_config.gan.batch_size
    trained = cell.prior_config.source == "scratch" or "prior" not in cell.protocol.assets
    trained = trained and cell.given_prior is None
    if trained and _LEAST <= counts.public < batch:
        problems.append(
            f"the general prior is trained on batches of {batch}, but there are {counts.public} "
            f"public images: add some, or --set prior.gan.batch_size={counts.public}"
        )
    pinned = [judge.decoys for judge in cell.protocol.judges]
    pools = [pinned_decoys(each)[0] for each in pinned if each is not None]
    if None in pinned and not counts.decoys:
        problems.append(
            "its judges have nobody to rank among: give them templates of decoys, or the data "
            "decoys, by --set protocol.data.decoys=rare or drawn"
        )
    if len({each is None for each in pinned}) > 1:
        problems.append("its judges have unlike decoys, so that their ranks compare not")
    if len(set(map(len, pools))) > 1:
        problems.append("its judges have decoys of unlike numbers, so that their ranks compare not")
    for pool in pools:
        wanted = pool.images + 1
        if counts.least_test < wanted:
            problems.append(
                f"the decoys of its judges are of {wanted - 1} images each, so that each private "
                f"identity needs {wanted} test images: --set protocol.data.test={wanted}"
            )
            break
    if problems:
        raise RequestError(f"{cell.protocol.name}: " + "; ".join(problems))
