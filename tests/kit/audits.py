"""A network that was trained outside of mibench, in a second, on folders of rendered faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mibench.data.images import ImageSet
from mibench.data.rendered import SynthFacesData, render_dataset
from mibench.streams import seeded
from tests.kit.tiny_folder import save_people

PEOPLE, SIZE = 4, 32
DATA = SynthFacesData(
    private_name="audited",
    public_name="audited",
    identities=PEOPLE,
    train=8,
    val=1,
    test=3,
    public_identities=12,
    public_images=4,
)
SETTINGS: dict[str, Any] = {
    "protocol.samples": 4,
    "protocol.judges": [],
    "protocol.evaluator.architecture": "test_efficientnet",
    "protocol.evaluator.resolution": 32,
    "protocol.evaluator.training.epochs": 1,
    "protocol.second.architecture": "test_convnext",
    "protocol.second.resolution": 32,
    "protocol.second.training.epochs": 1,
    "protocol.gan.steps": 3,
    "protocol.gan.batch_size": 8,
    "protocol.gan.latent": 16,
    "protocol.gan.generator_width": 4,
    "protocol.gan.critic_width": 8,
    "protocol.students.architectures": ["test_byobnet"],
    "protocol.students.training.epochs": 1,
}
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.1),
        )
        self.head = nn.Linear(512, {people})

    def forward(self, images):
        return self.head(self.body(images))


def build():
    return Net()


def loaded():
    net = Net()
    net.load_state_dict(torch.load("{weights}", weights_only=True))
    return net.eval()


@torch.no_grad()
def scores(images):
    return loaded()((images - 0.5) / 0.5).softmax(1)


def labels(images):
    return scores(images).argmax(1)
"""
PRIOR = """
import torch
from torch import nn


class Blobs(nn.Module):
    latent = 6

    def __init__(self):
        super().__init__()
        self.colours = nn.Linear(6, 3 * 8 * 8)

    def forward(self, z):
        return self.colours(z).sigmoid().unflatten(1, (3, 8, 8))


def build():
    torch.manual_seed(0)
    return Blobs()


class Signed(Blobs):
    def forward(self, z):
        return super().forward(z) * 2 - 1


class Bytes(Blobs):
    def forward(self, z):
        return super().forward(z) * 255


class Dark(Blobs):
    def forward(self, z):
        return super().forward(z) / 255


class Nan(Blobs):
    def forward(self, z):
        return super().forward(z) * float("nan")


class Same(Blobs):
    def forward(self, z):
        return super().forward(z * 0)


class Grey(Blobs):
    def forward(self, z):
        return super().forward(z)[:, :1]


class Noisy(Blobs):
    def forward(self, z):
        return (super().forward(z) + 0.1 * torch.rand(len(z), 1, 1, 1)).clamp(0, 1)
"""


def trained(images: ImageSet) -> tuple[nn.Module, str]:
    """A network that is sure of the people, on inputs in [-1, 1], and its source."""
    space: dict[str, Any] = {}
    source = MODEL.replace("{people}", str(PEOPLE))
    exec(source, space)
    with seeded(0):
        net: nn.Module = space["Net"]().train()
        adam = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(60):
            loss = nn.functional.cross_entropy(net(scaled(images.images)), images.labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return net.eval(), source


def scaled(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.5


def make_audit(root: Path) -> Path:
    """All that an audit takes.

    ``private``, ``public`` and ``decoys``; ``flat``, pictures without labels; ``model.py`` and
    ``weights.safetensors``; ``prior.py``.
    """
    data = render_dataset(DATA, SIZE)
    save_people(root / "private", [data.train, data.val, data.test], "person{:02d}")
    others = data.public
    save_people(root / "public", [others.select(others.labels < 8)], "public{:02d}")
    save_people(root / "decoys", [others.select(others.labels >= 8)], "stranger{:02d}")
    (root / "flat").mkdir()
    for number, image in enumerate(others.images[others.labels < 8]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "flat" / f"{number:03d}.png")
    net, source = trained(data.train)
    save_file(dict(net.state_dict()), root / "weights.safetensors")
    torch.save(net.state_dict(), root / "weights.pth")
    (root / "model.py").write_text(source.replace("{weights}", str(root / "weights.pth")))
    (root / "prior.py").write_text(PRIOR)
    return root


def said(root: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of an audit; None takes one away."""
    fields = {
        "model": f"{root / 'model.py'}:build",
        "weights": str(root / "weights.safetensors"),
        "images": str(root / "private"),
        "public": str(root / "public"),
        "size": SIZE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}
