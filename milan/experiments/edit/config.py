"""Options of the edit experiment."""

from dataclasses import dataclass
from typing import Literal

from milan.errors import BadInput
from milan.experiments.core.config import DissectionOptions, RunConfig
from milan.targets.preprocessing import TargetOptions

LetteringPlace = Literal["top-left", "top-right", "bottom-left", "bottom-right", "any"]
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True)
class Lettering:
    """How class names are written into images.

    Attributes:
        font: A TrueType or OpenType file. By default Pillow's own font.
        place: The corner of the image: top-left, top-right, bottom-left, bottom-right, or any for a random one.
        height: The height of a line of letters, as a share of the image's height; too long a name is written smaller.
        share: The share of the training images that carry their class's name.
        held_out: The share of each class's training images that are used for validation, where networks are trained.
        seed: The random seed of names, corners and splits.
    """

    font: str = ""
    place: LetteringPlace = "top-left"
    height: float = 0.12
    share: float = 0.5
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("height", "share", "held_out"):
            if not 0 < getattr(self, name) < 1 and not (name == "share" and self.share == 1):
                raise BadInput(f"lettering.{name} is {getattr(self, name)}; give a share between 0 and 1")
        if self.place not in (*CORNERS, "any"):
            raise BadInput(f"lettering.place is {self.place!r}; give one of {', '.join((*CORNERS, 'any'))}")


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained, as in appendix E of Hernandez et al. 2022.

    Attributes:
        architecture: The name of a classifier of torchvision.
        epochs: The largest number of epochs.
        patience: The number of epochs without a smaller validation loss after which training ends.
        learning_rate: The learning rate of AdamW.
        batch_size: The number of images in a batch.
        seed: The random seed of the initial weights and of the order of images.
    """

    architecture: str = "resnet18"
    epochs: int = 100
    patience: int = 4
    learning_rate: float = 1e-4
    batch_size: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EditConfig(DissectionOptions, RunConfig):
    """Remove units described as detecting text, and measure accuracy where text misleads the network.

    By default the layers are those of Diorama's networks, or the first convolution and the four stages of a ResNet.

    Attributes:
        images: diorama:objects, whose networks come with the package; or images with classes (a folder, FILE.parquet or
            hf:ID) into which names are written. Two networks are trained on them, unless a target is given.
        target: A classifier of these images to edit, of which none should be among its training images. By default two
            networks are trained, one of them on images without names.
        weights: The target's weights, as a file or "random". By default those of its library.
        target_options: How the target's input is made and its output is read. The networks that are trained take
            images of IMAGE_SIZE, by default 224 pixels, and RESIZE.
        synsets: A file that says which class each output is, for a target with other classes than the images.
        test_images: More images of the same classes to test with. By default a tenth of the images, or half of them if
            a target is given.
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        words: A unit is removed if its description has one of these words, as a whole word. By default text, word,
            letter, and their plurals.
        min_score: The smallest score of a description whose unit is removed, such as 0.04 for netdissect, in whose
            paper a unit with a smaller IoU detects nothing. By default any.
        dissection_images: The number of Diorama's images to dissect on; of other images all that are held out are used.
        max_validation_images: The largest number of validation images.
        max_test_images: The largest number of test images.
        max_units: The largest number of removed units.
        random_orders: The number of random orders of removal to compare with.
        lettering: How names are written into images that are not Diorama's.
        training: How the two networks are trained on them.
    """

    images: str = "diorama:objects"
    target: str = ""
    weights: str | None = None
    target_options: TargetOptions = TargetOptions()  # noqa: RUF009 (frozen)
    synsets: str = ""
    test_images: str = ""
    describer: str = "milan"
    words: list[str] | None = None
    min_score: float | None = None
    dissection_images: int = 1000
    max_validation_images: int = 400
    max_test_images: int = 800
    max_units: int = 64
    random_orders: int = 5
    lettering: Lettering = Lettering()
    training: ClassifierTraining = ClassifierTraining()
