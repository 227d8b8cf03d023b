"""Train a torchvision ResNet-18 on a folder of pictures, as anyone would, without mibench.

    python tools/train_outside.py FOLDER --out resnet18.pth --epochs 15

FOLDER has a sub-folder for each person; classes are the sorted names. The weights are saved as a
state dict, for ``mibench audit`` to be tried on a network that it did not train:

    mibench audit --model FILE.py:build --weights resnet18.pth --mean .5 .5 .5 --std .25 .25 .25 ...

where the file holds ``def build(): return torchvision.models.resnet18(num_classes=N)``.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def main() -> None:
    """Train, print the loss of each epoch, and save the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--out", default="resnet18.pth")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    size = arguments.size
    look = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.8, 1), ratio=(0.9, 1.1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    pictures = ImageFolder(arguments.folder, look)
    loader = torch.utils.data.DataLoader(pictures, arguments.batch, shuffle=True, drop_last=True)
    network = resnet18(num_classes=len(pictures.classes))
    steps = arguments.epochs * len(loader)
    optimizer = torch.optim.AdamW(network.parameters(), arguments.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.learning_rate, steps)
    for epoch in range(arguments.epochs):
        start, total, right = time.monotonic(), 0.0, 0
        for images, labels in loader:
            logits = network(images)
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            right += int((logits.argmax(1) == labels).sum())
        print(
            f"epoch {epoch + 1}: loss {total / len(loader):.3f}, right on "
            f"{right / (len(loader) * arguments.batch):.1%} of the training images, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
    torch.save(network.state_dict(), arguments.out)


if __name__ == "__main__":
    main()
