"""The folders of a build of Diorama, with its networks and their dissections."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from milan.errors import BadInput

if TYPE_CHECKING:
    from milan.dissection.dissection import Dissection
    from milan.targets.target import Target

ANNOTATION_FACTS_FILE = "made.json"  # written last in the folder of a network's annotations


@dataclass(frozen=True)
class BuildFolders:
    """Where a build reads and writes.

    Attributes:
        data: folder of the results, ``data/diorama`` of the package.
        work: folder of intermediate results, such as rendered scenes and dissections.
        seed: random seed of training and annotation.
    """

    data: Path
    work: Path
    seed: int = 0

    def target(self, network: str) -> "Target":
        """Return one of Diorama's networks with its weights in ``data``.

        Raises:
            BadInput: the network was not built.
        """
        from milan.targets.loading import load_target

        file = self.data / "networks" / f"{network}.safetensors"
        if not file.is_file():
            raise BadInput(f"no {file}; build it first: python -m milan.diorama build --only {network}")
        return load_target(f"diorama:{network}", weights=file)

    def dissections(self, network: str) -> "dict[str, Dissection]":
        """Return the dissections of all layers of a network by name; those that exist already are read.

        A classifier is dissected on the probe of its own task, a generator on the images that it generates.
        """
        from milan.diorama.networks import LAYERS
        from milan.dissection.dissect import dissect
        from milan.probes import Probe, load_probe
        from milan.targets.generator_target import GeneratorTarget

        target = self.target(network)
        if isinstance(target, GeneratorTarget):
            probe = Probe.from_generator(target, spec=f"latents:diorama:{network}")
        else:
            probe = load_probe(f"diorama:{network.rpartition('-')[2]}")
        return dissect(target, probe, LAYERS[network], self.work / "dissections" / network)
