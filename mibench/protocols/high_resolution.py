"""The high-resolution setting of "Plug & Play Attacks" (Struppek et al., ICML 2022; "PPA").

Sources: the paper, and the configurations in its released code. Its prior, StyleGAN2 trained on
FFHQ at 1024×1024, comes as a pickle, which this suite does not read: a convolutional GAN trained on
the same pictures at 224×224 stands in for it, and the numbers do not compare with the published
ones.
"""

from __future__ import annotations

from typing import Any

from mibench.data.identity_division import IdentityDivision
from mibench.judges.evaluators import EvaluatorConfig
from mibench.models.initialisation import Initialisation
from mibench.priors import GanConfig
from mibench.protocols._card import Protocol
from mibench.protocols.papers import CELEBA, DRAWN
from mibench.protocols.small import DLIB
from mibench.training.loop import TrainingConfig
from mibench.training.students import StudentsConfig

# Targets and evaluator alike: Adam, step 0.001, batches of 128, 100 epochs, from ImageNet weights.
_TRAINING = TrainingConfig(
    epochs=100, batch_size=128, optimizer="adam", learning_rate=1e-3, weight_decay=0.0
)
_STUDENTS = ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2")
_TARGETS = ("resnet18", "resnet152", "densenet169", "resnest101e")
_JUDGES = ("inception_v3", "convnext_tiny")
_SETTING: dict[str, Any] = {
    "resolution": 224,
    "samples": 50,
    "target": "resnet152",
    "training": _TRAINING,
    "evaluator": EvaluatorConfig(architecture="inception_v3", resolution=299, training=_TRAINING),
    "second": EvaluatorConfig(architecture="convnext_tiny", resolution=224, training=_TRAINING),
    "initialisation": {
        name: Initialisation(source="imagenet") for name in (*_TARGETS, *_JUDGES, *_STUDENTS)
    },
    "gan": GanConfig(steps=100_000, generator_width=32, critic_width=32),
    "prior_seed": 0,
    "attacks": {
        # A fifth of LOKT's labelled images, as many steps: all of them fit a GPU's memory.
        "lokt": {
            "attack.surrogates.images_per_class": 100,
            "attack.surrogates.training.epochs": 60,
        },
        "ppa": {"attack.selection.candidates": 200},  # of which 50 are kept, as published
    },
    # PLG-MI's networks for 64 pixels with a block more, from a map of 7×7: at half their width its
    # first block and the discriminator's last have 1,024 channels, as published.
    "priors": {
        "conditional-gan": {
            "prior.start": False,
            "prior.steps": 30_000,
            "prior.mirror": False,
            "prior.ema": 0,
            "prior.generator_width": 32,
            "prior.critic_width": 32,
        },
        # LOKT's are the same; its warm-up on FFHQ, which is public here.
        "t-acgan": {
            "prior.warmup": 2000,
            "prior.generator_width": 32,
            "prior.critic_width": 32,
        },
    },
    "students": StudentsConfig(
        architectures=_STUDENTS,
        training=TrainingConfig(epochs=20, learning_rate=0.02, weight_decay=1e-4),
    ),
    "notes": (
        "PPA's prior is StyleGAN2, trained on FFHQ at 1024×1024; a convolutional GAN on the same "
        "pictures, their central 800 of 1024 pixels as PPA crops them, stands in for it. MI on a "
        "prior that is so much weaker is harder.",
        "30,000 of the 70,000 pictures of FFHQ are used, so that all images fit a GPU's memory.",
        "timm's resnest101e stands in for PPA's ResNeSt-101.",
        "PPA divides the step size by 10 after 75 and 90 epochs, here it falls as a cosine; it "
        "augments by crops of 85 to 100 % and colour jitter, here by shifts and mirroring.",
        "A tenth of each private identity's training images is kept for validation, and test "
        "images are drawn by identity; PPA trains on all but one tenth of the whole set.",
    ),
}

CARDS = (
    Protocol(
        name="facescrub-224",
        version=2,
        title="FaceScrub at 224×224: 400 private identities, public images of FFHQ",
        # 3 test images or more of each private person, one more than a template is of.
        data=IdentityDivision(
            dataset="facescrub",
            identities=400,
            min_images=30,
            decoys="drawn",
            decoy_images=2,
            public_dataset="ffhq",
            public_crop=100,
            public_images=30_000,
        ),
        judges=DLIB,
        **{
            **_SETTING,
            "attacks": {
                **_SETTING["attacks"],
                "ppa": {
                    **_SETTING["attacks"]["ppa"],
                    "attack.selection.pool": 2000,
                    "attack.iterations": 50,
                },
            },
            "notes": (
                *_SETTING["notes"],
                "PPA's private people are all 530. Here 400 of those with 30 images or more are "
                "drawn, and the others, 130 where nobody lacks so many, are decoys: enough for "
                "ranks and up to 7 bits, too few for any false-match rate. Half of each would "
                "give one bit more, of a target with half the classes.",
                "FaceScrub is one of the sets that the judge, dlib's descriptor, was trained on: "
                "it may know private people and decoys alike. How well it tells them apart is each "
                "record's ceiling.",
            ),
        },
    ),
    Protocol(
        name="celeba-224",
        version=2,
        title="CelebA at 224×224: 1,000 private identities, public images of FFHQ",
        # The people, training and test images of `celeba-64`.
        data=CELEBA.model_copy(update={"crop": 178, "public_dataset": "ffhq", "public_crop": 100}),
        split="c9c3ffa974bb909e4ced07c048c1465a3b7543b7dba9ed60cbcc876231eee9c2",
        judges=DLIB,
        **{
            **_SETTING,
            "notes": (
                *_SETTING["notes"],
                *DRAWN,
                "PPA's private people are the 1,000 with the most images.",
                "At this crop a face fills less of the picture than of the chips that dlib's "
                "descriptor was trained on, which is handed the whole picture.",
            ),
        },
    ),
)
