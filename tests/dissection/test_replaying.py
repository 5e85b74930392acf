"""Going on from a layer: the same answers as the whole network, whatever its make, and nothing before the layer is run
again.
"""

import pytest
import torch
import torchvision
from torch import nn

from milan import Target, Unit
from milan.errors import BadInput
from milan.targets.hooks import ablate
from milan.targets.replay import record_replays


class Twisted(nn.Module):
    """In-place changes, one module called twice, a skip from before the layer to after it."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 5),
        )
        self.relu = nn.ReLU(inplace=True)
        self.runs = 0
        self.first.register_forward_hook(self.count)

    def count(self, *_):
        self.runs += 1

    def forward(self, images):
        begun = self.first(images)
        begun.mul_(0.5)
        once = self.relu(self.twice(begun))
        again = self.relu(self.twice(once))
        return self.last((again + begun + once).mean((2, 3)))


MODELS = {
    "twisted": Twisted,
    "resnet18": torchvision.models.resnet18,
    "densenet121": torchvision.models.densenet121,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7),
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
}
LAYERS = {
    "twisted": ["first", "twice#0", "twice#1", "relu#0"],
    "resnet18": ["conv1", "relu", "layer2.0.conv1", "layer3", "layer4.1.bn2"],
    "densenet121": ["features.denseblock2.denselayer2.conv1"],
    "mobilenet_v2": ["features.5", "features.7.conv.1"],
    "vit": ["encoder.layers.encoder_layer_0.mlp", "encoder.ln"],
    "googlenet": ["inception3a.branch2"],
}


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in LAYERS.items() for layer in layers])
def test_it_answers_as_the_whole_network_does(name, layer):
    torch.manual_seed(0)
    target = Target(MODELS[name]().eval(), image_size=32)
    images = target.noise(2, 32)
    with record_replays(target, layer) as run:
        replay = run(images)
        torch.testing.assert_close(replay.outputs, target.outputs(images))
        for _ in range(3):
            torch.testing.assert_close(replay.run_from(replay.values), replay.outputs)
        units = torch.tensor([1])
        dropped = replay.run_from(replay.values.index_fill(replay.axis, units, 0.25))
        again = replay.run_from(replay.values.index_fill(replay.axis, units, 0.25))
    with ablate(target, [Unit(layer, 1)], 0.25):
        expected = target.outputs(images)
    torch.testing.assert_close(dropped, expected)
    assert torch.equal(dropped, again)
    assert not any("forward" in module.__dict__ for module in target.modules().values())


def test_nothing_before_the_layer_is_run_again():
    model = Twisted().eval()
    target = Target(model, image_size=16)
    images = target.noise(2, 16)
    with record_replays(target, "twice#1") as run:
        replay = run(images)
        runs = model.runs
        seen = []
        handle = model.twice.register_forward_pre_hook(lambda *_: seen.append(1))
        replay.run_from(replay.values)
        replay.run_from(replay.values)
        handle.remove()
    assert model.runs <= runs + 2  # a hook of the module's own still sees it pass
    assert len(seen) == 4
    weight = model.first.weight.data.clone()
    model.first.weight.data.fill_(float("nan"))  # what would be seen if it were computed again
    with record_replays(target, "twice#1") as run:
        assert run(images).outputs.isnan().any()
    model.first.weight.data.copy_(weight)
    with record_replays(target, "twice#1") as run:
        replay = run(images)
        model.first.weight.data.fill_(float("nan"))
        model.twice.weight.data.fill_(float("nan"))
        torch.testing.assert_close(replay.run_from(replay.values), replay.outputs)
    model.first.weight.data.copy_(weight)


def test_gradients_reach_the_layers_values():
    target = Target(Twisted().eval(), image_size=16)
    with record_replays(target, "twice#0") as run:
        replay = run(target.noise(2, 16))
        values = replay.values.clone().requires_grad_()
        with torch.enable_grad():
            replay.run_from(values).sum().backward()
    assert values.grad.abs().sum() > 0


def test_a_layer_that_runs_twice_must_be_told_by_number():
    target = Target(Twisted().eval(), image_size=16)
    with record_replays(target, "twice") as run, pytest.raises(BadInput, match="twice#0, twice#1"):
        run(torch.zeros(1, 3, 16, 16))
