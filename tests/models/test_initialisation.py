"""Where weights start: what is loaded, what is refused and when, and that no network is asked."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import vgg16_bn

from mibench.cell.request import Request
from mibench.cell.resolve import check, resolve
from mibench.errors import RequestError
from mibench.models.classifiers import Classifier
from mibench.models.initialisation import Initialisation, check_initialisation, initialise

IMAGENET = Initialisation(source="imagenet")
SCRATCH = Initialisation()
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "hub"


def put(cache: Path, repository: str, tensors: Weights) -> Path:
    """Lay a file into the cache as huggingface_hub does; returns its path."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    path = folder / "snapshots" / commit / "model.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def weights(architecture: str, seed: int = 1, **options: Any) -> Weights:
    """All tensors of a timm model, normalisation's statistics included, at random."""
    generator = torch.Generator().manual_seed(seed)
    state = timm.create_model(architecture, **options).state_dict()
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }


def convolutions() -> Weights:
    """VGG16's convolutions under torchvision's names."""
    with torch.device("meta"):
        shapes = {n: v.shape for n, v in vgg16_bn().state_dict().items() if "features" in n}
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for name, shape in shapes.items()
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file(path: Path, tensors: Weights) -> Initialisation:
    save_file(tensors, path)
    return Initialisation(source="file", path=str(path), sha256=sha256(path))


def equal(model: Classifier, tensors: Weights) -> bool:
    """Whether every tensor of the backbone is the one of that name."""
    state = model.backbone.state_dict()
    return all(torch.equal(value, tensors[name]) for name, value in state.items())


@pytest.mark.parametrize(
    "architecture",
    ["test_resnet", "test_efficientnet", "test_byobnet", "densenet121", "mobilenetv3_small_050"],
)
def test_imagenet_weights_are_loaded_from_the_cache(architecture: str, cache: Path) -> None:
    tensors = weights(architecture)
    config = timm.get_pretrained_cfg(architecture)
    path = put(cache, config.hf_hub_id, tensors)
    assert check_initialisation(architecture, IMAGENET, 32) == sha256(path)
    model = Classifier(architecture, 4, 32)
    head = model.head.weight.clone()
    assert not equal(model, tensors)
    assert initialise(model, IMAGENET) is model
    assert equal(model, tensors)
    assert torch.equal(model.head.weight, head)
    # The input is scaled as these weights expect it.
    assert model.mean.flatten().tolist() == pytest.approx(config.mean)
    assert model.std.flatten().tolist() == pytest.approx(config.std)


def test_inception_is_loaded_without_its_auxiliary_classifier(cache: Path) -> None:
    tensors = weights("inception_v3", aux_logits=True)
    put(cache, "timm/inception_v3.tv_in1k", tensors)
    model = initialise(Classifier("inception_v3", 4, 96), IMAGENET)
    assert equal(model, tensors)
    gray = torch.full((1, 3, 2, 2), 0.75)
    torch.testing.assert_close(model.normalise(gray), torch.full((1, 3, 2, 2), 0.5))


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
def test_vgg16_bn_mi_takes_the_convolutions_of_vgg16_bn(layout: str, cache: Path) -> None:
    convolutional = convolutions()
    head = {"timm": ("pre_logits.fc1", "head.fc"), "torchvision": ("classifier.0", "classifier.6")}
    more = {f"{name}.weight": torch.ones(2, 2) for name in head[layout]}
    if layout == "torchvision":  # its file is older than the count of batches
        convolutional = {k: v for k, v in convolutional.items() if "num_batches" not in k}
    path = put(cache, "timm/vgg16_bn.tv_in1k", convolutional | more)
    assert check_initialisation("vgg16_bn_mi", IMAGENET, 64) == sha256(path)
    torch.manual_seed(0)
    model = initialise(Classifier("vgg16_bn_mi", 4, 64), IMAGENET)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in convolutional.items())
    # What the file lacks is as it was.
    torch.manual_seed(0)
    fresh = Classifier("vgg16_bn_mi", 4, 64)
    torch.testing.assert_close(model.backbone.bn.state_dict(), fresh.backbone.bn.state_dict())
    torch.testing.assert_close(model.head.state_dict(), fresh.head.state_dict())
    assert model.mean.flatten().tolist() == pytest.approx((0.485, 0.456, 0.406))


def test_a_whole_vgg16_bn_mi_is_loaded_with_its_own_layer(tmp_path: Path) -> None:
    own = weights("vgg16_bn_mi", num_classes=0)
    model = initialise(Classifier("vgg16_bn_mi", 4, 64), file(tmp_path / "w.safetensors", own))
    assert equal(model, own)
    del own["bn.running_var"]  # part of it is a mistake
    with pytest.raises(RequestError, match=r"1 of its tensors are missing: bn\.running_var"):
        check_initialisation("vgg16_bn_mi", file(tmp_path / "v.safetensors", own), 64)


def test_the_papers_scale_can_be_asked_for(cache: Path) -> None:
    put(cache, "timm/vgg16_bn.tv_in1k", convolutions())
    how = Initialisation(source="imagenet", mean=(0, 0, 0), std=(1, 1, 1))
    model = initialise(Classifier("vgg16_bn_mi", 4, 32), how)
    batch = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.normalise(batch), batch)
    # It travels with the stored weights.
    other = Classifier("vgg16_bn_mi", 4, 32)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.normalise(batch), batch)


@pytest.mark.parametrize("head", ["as in timm", "of other classes", "none"])
def test_a_file_may_hold_any_head(tmp_path: Path, head: str) -> None:
    classes = {"as in timm": 1000, "of other classes": 7, "none": 0}[head]
    tensors = weights("test_resnet", num_classes=classes)
    how = file(tmp_path / "face.safetensors", tensors)
    assert check_initialisation("test_resnet", how, 32) == how.sha256
    assert equal(initialise(Classifier("test_resnet", 4, 32), how), tensors)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    tensors = {
        name: value.half() if value.is_floating_point() else value
        for name, value in weights("test_resnet").items()
    }
    model = initialise(Classifier("test_resnet", 4, 32), file(tmp_path / "h.safetensors", tensors))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert equal(model, {name: value.float() for name, value in tensors.items()})


def test_scratch_changes_nothing() -> None:
    model = Classifier("test_resnet", 4, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert check_initialisation("test_resnet", SCRATCH, 32) == "scratch"
    initialise(model, SCRATCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    model = Classifier("test_resnet", 4, 32)
    how = file(tmp_path / "w.safetensors", weights("test_resnet"))
    before = torch.get_rng_state()
    initialise(model, how)
    assert torch.equal(torch.get_rng_state(), before)


def test_absent_imagenet_weights_are_an_error_that_says_how_to_get_them(cache: Path) -> None:
    message = (
        r"'vgg16_bn_mi' are not on this machine: timm/vgg16_bn\.tv_in1k is not in .*hub\. .*"
        r"`hf download timm/vgg16_bn\.tv_in1k model\.safetensors`.*models--timm--vgg16_bn\.tv_in1k"
    )
    with pytest.raises(RequestError, match=message) as caught:
        check_initialisation("vgg16_bn_mi", IMAGENET, 64)
    assert str(cache) in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(RequestError, match=message):
        initialise(Classifier("vgg16_bn_mi", 4, 32), IMAGENET)


def test_all_absent_weights_are_named_at_once(cache: Path) -> None:
    with pytest.raises(RequestError) as caught:
        check(resolve(Request(protocol="celeba-64", attack="improved-gmi")))
    lines = str(caught.value).splitlines()
    names = [line.split("'")[1] for line in lines]
    assert names[0] == "vgg16_bn_mi"
    assert sorted(names[1:4]) == ["efficientnet_b0", "efficientnet_b1", "efficientnet_b2"]
    assert sorted(names[4:]) == ["convnext_pico", "regnety_016"]


def test_a_download_that_was_broken_off_is_absent(cache: Path) -> None:
    path = put(cache, "timm/test_resnet.r160_in1k", {})
    path.unlink()
    with pytest.raises(RequestError, match="not on this machine"):
        check_initialisation("test_resnet", IMAGENET, 32)


# Weights of another pretraining, and none at all.
@pytest.mark.parametrize("architecture", ["aimv2_large_patch14_224", "resnet50t"])
def test_only_imagenet_weights_are_called_so(architecture: str) -> None:
    with pytest.raises(RequestError, match=f"no ImageNet weights of '{architecture}'"):
        check_initialisation(architecture, IMAGENET, 224)


def test_an_unknown_architecture_is_refused_with_close_names() -> None:
    with pytest.raises(RequestError, match=r"did you mean .*vgg16_bn_mi"):
        check_initialisation("vgg16_bn_m", SCRATCH, 64)


def test_an_absent_file_is_an_error_that_names_place_and_hash(tmp_path: Path) -> None:
    how = Initialisation(source="file", path=str(tmp_path / "ir.safetensors"), sha256="a" * 64)
    with pytest.raises(RequestError, match=rf"{tmp_path}/ir\.safetensors is no file.*{'a' * 64}"):
        check_initialisation("test_resnet", how, 32)


@pytest.mark.parametrize("source", ["file", "imagenet"])
def test_other_weights_than_the_pinned_ones_are_refused(
    source: Any, tmp_path: Path, cache: Path
) -> None:
    tensors = weights("test_resnet")
    path = put(cache, "timm/test_resnet.r160_in1k", tensors)
    place = str(path) if source == "file" else None
    how = Initialisation(source=source, path=place, sha256="b" * 64)
    with pytest.raises(RequestError, match=f"has SHA-256 {sha256(path)}, but .* pins {'b' * 64}"):
        check_initialisation("test_resnet", how, 32)
    with pytest.raises(RequestError, match="pins"):
        initialise(Classifier("test_resnet", 4, 32), how)


def test_a_file_that_changes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    how = file(path, weights("test_resnet"))
    check_initialisation("test_resnet", how, 32)
    save_file(weights("test_resnet", seed=5) | {"more": torch.ones(1)}, path)
    with pytest.raises(RequestError, match="pins"):
        check_initialisation("test_resnet", how, 32)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_are_refused_unread(tmp_path: Path, legacy: bool) -> None:
    class Trap:
        """Unpickling it would leave a trace."""

        def __reduce__(self) -> tuple[Callable, tuple]:
            return Path.touch, (tmp_path / "trace",)

    path = tmp_path / "ir152.pth"
    torch.save({"weight": Trap()}, path, _use_new_zipfile_serialization=not legacy)
    how = Initialisation(source="file", path=str(path), sha256=sha256(path))
    with pytest.raises(RequestError, match=r"no safetensors.*weights_only=True.*save_file"):
        check_initialisation("test_resnet", how, 32)
    assert not (tmp_path / "trace").exists()


def renamed(tensors: Weights) -> Weights:
    return {f"module.{name}": value for name, value in tensors.items()}


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


MISTAKES: list[tuple[Callable[[Weights], Weights], str]] = [
    (without("bn1.weight", "bn1.bias"), r"2 of its tensors are missing: bn1\.bias, bn1\.weight"),
    (
        lambda tensors: tensors | {"odd.weight": torch.ones(1)},
        r"head; 1 are unknown to it: odd\.weight\. Names",
    ),
    (
        lambda tensors: tensors | {"bn1.weight": torch.ones(3)},
        r"head; 1 have another shape: bn1\.weight \(3,\) for \(\d+,\)\. Names",
    ),
    (renamed, r"missing: bn1\.bias, .* and \d+ more; \d+ are unknown to it: module\..* more\. "),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_weights_that_do_not_fit_are_refused_name_by_name(
    change: Callable[[Weights], Weights], message: str, tmp_path: Path
) -> None:
    how = file(tmp_path / "w.safetensors", change(weights("test_resnet")))
    with pytest.raises(RequestError, match=message):
        check_initialisation("test_resnet", how, 32)
    model = Classifier("test_resnet", 4, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RequestError, match=message):
        initialise(model, how)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_shapes_are_checked_at_the_resolution_asked_for(tmp_path: Path) -> None:
    how = file(tmp_path / "w.safetensors", weights("test_vit", img_size=64))
    check_initialisation("test_vit", how, 64)
    with pytest.raises(RequestError, match=r"'test_vit' at 32×32.*1 have another shape: pos_embed"):
        check_initialisation("test_vit", how, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "file", "path": "w"}, "`path` and `sha256`"),
        ({"source": "file", "sha256": "a" * 64}, "`path` and `sha256`"),
        ({"source": "file", "path": "w", "sha256": "A" * 64}, "pattern"),
        ({"source": "imagenet", "path": "w"}, "for source `file`"),
        ({"source": "scratch", "sha256": "a" * 64}, "from scratch there is no file"),
        ({"mean": (0, 0, 0)}, "`mean` and `std`, or neither"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "`std` must be at least 1e-6"),
        ({"source": "random"}, "scratch"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Initialisation.model_validate(fields)


def test_what_identifies_a_start_is_not_where_the_file_lies() -> None:
    one = Initialisation(source="file", path="a", sha256="a" * 64, note="MS-Celeb-1M")
    other = Initialisation(source="file", path="b", sha256="a" * 64)
    assert one.identity("a" * 64) == other.identity("a" * 64)
    assert one.identity("a" * 64) != one.identity("b" * 64)
    scaled = Initialisation(mean=(0, 0, 0), std=(1, 1, 1))
    assert scaled.identity("scratch") != SCRATCH.identity("scratch")
    assert SCRATCH.identity("scratch") == {
        "source": "scratch",
        "weights": "scratch",
        "mean": None,
        "std": None,
    }
