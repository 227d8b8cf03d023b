"""The data sets by name; a reader's module is imported when its name is asked for."""

from __future__ import annotations

import importlib

from mibench.data.source import Reader
from mibench.errors import RequestError
from mibench.registry import closest

_READERS = {
    "celeba": "CelebA",
    "cifar10": "CIFAR10",
    "facescrub": "FaceScrub",
    "ffhq": "FFHQ",
    "lfw": "LFW",
    "mnist": "MNIST",
}
NAMES = tuple(_READERS)


def reader(name: str) -> Reader:
    """The reader of a data set.

    Raises:
        RequestError: there is no such data set; close names are suggested.
    """
    if name not in _READERS:
        hint = closest(name, NAMES) or f"data sets: {', '.join(NAMES)}"
        raise RequestError(f"there is no data set {name!r}; {hint}")
    module = importlib.import_module(f"mibench.data.{name}")
    made: Reader = getattr(module, _READERS[name])()
    return made
