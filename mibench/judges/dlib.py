"""dlib's face descriptor, as the packages dlib-bin and face_recognition_models bring it.

It was trained on about three million photographs of 7,485 people, celebrities for the most part:
private identities and decoys of a set of celebrities may both be among them.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mibench.assets import Asset
from mibench.errors import ArtifactError, RequestError
from mibench.files import sha256
from mibench.judges import Judge, register_judge
from mibench.models.resize import resize

_CHIP = 150  # pixels of a side, that the network takes
_WEIGHTS = "models/dlib_face_recognition_resnet_model_v1.dat"
_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


@register_judge("dlib")
class DlibJudge(Judge):
    """A residual network of 29 layers that gives 128 numbers of a face, on the CPU.

    References:
        King, "High Quality Face Recognition with Deep Metric Learning", dlib.net, 2017. The weights
        are in the public domain.
    """

    title = "dlib's face descriptor, for photographs of faces (the extra `faces`)"
    descriptor: Any

    @classmethod
    def absent(cls) -> str | None:
        """See :meth:`mibench.judges.Judge.absent`."""
        lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if lacking:
            return f"{_PACKAGES[lacking[0]]} is not installed: pip install 'mibench[faces]'"
        return None

    @classmethod
    def restored(cls, network: Asset | None) -> DlibJudge:
        """See :meth:`mibench.judges.Judge.restored`."""
        if network is not None:
            raise RequestError("a judge of kind 'dlib' brings its weights: leave `network` out")
        if absent := cls.absent():
            raise RequestError(f"the judge 'dlib': {absent}")
        spec = importlib.util.find_spec("face_recognition_models")
        assert spec is not None  # it is not absent
        path = Path(next(iter(spec.submodule_search_locations or ()))) / _WEIGHTS
        if not path.is_file() or sha256(path) != _SHA256:
            raise ArtifactError(
                f"{path} is not the file that mibench knows: pip install --force-reinstall "
                "face_recognition_models"
            )
        judge = cls({}, {})
        judge.descriptor = importlib.import_module("dlib").face_recognition_model_v1(str(path))
        return judge

    def build(self) -> nn.Module:
        """Nothing of torch's: dlib holds the network."""
        return nn.Identity()

    def embed(self, images: Tensor) -> Tensor:
        """128 numbers of each image, which is taken for the whole of a face, enlarged to 150."""
        chips = (resize(images, _CHIP) * 255).round().clamp(0, 255).to(torch.uint8)
        chips = chips.permute(0, 2, 3, 1).contiguous().cpu()
        found = np.array(self.descriptor.compute_face_descriptor([*chips.numpy()]))
        return torch.from_numpy(found).to(images.device, torch.float32)


# What is imported, and what it is installed by.
_PACKAGES = {"dlib": "dlib-bin", "face_recognition_models": "face_recognition_models"}
