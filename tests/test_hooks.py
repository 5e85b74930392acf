"""Looking in and switching off, on networks small enough to know every value by heart."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from milan.errors import BadInput, UnknownName
from milan.targets.hooks import ablate, record, run_to_layers, steer
from milan.targets.target import Target
from milan.units import Unit

SIZE = 8
Pair = namedtuple("Pair", ["first", "second"])


@dataclass(frozen=True)
class Frozen:
    name: str
    values: Tensor


@dataclass
class Answer(ModelOutput):
    loss: Tensor | None = None
    values: Tensor | None = None


class Toy(nn.Module):
    """conv -> bn -> in-place relu -> conv -> the same relu -> pool -> fc, its weights set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(2, 2, 1, bias=False)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(2, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).view(2, 3, 1, 1))
            self.last.weight.copy_(torch.eye(2).view(2, 2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.bn(self.conv(images)))
        maps = self.relu(self.last(maps))
        return self.fc(self.drop(maps.mean((2, 3))))


@pytest.fixture
def toy() -> Target:
    torch.manual_seed(0)
    return Target(Toy(), name="toy", image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def images(count: int = 2) -> Tensor:
    """Red goes from -1 to 1 along the rows, so that either unit of the toy fires on one half."""
    rows = torch.linspace(-1, 1, SIZE).view(1, 1, SIZE, 1)
    return rows.expand(count, 3, SIZE, SIZE).clone()


def look_at(target: Target, *layers: str, batch: Tensor | None = None) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with run_to_layers(target, layers, lambda name, maps, cls: seen.update({name: maps.clone()})) as look:
        look(images() if batch is None else batch)
    return seen


def traces(model: nn.Module) -> list[Any]:
    """All that a visit could leave behind."""
    parts = [
        (m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks), m.forward.__func__) for m in model.modules()
    ]
    return [parts, [(tensor.device, tensor.dtype, tensor.data_ptr()) for tensor in model.state_dict().values()]]


def test_values_are_taken_before_an_inplace_successor_overwrites_them(toy: Target) -> None:
    seen = look_at(toy, "bn", "relu#0")
    scale = 1 / (1 + 1e-5) ** 0.5
    assert seen["bn"].min() < 0
    torch.testing.assert_close(seen["bn"], torch.cat([images()[:, :1], -images()[:, :1]], 1) * scale)
    torch.testing.assert_close(seen["relu#0"], seen["bn"].clamp(min=0))


def test_a_module_called_twice_is_two_layers(toy: Target) -> None:
    assert [layer.name for layer in toy.layers()] == ["conv", "bn", "relu#0", "relu#1", "last", "drop", "fc"]
    with toy_weights(toy, last=-1.0):
        seen = look_at(toy, "relu#0", "relu#1")
    assert seen["relu#0"].amax() > 0
    assert (seen["relu#1"] == 0).all()
    with pytest.raises(BadInput, match=r"'relu' is called 2 times .* relu#0, relu#1"):
        look_at(toy, "relu")


class toy_weights:
    """The toy's last convolution scaled for a while."""

    def __init__(self, target: Target, last: float):
        self.weight, self.scale = target.model.last.weight, last

    def __enter__(self) -> None:
        self.weight.data.mul_(self.scale)

    def __exit__(self, *fault: object) -> None:
        self.weight.data.div_(self.scale)


def test_the_pass_ends_after_the_last_layer(toy: Target) -> None:
    ran: list[str] = []
    for name, module in toy.model.named_children():
        module.register_forward_pre_hook(lambda _, inputs, name=name: ran.append(name))
    toy.layers()
    ran.clear()
    look_at(toy, "bn", "conv")
    assert ran == ["conv", "bn"]


def test_a_networks_own_except_does_not_catch_the_end_of_the_pass() -> None:
    class Careful(Toy):
        def forward(self, images: Tensor) -> Tensor:
            try:
                maps = self.conv(images)
            except Exception:
                raise AssertionError("caught the end of the pass") from None
            return maps.mean((2, 3))

    assert look_at(Target(Careful(), image_size=SIZE), "conv")["conv"].shape == (2, 2, SIZE, SIZE)


def test_nothing_remains_after_a_visit(toy: Target) -> None:
    toy.model.train()
    toy.model.bn.eval()
    before = traces(toy.model)
    running = toy.model.bn.running_mean.clone()
    look_at(toy, "relu#1")
    with ablate(toy, [Unit("conv", 0)]):
        toy.outputs(images())
    assert traces(toy.model) == before
    assert torch.equal(toy.model.bn.running_mean, running)


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_nothing_remains_after_an_exception(toy: Target, fault: type[BaseException]) -> None:
    toy.model.train()
    before = traces(toy.model)

    def fail(name: str, maps: Tensor, cls: Tensor | None) -> None:
        raise fault

    with pytest.raises(fault), run_to_layers(toy, ["bn"], fail) as look:
        look(images())
    with pytest.raises(fault), ablate(toy, [Unit("bn", 0)]):
        raise fault
    with pytest.raises(BadInput), ablate(toy, [Unit("bn", 0), Unit("fc", 99)]):
        pytest.fail("entered")
    assert traces(toy.model) == before
    assert torch.is_grad_enabled()


def test_gradients_and_the_random_state_are_the_callers(toy: Target) -> None:
    state = torch.get_rng_state()
    toy.layers()
    assert torch.equal(torch.get_rng_state(), state)
    toy.model.eval()
    with ablate(toy, [Unit("conv", 0)]):
        toy.model(images()).sum().backward()
    assert (toy.model.conv.weight.grad[0] == 0).all()
    assert (toy.model.conv.weight.grad[1] != 0).any()


def test_ablation_changes_what_it_should(toy: Target) -> None:
    plain = look_at(toy, "bn", "relu#1", "fc")
    with ablate(toy, [Unit("bn", 1)], value=0.25):
        changed = look_at(toy, "bn", "relu#1", "fc")
    assert (changed["bn"][:, 1] == 0.25).all()
    assert torch.equal(changed["bn"][:, 0], plain["bn"][:, 0])
    assert (changed["relu#1"][:, 1] == 0.25).all()
    pooled = torch.stack([plain["relu#1"][:, 0].mean((1, 2)), torch.full((2,), 0.25)], 1)
    torch.testing.assert_close(changed["fc"][:, :, 0, 0], toy.model.fc(pooled))


def hooked(toy: Target, change: Callable[[Tensor], None]) -> Tensor:
    """The network's output where a hand-written hook changes a copy of the batch norm's output."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        change(output)
        return output

    handle = toy.model.bn.register_forward_hook(hook)
    try:
        return toy.model(images())
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("add", lambda output: output[:, 1].add_(0.75)),
        ("clamp", lambda output: output[:, 1].fill_(0.75)),
        ("scale", lambda output: output[:, 1].mul_(0.75)),
    ],
)
@torch.no_grad()
def test_steering_equals_a_hand_written_hook(toy: Target, mode: str, change: Callable[[Tensor], None]) -> None:
    toy.model.eval()
    expected = hooked(toy, change)
    with steer(toy, {"bn:1": 0.75}, mode=mode):
        assert torch.equal(toy.model(images()), expected)
    with steer(toy, {Unit("bn", 1): 0.75, "bn:0": -1.0}, mode=mode), record(toy, ["bn"]) as steered:
        toy.model(images())
    with record(toy, ["bn"]) as plain:
        toy.model(images())
    amounts = torch.tensor([-1.0, 0.75]).view(2, 1, 1)
    expected = {"add": plain["bn"] + amounts, "scale": plain["bn"] * amounts}.get(mode, amounts.expand(2, 2, 8, 8))
    assert torch.equal(steered["bn"], expected)


def test_each_call_fills_the_recorded_activations_anew(toy: Target) -> None:
    pixels = torch.arange(2 * 3 * SIZE * SIZE, dtype=torch.uint8).view(2, 3, SIZE, SIZE)
    with record(toy, ["bn", "relu#1", "fc"]) as activations, record(toy, "bn", lambda maps: maps.amax((2, 3))) as peaks:
        output = toy(pixels)
        assert torch.equal(activations["fc"][:, :, 0, 0], output)
        expected = look_at(toy, "bn", "relu#1", batch=toy.prepare(pixels))
        for name, maps in expected.items():
            assert torch.equal(activations[name], maps)
        assert torch.equal(peaks["bn"], expected["bn"].amax((2, 3)))
        toy(pixels[:1])
        assert [len(values) for values in activations.values()] == [1, 1, 1]
    toy(pixels)
    assert len(activations["bn"]) == 1


def test_recorded_activations_carry_gradients_where_the_caller_asks_for_them(toy: Target) -> None:
    with record(toy, ["conv"]) as activations:
        toy.model.eval()(images())
    (gradient,) = torch.autograd.grad(activations["conv"].sum(), toy.model.conv.weight)
    torch.testing.assert_close(gradient, images().sum((0, 2, 3)).view(1, 3, 1, 1).expand(2, 3, 1, 1))


def test_the_target_returns_the_networks_own_output(toy: Target) -> None:
    toy.model.train()
    pixels = torch.full((2, 3, SIZE, SIZE), 51, dtype=torch.uint8)
    output = toy(pixels)
    assert toy.model.training
    toy.model.eval()
    assert torch.equal(output, toy.model(torch.full((2, 3, SIZE, SIZE), 0.2)))
    assert not output.requires_grad
    wrong = ((pixels / 255, "float32"), (pixels[0], r"\(3, 8, 8\)"), (pixels[:, :2], "2"), (pixels[:, :, :4], "4 x 8"))
    for given, value in wrong:
        with pytest.raises(BadInput, match=value):
            toy(given)


def test_one_call_of_a_module_called_twice_is_ablated(toy: Target) -> None:
    plain = look_at(toy, "relu#0", "relu#1")
    with ablate(toy, [Unit("relu#1", 0)], value=7.0):
        for _ in range(2):  # the passes are counted apart
            seen = look_at(toy, "relu#0", "relu#1")
            assert torch.equal(seen["relu#0"], plain["relu#0"])
            assert (seen["relu#1"][:, 0] == 7).all()
        look_at(toy, "bn")  # a pass that ends early
        assert (look_at(toy, "relu#1")["relu#1"][:, 0] == 7).all()


def test_recorded_sees_the_ablated_values_whichever_was_entered_first(toy: Target) -> None:
    seen: list[Tensor] = []
    with run_to_layers(toy, ["bn"], lambda name, maps, cls: seen.append(maps.clone())) as look:
        look(images())
        with ablate(toy, [Unit("bn", 0)], value=-3.0):
            look(images())
        look(images())
    assert (seen[1][:, 0] == -3).all()
    assert torch.equal(seen[0], seen[2])


def test_a_network_run_by_others_in_the_block_is_not_disturbed(toy: Target) -> None:
    seen: list[Tensor] = []
    with run_to_layers(toy, ["bn"], lambda name, maps, cls: seen.append(maps)) as look:
        assert toy.outputs(images()).shape == (2, 3)
        assert seen == []
        look(images())
    assert len(seen) == 1


def test_ablations_nest_and_end_one_by_one(toy: Target) -> None:
    plain = toy.outputs(images())
    with ablate(toy, [Unit("bn", 0)]):
        one = toy.outputs(images())
        with ablate(toy, [Unit("bn", 1)]):
            assert (look_at(toy, "bn")["bn"] == 0).all()
        assert torch.equal(toy.outputs(images()), one)
    assert torch.equal(toy.outputs(images()), plain)
    with ablate(toy, []):
        assert torch.equal(toy.outputs(images()), plain)


def test_wrong_units_and_layers_are_told(toy: Target) -> None:
    with pytest.raises(BadInput, match="'bn' has 2 units, 0 to 1; there is no unit 2"), ablate(toy, [Unit("bn", 2)]):
        pytest.fail("entered")
    with pytest.raises(UnknownName, match="'convv'; nearest: conv"):
        look_at(toy, "convv")
    with pytest.raises((BadInput, TypeError), match="'push'"), steer(toy, {"bn:0": 1.0}, mode="push"):
        pytest.fail("entered")
    with pytest.raises(BadInput, match="bn:0"), steer(toy, {"bn:0": 1.0, "module.bn:0": 2.0}):
        pytest.fail("entered")
    with pytest.raises(BadInput, match="'bn'"), ablate(toy, "bn"):
        pytest.fail("entered")
    with pytest.raises(BadInput, match="no layers"):
        look_at(toy)


class Wrapped(nn.Module):
    """Puts its convolution's maps into something else than a tensor."""

    def __init__(self, wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]):
        super().__init__()
        self.part = _Part(wrap)
        self.unwrap = unwrap

    def forward(self, images: Tensor) -> Tensor:
        return self.unwrap(self.part(images)).mean((2, 3))


class _Part(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]):
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(3, 4, 3, padding=1), wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.conv(images))


@pytest.mark.parametrize(
    ("wrap", "unwrap", "index"),
    [
        (lambda x: (x, "text"), lambda o: o[0], None),
        (lambda x: [None, x], lambda o: o[1], None),
        (lambda x: {"a": {"b": x}}, lambda o: o["a"]["b"], None),
        (lambda x: Pair(x * 2, x), lambda o: o.second, 1),
        (lambda x: Frozen("name", x), lambda o: o.values, None),
        (lambda x: Answer(values=x), lambda o: o.values, None),
        (lambda x: Answer(values=x), lambda o: o["values"], None),
        (lambda x: Answer(loss=x * 2, values=x), lambda o: o[1], 1),
    ],
)
def test_tuples_mappings_and_dataclasses(
    wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor], index: int | None
) -> None:
    target = Target(Wrapped(wrap, unwrap), image_size=SIZE, output_index=index)
    seen = look_at(target, "part", "part.conv")
    assert torch.equal(seen["part"], seen["part.conv"])
    with ablate(target, [Unit("part", 3)], value=1.5):
        changed = target.outputs(images())
    assert (changed[:, 3] == 1.5).all()
    assert torch.equal(changed[:, :3], target.outputs(images())[:, :3])


def test_an_output_index_that_is_not_there_is_told() -> None:
    target = Target(Wrapped(lambda x: (x, x), lambda o: o[0]), image_size=SIZE, output_index=5)
    with pytest.raises(BadInput, match=r"'part' of Wrapped .*output_index"):
        target.layer("part")


def compiled_whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_part(model: nn.Module) -> nn.Module:
    model.bn = torch.compile(model.bn, backend="eager")
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("wrap", [compiled_whole, compiled_part, compiled_in_place, nn.DataParallel])
def test_compiled_and_parallel_networks(toy: Target, wrap: Callable[[nn.Module], nn.Module]) -> None:
    plain, answer = look_at(toy, "bn", "relu#1"), toy.outputs(images())
    with ablate(toy, [Unit("bn", 0)]):
        without = toy.outputs(images())
    target = Target(wrap(toy.model.eval()), image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with torch.no_grad():
        torch.testing.assert_close(target.model(images()), answer)  # compiled now, before any hook
        for name in ("bn", "module.bn", "_orig_mod.bn", "module._orig_mod.bn"):
            assert torch.equal(look_at(target, name)[name], plain["bn"])
        with ablate(target, [Unit("bn", 0)]):
            torch.testing.assert_close(target.model(images()), without)
        torch.testing.assert_close(target.model(images()), answer)


class Tokens(nn.Module):
    """Patches as tokens after a class token: (b, 1 + 4 * 4, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 6, 2, 2), nn.Parameter(torch.ones(1, 1, 6))
        self.norm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.token.expand(len(images), -1, -1), tokens], 1)).mean(1)


def test_tokens_go_back_on_their_grid_and_the_class_token_apart() -> None:
    target = Target(Tokens(), image_size=SIZE)
    kept: list[tuple[str, Tensor, Tensor | None]] = []
    batch = torch.rand(3, 3, SIZE, SIZE)
    with run_to_layers(target, ["patches", "norm"], lambda *seen: kept.append(seen)) as look:
        look(batch)
        look(torch.rand(1, 3, 12, 12))  # another size than the target's: another grid
    assert torch.equal(kept[1][1], kept[0][1])
    assert kept[0][2] is None
    assert torch.equal(kept[1][2], torch.ones(3, 6))
    assert kept[3][1].shape == (1, 6, 6, 6)
    with ablate(target, [Unit("norm", 2)], value=0.5):
        assert torch.allclose(target.outputs(batch)[:, 2], torch.tensor(0.5))  # class token included


def test_half_precision_is_recorded_in_single() -> None:
    target = Target(Toy(), image_size=SIZE)
    target.model.to(torch.bfloat16)
    assert target.dtype == torch.bfloat16
    seen = look_at(target, "bn", batch=images().bfloat16())
    assert seen["bn"].dtype == torch.float32


def test_a_name_asked_for_twice_is_handed_on_under_both(toy: Target) -> None:
    seen = look_at(toy, "bn", "module.bn")
    assert torch.equal(seen["bn"], seen["module.bn"])


class Moved(Toy):
    """Keeps a list of where it was sent, and stays: there need not be a second device."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def to(self, device: torch.device) -> "Moved":  # type: ignore[override]
        self.sent.append(device.type)
        return self


def test_the_network_is_sent_to_the_device_and_home_again_also_after_an_exception() -> None:
    model = Moved()
    target = Target(model, image_size=SIZE, device="meta")
    with target.evaluation_mode():
        assert model.sent == ["meta"]
    assert model.sent == ["meta", "cpu"]
    with pytest.raises(KeyError), target.evaluation_mode():
        raise KeyError
    assert model.sent == ["meta", "cpu"] * 2
    with Target(model, image_size=SIZE, device="cpu").evaluation_mode():
        pass
    assert model.sent == ["meta", "cpu"] * 2  # where it already is, it is not sent


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_maps_are_of_the_targets_device_and_the_network_is_at_home_after_it(device: str) -> None:
    model = Toy()
    target = Target(model, image_size=SIZE, device=device)
    where: list[str] = []
    with run_to_layers(target, ["bn"], lambda name, maps, cls: where.append(maps.device.type)) as look:
        look(target.prepare(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)))
    assert where == [device]
    assert next(model.parameters()).device.type == "cpu"
