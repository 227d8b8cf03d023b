"""Networks: targets and evaluators, generators and critics, and what is done to them."""

# Registers the architecture vgg16_bn_mi with timm, before anyone asks timm for it.
from mibench.models import vgg_mi

__all__ = ["vgg_mi"]
