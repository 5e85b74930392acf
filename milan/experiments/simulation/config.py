"""Options of the simulation experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class SimulationConfig(DissectedTargetConfig):
    """Score descriptions by how well they predict activations on images that no describer has seen.

    Descriptions are of units on PROBE@learn, four fifths of the probe, and predict activations on PROBE@judge.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions. By
            default those of the paper's tables, with their settings for Diorama.
        simulator: The simulator: "labels" for the labels of the images, or an image-text model. By default
            diorama:siglip-large on Diorama, else labels.
        calibration: The simulator's calibration: A,B, "model" or "labels". By default the published one, else labels.
        superclasses: A JSON file of the superclasses of the classes; see milan.probes.superclasses.
        synsets: A file that says what the numbers in the superclasses mean, and which class each output is.
        search_ablation_lengths: The numbers of concepts of Linear Explanations without their greedy search, for a table
            of it. By default 5 and 4.
        replaced_units: The number of random units that are replaced by what is predicted of them, for a table of
            ablation scores; 0 for no such table.
        replaced_layer: The layer of the replaced units. By default the last of the layers.
        replaced_images: The largest number of images to fit the replacement on, and as many others to evaluate it on.
    """

    describers: list[str] | None = None
    simulator: str = ""
    calibration: str = ""
    superclasses: str = ""
    synsets: str = ""
    search_ablation_lengths: list[int] | None = None
    replaced_units: int = 16
    replaced_layer: str = ""
    replaced_images: int = 300
