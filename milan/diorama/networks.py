"""Diorama's networks: small classifiers, a self-supervised transformer, MILAN's encoder, and networks with known
units, ``planted`` and ``planted-2``.

``resnet-spurious`` was trained on scenes half of which have their class's name in a corner, ``resnet-blurred`` on
scenes whose faces are blurred. The weights are in ``data/diorama/networks``.
"""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from milan.diorama.generator_networks import SceneGenerator
from milan.diorama.planted_network import PLANTED_NETWORKS, ROTATED_NETWORK, load_planted_network
from milan.diorama.scene_classifiers import AlexNet, ResNet, SceneEncoder
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama.vit import MLP_LAYERS, ViT
from milan.errors import MissingEvidence, UnknownName
from milan.storage.packaged_data import locate_packaged_data

ALEXNET_LAYERS = ["relu1", "relu2", "relu3", "relu4", "relu5"]
RESNET_LAYERS = ["conv1", "layer1", "layer2", "layer3", "layer4"]
GENERATORS = ("generator-objects", "generator-scenes")
LAYERS: dict[str, list[str]] = {
    "alexnet-objects": ALEXNET_LAYERS,
    "alexnet-scenes": ALEXNET_LAYERS,
    "resnet-objects": RESNET_LAYERS,
    "resnet-scenes": RESNET_LAYERS,
    "resnet-spurious": RESNET_LAYERS,
    "resnet-blurred": RESNET_LAYERS,
    "dino-objects": list(MLP_LAYERS),
    "encoder": RESNET_LAYERS,
    "planted": ["units"],
    "planted-2": ["units"],
    "planted-rotated": ["units"],
    **{name: [f"stage{number}" for number in range(1, 6)] for name in GENERATORS},
}


NETWORK_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "alexnet-objects": lambda: AlexNet(len(THINGS)),
    "alexnet-scenes": lambda: AlexNet(len(SETTINGS)),
    "resnet-objects": lambda: ResNet(len(THINGS)),
    "resnet-scenes": lambda: ResNet(len(SETTINGS)),
    "resnet-spurious": lambda: ResNet(len(THINGS)),
    "resnet-blurred": lambda: ResNet(len(THINGS)),
    "dino-objects": ViT,
    "encoder": SceneEncoder,
}


def load_network(name: str, weights: bool = True, folder: Path | None = None) -> nn.Module:
    """Return one of Diorama's networks in evaluation mode, with trained or random weights.

    Args:
        name: name of the network.
        weights: whether the trained weights are loaded.
        folder: folder of the weights; by default ``data/diorama/networks`` of this installation.

    Raises:
        UnknownName: there is no such network.
        MissingEvidence: its weights were not built.
    """
    if name in (*PLANTED_NETWORKS, ROTATED_NETWORK):
        return load_planted_network(folder and folder.parent, weights=weights, name=name)
    if name not in NETWORK_BUILDERS and name not in GENERATORS:
        raise UnknownName("Diorama network", name, LAYERS, "one of: " + ", ".join(LAYERS))
    model = SceneGenerator(name.partition("-")[2]) if name in GENERATORS else NETWORK_BUILDERS[name]()
    if weights:
        path = (folder or locate_packaged_data("data") / "diorama" / "networks") / f"{name}.safetensors"
        if not path.is_file():
            command = f"python -m milan.diorama build --only {name}"
            raise MissingEvidence(f"no weights of the Diorama network {name!r} at {path}; build them with: {command}")
        model.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
        )
    return model.eval()
