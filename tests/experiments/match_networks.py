"""A small network of random weights, and others made of it whose units' counterparts are known."""

import torch
from torch import nn

from milan.targets.target import Target

ORDER = (5, 3, 0, 7, 1, 6, 2, 4)  # unit i of the permuted network is unit ORDER[i] of the plain one
NOISY = (2, 6)  # units of the plain network that the damaged one has lost


class Small(nn.Module):
    """Two convolutions with a ReLU; unit 7 of the first never varies."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 3, stride=2)
        with torch.no_grad():
            self.one.weight[7] = 0
        self.relu = nn.ReLU()

    def forward(self, images):
        return self.two(self.relu(self.one(images))).amax((2, 3))


def plain() -> Target:
    return Target(Small(), name="plain", image_size=32)


def permuted() -> Target:
    """The same function with the channels of the first layer in another order."""
    model = Small()
    with torch.no_grad():
        order = list(ORDER)
        model.one.weight.copy_(model.one.weight[order])
        model.one.bias.copy_(model.one.bias[order])
        model.two.weight.copy_(model.two.weight[:, order])
    return Target(model, name="permuted", image_size=32)


def damaged() -> Target:
    """The plain network with two units of the first layer overwritten by noise of high frequency."""
    model = Small()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        noise = torch.randn(len(NOISY), 3, 3, 3)
        model.one.weight[list(NOISY)] = noise - noise.mean((2, 3), keepdim=True)
    return Target(model, name="damaged", image_size=32)
