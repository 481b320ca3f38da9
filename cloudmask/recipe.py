"""How a network is to be trained: all choices in one card, checked when it is made."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from cloudmask.checks import real, settle, whole
from cloudmask.draw import Sampling
from cloudmask.labelled import Reading
from cloudmask.losses import make_loss
from cloudmask.models import ARCHITECTURES
from cloudmask.network import check_precision


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; all of it is written to config.json."""

    architecture: str = "unet_vgg16"
    """Key of `ARCHITECTURES`; with `weights` the one that they are of."""
    loss: str = "f1"
    """As for `losses.make_loss`."""
    epochs: int = 30
    """Of both phases together."""
    steps: int | None = None
    """Batches of an epoch, rounded to whole rounds; None: as many as cover the images once."""
    learning_rate: float = 1e-4
    """Highest; each phase warms up to it and decays by a cosine."""
    freeze_epochs: int | None = None
    """First phase, encoder frozen; None: 3 if the encoder comes pretrained, else 0."""
    patience: int | None = None
    """Epochs without a better validation loss after which a run stops."""
    weights: str | Path | None = None
    """Model to go on from: a name, a run or a file. Its batch normalisation stays as it is."""
    encoder_weights: str | Path | None = None
    """imagenet, hed or a file: what VGG16's convolutions start from; None or none: random."""
    precision: str | None = None
    """Of the network; None: what the machine is fastest at."""
    validation_patches: int = 256
    """At most so many patches are validated on after each epoch."""
    sampling: Sampling = field(default_factory=Sampling)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        for name in ("weights", "encoder_weights"):
            if (start := getattr(self, name)) is not None:
                if not isinstance(start, str | Path):
                    raise ValueError(f"{name} is {start!r}: give a name or a path")
                settle(self, **{name: str(start)})  # JSON knows no paths
        if self.encoder_weights == "none":
            settle(self, encoder_weights=None)
        make_loss(self.loss)
        settle(self, learning_rate=real("learning rate", self.learning_rate))
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning rate is {self.learning_rate}: give a number above 0")
        check_precision(self.precision)
        settle(
            self,
            epochs=whole("epochs", self.epochs),
            validation_patches=whole("validation patches", self.validation_patches, 1),
        )
        for name, least in (("steps", 1), ("patience", 1), ("freeze_epochs", None)):
            if (count := getattr(self, name)) is not None:
                settle(self, **{name: whole(name.replace("_", " "), count, least)})
        for name, kind in (("sampling", Sampling), ("reading", Reading)):
            if not isinstance(part := getattr(self, name), kind):
                raise ValueError(f"{name} is {part!r}: give a {kind.__name__}")
        if self.architecture not in list(ARCHITECTURES):  # which compares what has no hash, too
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture is {self.architecture!r}: choose {known}")
        if self.weights and self.encoder_weights:
            raise ValueError("weights and encoder weights are both given: choose one")
        if self.sampling.size % self.stride:
            raise ValueError(
                f"patch is {self.sampling.size}: {self.architecture} needs a multiple of "
                f"{self.stride}"
            )
        if not 0 <= self.frozen <= self.epochs or self.epochs < 1:
            raise ValueError(
                f"{self.frozen} epochs of {self.epochs} are frozen: give more, or freeze fewer"
            )
        if not ARCHITECTURES[self.architecture].encoder:
            if self.encoder_weights:
                raise ValueError(f"{self.architecture} has no VGG16 encoder: leave its weights out")
            if self.freeze_epochs:
                raise ValueError(f"{self.architecture} has no encoder to freeze: freeze 0 epochs")
        if self.freeze_epochs and not (self.weights or self.encoder_weights):
            raise ValueError(
                f"{self.freeze_epochs} epochs are to freeze random weights: give some, or freeze 0"
            )

    @property
    def stride(self) -> int:
        """Patches are a multiple of this high and wide."""
        architecture = ARCHITECTURES[self.architecture]
        return architecture.window or architecture.stride

    @property
    def frozen(self) -> int:
        """Epochs of the first phase."""
        if self.freeze_epochs is not None:
            return self.freeze_epochs
        return min(3, self.epochs - 1) if self.encoder_weights else 0
