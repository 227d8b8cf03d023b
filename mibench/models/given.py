"""A network that somebody else trained, behind the interface of a classifier.

It is a timm architecture, what a function of a file returns, a TorchScript or ``torch.export``
file, or, where an attack is to see its answers alone, any function from images to these. Such files
are programs, which run. Weights are data: they are read from safetensors, or from a state dict that
holds tensors alone, and nothing of them is unpickled that could run code.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mibench.errors import RequestError
from mibench.files import user_path
from mibench.models.classifiers import Classifier, Outputs, check_architecture
from mibench.registry import named_in_file
from mibench.settings import shown
from mibench.types import Answers, GivenModel, GivenPrior, Triple

_SURE = 1e4  # of the logit of a label that a function answers, beside 0 for all others
_NO_SCORE = 1e-30  # what is taken for a score of 0, whose logarithm no network computes with
_SAME = 1e-3  # of the largest logit: by so much an image's answer may move with its batch mates
# Names that wrappers put before those of a state dict.
_WRAPPERS = ("module.", "_orig_mod.")
_NESTED = ("state_dict", "model_state_dict", "model", "net")  # under which checkpoints hold it


def files_of(given: GivenModel | GivenPrior) -> tuple[Path, ...]:
    """The files that a network consists of; their content identifies it.

    Raises:
        RequestError: one is not there.
    """
    found = [given.weights] if given.weights else []
    if ".py:" in given.model:
        found.append(given.model.rpartition(":")[0])
    if isinstance(given, GivenModel) and given.exported:
        found.append(given.model)
    return tuple(_regular(each, "the file") for each in found)


class GivenClassifier(Classifier):
    """A network of others' with its normalisation, frozen: what it was trained with is not known.

    Args:
        network: images as it expects them to logits ``(n, classes)``.
        given: what was said of it.
        classes: how many it tells apart.
        mean, std: of each channel of images in [0, 1], as it expects them.

    Features are what its last linear layer reads, where its logits are what that returns; of other
    networks they have no columns.
    """

    def __init__(
        self, network: nn.Module, given: GivenModel, classes: int, mean: Triple, std: Triple
    ) -> None:
        nn.Module.__init__(self)  # there is no timm backbone to build
        self.architecture, self.classes, self.resolution = given.label, classes, given.size
        self.given, self.stochastic, self.channels = given, given.stochastic, given.channels
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.last: str | None = None  # name of the last linear layer
        self.eval().requires_grad_(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] on the scale, and in the order of channels, that the network expects."""
        if self.channels == "bgr":
            images = images.flip(1)
        return super().normalise(images)

    def expecting(self, channels: str, mean: Triple, std: Triple) -> GivenClassifier:
        """The same network, were it given other inputs."""
        said = {"channels": channels, "mean": mean, "std": std}
        other = self.given.model_copy(update=said)
        found = GivenClassifier(self.network, other, self.classes, mean, std)
        return found.to(self.mean.device)

    def train(self, mode: bool = True) -> GivenClassifier:
        """It stays as it was deployed: exported networks have no mode to change."""
        self.training = False
        with contextlib.suppress(NotImplementedError):
            self.network.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> GivenClassifier:
        """As of any module; TorchScript's has no such method."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def outputs(self, images: Tensor, stages: bool = False) -> Outputs:
        """Logits and features; stage outputs are not known."""
        seen: list[Tensor] = []
        handle = None
        if self.last is not None:
            layer = self.network.get_submodule(self.last)
            handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(self.normalise(images))
        finally:
            if handle is not None:
                handle.remove()
        return Outputs(logits, seen[-1] if seen else images.new_zeros(len(images), 0))


class _Asked(nn.Module):
    """A function that answers scores or labels, as a network of logits without gradients."""

    def __init__(self, answer: Callable[[Tensor], Any], answers: Answers, classes: int) -> None:
        super().__init__()
        self.answer, self.answers, self.classes = answer, answers, classes

    def __deepcopy__(self, memo: dict[int, Any]) -> _Asked:
        return self  # it holds nothing that a copy could change

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        said = self.answer(images.detach().cpu())
        found = said if isinstance(said, Tensor) else torch.as_tensor(said)
        found = found.to(images.device)
        if self.answers == "scores":
            if found.shape != (len(images), self.classes):
                return found  # which the check refuses
            if not found.isfinite().all() or found.min() < 0 or found.max() > 1 + 1e-4:
                raise RequestError(
                    "the function's scores are not all in [0, 1]: return probabilities, or have "
                    "a network that returns logits audited as one (--answers logits)"
                )
            return found.to(torch.float32).clamp_min(_NO_SCORE).log()
        if found.shape != (len(images),) or found.is_floating_point():
            raise RequestError(
                f"the function answers {_form(found)} for {len(images)} images: labels are "
                f"integers of shape ({len(images)},)"
            )
        if found.min() < 0 or found.max() >= self.classes:
            raise RequestError(
                f"the function answers labels from {int(found.min())} to {int(found.max())}: "
                f"{self.classes} classes have 0 to {self.classes - 1}"
            )
        return nn.functional.one_hot(found.long(), self.classes).to(torch.float32) * _SURE


def load_given(given: GivenModel, classes: int) -> GivenClassifier:
    """The network that is meant, on the CPU, in evaluation mode; :func:`check_given` looks at it.

    Args:
        classes: how many it is said to tell apart.

    Raises:
        RequestError: it cannot be found, built or loaded; the message says what to do.
    """
    mean, std = given.mean or (0.0, 0.0, 0.0), given.std or (1.0, 1.0, 1.0)
    if given.answers != "logits":
        asked = _Asked(_function(given.model), given.answers, classes)
        return GivenClassifier(asked, given, classes, mean, std)
    network: nn.Module
    if given.exported:
        network = _whole(given)
    elif given.of_file:
        network = built(given.model, given.weights, classes)
    else:
        check_architecture(given.model)
        network = timm.create_model(given.model, num_classes=classes)
        if given.mean is None:
            config: Mapping[str, Any] = network.default_cfg  # type: ignore[assignment]
            mean, std = tuple(config["mean"]), tuple(config["std"])
        if given.weights is None:
            raise RequestError(
                f"--model {given.model}: an architecture of timm needs the weights that you "
                "trained: --weights FILE"
            )
        _fill(network, given.weights, classes)
    return GivenClassifier(network, given, classes, mean, std)


def built(spec: str, weights: str | None, classes: int | None = None) -> nn.Module:
    """The network that a function of a file returns, with weights.

    Args:
        spec: ``FILE.py:function``.
        weights: their file; None: the function has loaded them.
        classes: how many a classifier is said to tell apart, for a message.

    Raises:
        RequestError: it cannot be built, or the weights are not its own.
    """
    build = _function(spec)
    try:
        network = build()
    except TypeError as error:
        advice = " One that takes images and answers is audited with --answers scores or labels"
        raise RequestError(
            f"{spec}: the function is called without arguments and returns the network ({error})."
            + (advice if classes is not None else "")
        ) from error
    except (Exception, SystemExit) as error:
        raise RequestError(f"{spec} fails: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise RequestError(
            f"{spec}: the function returned {type(network).__name__}, not a torch.nn.Module"
        )
    if weights is not None:
        _fill(network, weights, classes)
    return network.eval().requires_grad_(False)


def state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or of a checkpoint that holds tensors alone.

    A checkpoint may hold the state dict under ``state_dict`` or ``model``, beside other things.
    Prefixes of wrappers (``module.``) are taken off.

    Raises:
        RequestError: it is neither, or is damaged.
    """
    try:
        tensors: Any = load_file(path)
    except (SafetensorError, OSError):
        tensors = _unpickled(path)
    for name in _NESTED:
        if isinstance(tensors, Mapping) and isinstance(tensors.get(name), Mapping):
            tensors = tensors[name]
    if not isinstance(tensors, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        raise RequestError(
            f"{path} holds no state dict: it needs tensors by name, alone or under "
            f"{' or '.join(map(repr, _NESTED[:2]))}; save model.state_dict()"
        )
    found = dict(tensors)
    for prefix in _WRAPPERS:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged archive: RuntimeError, EOFError, KeyError and others
        refused = "weights_only" in str(error).lower() or "unsupported" in str(error).lower()
        why = (
            "it holds more than tensors, and unpickling that can run any code"
            if refused
            else f"it is damaged, or of another kind ({type(error).__name__})"
        )
        raise RequestError(
            f"{path} is not read: {why}. Save the tensors alone where you trust the file: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error


def _fill(network: nn.Module, name: str, classes: int | None) -> None:
    tensors = state_dict(_regular(name, "the weights"))
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    absent = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    foreign = [k for k in found if k not in wanted]
    misshapen = [f"{k} {found[k]} for {wanted[k]}" for k in wanted.keys() & found.keys()
                 if found[k] != wanted[k]]  # fmt: skip
    problems = [
        f"{len(each)} {what}: {', '.join(sorted(each)[:3])}" + " …" * (len(each) > 3)
        for what, each in (
            ("tensors are missing", absent),
            ("are unknown to it", foreign),
            ("have another shape", misshapen),
        )
        if each
    ]
    if problems:
        hint = ""
        if classes is not None and misshapen and not absent and not foreign:
            hint = (
                f" It is built for {classes} classes, one for each person with pictures: are these "
                "as many as it was trained on (--classes)?"
            )
        raise RequestError(f"{name} does not fit the model; {'; '.join(problems)}.{hint}")
    network.load_state_dict(tensors, strict=False)  # all names were compared


def _whole(given: GivenModel) -> nn.Module:
    """The network of a TorchScript or ``torch.export`` file."""
    path = _regular(given.model, "the model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that TorchScript is of the past
            if given.exported == ".pt2":
                return cast(nn.Module, torch.export.load(path).module())
            return cast(nn.Module, torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]
    except Exception as error:
        form = "torch.export" if given.exported == ".pt2" else "TorchScript"
        raise RequestError(
            f"{path} is no {form} file that this torch {torch.__version__} reads "
            f"({type(error).__name__}). A state dict goes with --weights, beside --model NAME or "
            "FILE.py:function"
        ) from error


def _function(spec: str) -> Callable[..., Any]:
    module, name = named_in_file(spec, "the file", "build")
    found = getattr(module, name, None)
    if not callable(found):
        raise RequestError(f"{spec}: the file has no function {shown(name)}")
    return cast("Callable[..., Any]", found)


@torch.no_grad()
def check_given(model: GivenClassifier, images: Tensor) -> GivenClassifier:
    """Look at a few answers, before any long work, and find the last linear layer.

    Args:
        images: some ``(n, 3, h, w)`` in [0, 1], two at least.

    Returns:
        ``model``, which now gives features where it can.

    Raises:
        RequestError: answers have another shape, are not finite, or depend on the batch.
    """
    name = model.architecture
    try:
        logits = _answer(model, images)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"{name} fails on images of shape {tuple(images.shape)}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. Is --size the height and width "
            "that it was trained with?"
        ) from error
    if logits.ndim != 2 or len(logits) != len(images):
        raise RequestError(
            f"{name} answers {_form(logits)} for {len(images)} images: wanted is a tensor "
            f"({len(images)}, {model.classes}) of logits"
        )
    if logits.shape[1] != model.classes:
        raise RequestError(
            f"{name} tells {logits.shape[1]} classes apart, and the images are of {model.classes} "
            "people: list all its classes in order by --classes FILE"
        )
    if not logits.isfinite().all():
        raise RequestError(
            f"{name} answers values that are not finite: are its weights whole, and --mean and "
            "--std those that it was trained with?"
        )
    scale = logits.abs().max().clamp_min(1e-6)
    again = _answer(model, images)
    if not model.stochastic and (logits - again).abs().max() / scale > _SAME:
        raise RequestError(
            f"{name} answers the same images in two ways: dropout is active, as in train mode. "
            "Call model.eval() before the network is saved or returned; if the deployed network "
            "draws noise on purpose, say so by --stochastic"
        )
    alone = torch.cat([_answer(model, image[None]) for image in images])
    if not model.stochastic and (logits - alone).abs().max() / scale > _SAME:
        raise RequestError(
            f"{name} answers an image in another way when others are in its batch: BatchNorm takes "
            "statistics of the batch, as in train mode. Call model.eval() before the network is "
            "saved or returned"
        )
    model.last = _last_linear(model, images)
    return model


def _answer(model: GivenClassifier, images: Tensor) -> Tensor:
    found = model(images)
    if not isinstance(found, Tensor):
        raise RequestError(
            f"{model.architecture} returns {type(found).__name__}, not a tensor of logits: wrap it "
            "in a module that returns these"
        )
    return found


def _last_linear(model: GivenClassifier, images: Tensor) -> str | None:
    """The linear layer whose output the logits are; None where there is none."""
    made: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: made.append((name, output))

    layers = {n: m for n, m in model.network.named_modules() if isinstance(m, nn.Linear)}
    handles = [each.register_forward_hook(watch(name)) for name, each in layers.items()]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name, output in made if output is logits]
    return found[0] if found and [name for name, _ in made].count(found[0]) == 1 else None


def _regular(name: str, what: str) -> Path:
    path = user_path(name, what)
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "is no file that can be read"
        raise RequestError(f"{what} {path} {there if path.exists() else 'is not there'}")
    return path


def _form(found: Tensor) -> str:
    return f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
