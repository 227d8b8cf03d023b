"""Where a network's weights start: from scratch, from ImageNet, or from a file pinned by its hash.

Nothing is downloaded and nothing is unpickled. Weights that are not at hand are an error that says
how to get them: training from scratch instead would give numbers of another setting.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from mibench.errors import RequestError
from mibench.files import sha256_once, user_path
from mibench.models.classifiers import Classifier, check_architecture
from mibench.types import Frozen, Triple

# Layers that weights of another network lack, and so start anew unless the file has them all.
_OWN_LAYERS = {"vgg16_bn_mi": ("bn.",)}
# What files hold beside the architecture: VGG16's fully connected layers under timm's and
# torchvision's names, and Inception's auxiliary classifier, which timm builds only if asked to.
_LEFT_OUT = {
    "vgg16_bn_mi": ("pre_logits.", "head.", "classifier."),
    "inception_v3": ("AuxLogits.",),
}


class Initialisation(Frozen):
    """Where the weights of a network's backbone start; its head always starts anew.

    ``imagenet`` are timm's default weights of the architecture (of ``vgg16_bn``'s convolutions for
    ``vgg16_bn_mi``), and a classifier scales its input as these weights expect it, by the mean and
    standard deviation of their timm configuration. The code released with KEDMI, BiDO and
    "Re-thinking Model Inversion Attacks" instead hands images in [0, 1] to its ImageNet VGG16 as
    they are; ``mean`` 0 and ``std`` 1 give that.
    """

    source: Literal["scratch", "imagenet", "file"] = Field(
        "scratch",
        description="`scratch`, `imagenet` (timm's weights, in huggingface_hub's cache), or `file`",
    )
    path: str | None = Field(
        None, description="safetensors file with the names of timm's architecture, for `file`"
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 that the weights' file must have; `file` needs it",
    )
    mean: Triple | None = Field(
        None,
        description="subtracted from each channel of images in [0, 1]; null: as timm has it for "
        "the architecture",
    )
    std: Triple | None = Field(
        None, description="each channel is then divided by this; null: as timm has it"
    )
    note: str | None = Field(
        None, description="what the paper starts from, where this is something else"
    )

    @model_validator(mode="after")
    def _fields_belong_to_the_source(self) -> Initialisation:
        if self.source == "file" and not (self.path and self.sha256):
            raise ValueError("weights of a `file` need `path` and `sha256`")
        if self.source != "file" and self.path:
            raise ValueError("`path` is for source `file`")
        if self.source == "scratch" and self.sha256:
            raise ValueError("from scratch there is no file whose `sha256` could be checked")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give `mean` and `std`, or neither")
        if self.std is not None and min(self.std) < 1e-6:
            raise ValueError("`std` must be at least 1e-6")
        return self

    def identity(self, weights: str) -> dict[str, Any]:
        """What a stage's key holds of it: not where the file lies, nor the note.

        Args:
            weights: what :func:`check_initialisation` returned.
        """
        scale = self.model_dump(mode="json", include={"mean", "std"})
        return {"source": self.source, "weights": weights, **scale}


def check_initialisation(architecture: str, how: Initialisation, resolution: int) -> str:
    """Check that the weights are at hand and fit, before any work starts.

    Args:
        architecture: a timm model name.
        how: where its weights start.
        resolution: height and width of the images, on which some weights' shapes depend.

    Returns:
        The SHA-256 of the weights' file, which identifies them; ``"scratch"`` without one.

    Raises:
        RequestError: the weights are absent, are not those pinned, are no safetensors, or do not
            fit the architecture; or there is no such architecture.
    """
    check_architecture(architecture)
    if how.source == "scratch":
        return "scratch"
    path = locate_weights(architecture, how)
    found = _pinned(path, how)
    status = path.stat()
    _check_fits(architecture, resolution, path, status.st_mtime_ns, status.st_size)
    return found


def initialise(model: Classifier, how: Initialisation) -> Classifier:
    """Load the backbone's weights into a fresh classifier, in place; the head stays as it is.

    To be called before a defense replaces layers. Half-precision weights are widened.

    Returns:
        ``model``.

    Raises:
        RequestError: as :func:`check_initialisation`.
    """
    if how.source != "scratch":
        path = locate_weights(model.architecture, how)
        _pinned(path, how)
        names = _fitting(model, path)
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in names}
        model.backbone.load_state_dict(tensors, strict=False)  # the names have been checked
    if how.mean is not None and how.std is not None:
        model.mean.copy_(torch.tensor(how.mean).view(1, 3, 1, 1))
        model.std.copy_(torch.tensor(how.std).view(1, 3, 1, 1))
    return model


def locate_weights(architecture: str, how: Initialisation) -> Path:
    """The file of the weights that a network starts from, where it does not start from scratch.

    It is there; whether it is the right one is for :func:`check_initialisation`, which reads it.

    Raises:
        RequestError: it is not on this machine; the message says how to get it.
    """
    if how.source == "imagenet":
        return _cached(architecture)
    path = user_path(str(how.path), f"the weights of {architecture!r}")
    if not path.is_file():
        raise RequestError(
            f"the weights of {architecture!r} are not there: {path.absolute()} is no file. Put "
            f"the safetensors file with SHA-256 {how.sha256} there, or name its place by `path`"
        )
    return path


def _cached(architecture: str) -> Path:
    """timm's ImageNet weights of an architecture in huggingface_hub's cache."""
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.hf_hub_id or not re.search(r"in\d+k", config.tag or ""):
        raise RequestError(
            f"timm has no ImageNet weights of {architecture!r}; choose another architecture or "
            "another initialisation (`scratch`, `file`)"
        )
    repository, name = config.hf_hub_id, "model.safetensors"
    found = huggingface_hub.try_to_load_from_cache(repository, name)
    if not isinstance(found, str):  # None, or the mark of a file that the hub does not have
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        raise RequestError(
            f"the ImageNet weights of {architecture!r} are not on this machine: {repository} is "
            f"not in {cache}. Get them by `hf download {repository} {name}` (mibench itself "
            "downloads no weights), or copy the folder "
            f"{cache / ('models--' + repository.replace('/', '--'))} from a machine that has it; "
            "HF_HOME names another cache"
        )
    return Path(found)


def _pinned(path: Path, how: Initialisation) -> str:
    """The SHA-256 of a file, which is the pinned one if there is one."""
    found = sha256_once(path)
    if how.sha256 not in (None, found):
        raise RequestError(
            f"{path} has SHA-256 {found}, but the initialisation pins {how.sha256}: these are "
            "other weights. Get the pinned file, or name these by their own hash"
        )
    return found


@functools.cache
def _check_fits(architecture: str, resolution: int, path: Path, _mtime_ns: int, _size: int) -> None:
    """Compare the file with a model made for it, once for all cells of a process."""
    _fitting(Classifier(architecture, 2, resolution), path)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file."""
    try:
        with safe_open(path, framework="pt") as opened:
            names = opened.keys()
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"{path} is no safetensors file ({error}). Pickled weights (.pth, .pt, .bin, .tar) are "
            "not read, for unpickling can run code; convert them once: tensors = "
            "torch.load(FILE, map_location='cpu', weights_only=True), the state dict in it if it "
            "is nested, then safetensors.torch.save_file(tensors, 'weights.safetensors')"
        ) from error


def _fitting(model: Classifier, path: Path) -> list[str]:
    """The names to load into the backbone: every one of its tensors, each with its shape."""
    base = model.architecture.split(".")[0]
    wanted = {name: tuple(t.shape) for name, t in model.backbone.state_dict().items()}
    found = _shapes(path)
    own = {name for name in wanted if name.startswith(_OWN_LAYERS.get(base, ()))}
    # BatchNorm's count of batches has no effect, and weights saved by old versions lack it.
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}
    absent = needed - found.keys() - (own if own.isdisjoint(found) else set())
    left_out = _head(model.architecture, wanted)
    foreign = {
        name
        for name in found.keys() - wanted.keys() - left_out
        if not name.startswith(_LEFT_OUT.get(base, ()))
    }
    common = [name for name in wanted if name in found]
    misshapen = [f"{n} {found[n]} for {wanted[n]}" for n in common if found[n] != wanted[n]]
    problems = [
        f"{len(each)} {what}: {_some(each)}"
        for what, each in (
            ("of its tensors are missing", sorted(absent)),
            ("are unknown to it", sorted(foreign)),
            ("have another shape", misshapen),
        )
        if each
    ]
    if problems:
        raise RequestError(
            f"the weights in {path} do not fit {model.architecture!r} at {model.resolution}×"
            f"{model.resolution}, which has {len(wanted)} tensors beside its head; "
            f"{'; '.join(problems)}. Names and shapes must be those of timm's {base} "
            "(its state_dict, with any head or none)"
        )
    return common


def _head(architecture: str, backbone: Iterable[str]) -> set[str]:
    """Names of timm's architecture that the backbone of a classifier leaves out."""
    with torch.device("meta"):  # names only: no memory, no random numbers
        whole = timm.create_model(architecture, num_classes=1)
    return set(whole.state_dict()) - set(backbone)


def _some(names: list[str], at_most: int = 3) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
