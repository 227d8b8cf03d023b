"""Judges that are a timm architecture with a linear embedding, as tools/make_judges.py trains."""

from __future__ import annotations

from torch import Tensor

from mibench.judges import Judge, register_judge
from mibench.judges.evaluators.classifier import ResizingClassifier


@register_judge("embedding")
class EmbeddingJudge(Judge):
    """A timm architecture whose last layer gives the embedding."""

    title = "A timm architecture with a linear embedding"
    network: ResizingClassifier

    def build(self) -> ResizingClassifier:
        """The architecture, resolution and size of the embedding that the asset states."""
        said = self.description
        return ResizingClassifier(said["architecture"], said["dimensions"], said["resolution"])

    def embed(self, images: Tensor) -> Tensor:
        """The last layer's outputs."""
        return self.network(images)
