"""Weights from a layer to a later one, against the product of matrices written out by hand."""

import pytest
import torch
from torch import Tensor, nn

from milan.errors import BadInput, UnknownName
from milan.targets.dictionary import Dictionary
from milan.targets.effective_weights import compute_effective_weights
from milan.targets.target import Target


def target(*modules: nn.Module, core: nn.Module | None = None) -> Target:
    torch.manual_seed(0)
    net = core or nn.Sequential(*modules)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.weight.data.uniform_(0.5, 2)
            each.running_var.uniform_(0.5, 2)
            each.running_mean.normal_()
    return Target(net, image_size=16, name="net")


def test_the_last_layer_has_the_classifiers_own_weights():
    net = target(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    torch.testing.assert_close(compute_effective_weights(net, "1"), net.model[4].weight.data.T.T)
    head = target(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 6, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    torch.testing.assert_close(compute_effective_weights(head, "1"), head.model[3].weight.data[:, :, 0, 0])


def test_earlier_layers_have_the_product_of_all_matrices():
    convolution, norm, grouped = (
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 3, groups=2),
    )
    net = target(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        convolution,
        norm,
        nn.ReLU(),
        nn.MaxPool2d(2),
        grouped,
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    first = convolution.weight.sum((2, 3))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    second = torch.zeros(8, 6)
    second[:4, :3], second[4:, 3:] = grouped.weight.sum((2, 3))[:4], grouped.weight.sum((2, 3))[4:]
    by_hand = net.model[8].weight @ second @ (scale[:, None] * first)
    torch.testing.assert_close(compute_effective_weights(net, "1"), by_hand.detach())
    torch.testing.assert_close(compute_effective_weights(net, "1", later_layer="4"), (scale[:, None] * first).detach())


def test_latents_have_the_weights_of_their_decoder_rows():
    net = target(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    dictionary = Dictionary(torch.randn(4, 7), torch.randn(7, 4))
    attached = net.with_dictionary(dictionary, "1")
    found = compute_effective_weights(attached, "1@sae")
    torch.testing.assert_close(found, net.model[4].weight.data @ dictionary.decoder.T)
    with pytest.raises(BadInput, match=r"1@sae.*name 1"):
        compute_effective_weights(attached, "0", later_layer="1@sae")


def test_a_layer_that_reads_a_whole_map_counts_the_sum_over_its_places():
    net = target(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 7), nn.ReLU(), nn.Linear(7, 5))
    by_hand = net.model[5].weight @ net.model[3].weight.view(7, 4, 9).sum(2)
    torch.testing.assert_close(compute_effective_weights(net, "1"), by_hand.detach())


class Residual(nn.Module):
    """A way around, which adds the unit's own value."""

    def __init__(self, bends: bool = False) -> None:
        super().__init__()
        self.stem, self.relu, self.inner = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.bends = nn.Linear(4, 5), bends

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.stem(images))
        maps = maps + self.inner(maps)
        return self.head((maps.relu() if self.bends else maps).mean((2, 3)))


def test_ways_around_are_added():
    net = target(core=Residual())
    by_hand = net.model.head.weight @ (torch.eye(4) + net.model.inner.weight.sum((2, 3)))
    torch.testing.assert_close(compute_effective_weights(net, "relu"), by_hand.detach())


def test_the_network_is_left_as_it_was():
    net = target(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    images = net.noise(2, 16)
    before = net.outputs(images)
    compute_effective_weights(net, "1")
    assert torch.equal(net.outputs(images), before)
    assert not any("forward" in module.__dict__ for module in net.model.modules())


def test_what_cannot_be_multiplied_is_told():
    with pytest.raises(BadInput, match="not linear"):
        compute_effective_weights(target(core=Residual(bends=True)), "relu")
    net = target(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(BadInput, match="0 does not come after 1"):
        compute_effective_weights(net, "1", later_layer="0")
    with pytest.raises(UnknownName, match="unknown layer '11'"):
        compute_effective_weights(net, "11")
