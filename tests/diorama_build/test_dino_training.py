"""The vision transformer that teaches itself: where its units look, what it learns from, and that training makes the
same file twice.
"""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from milan.diorama.networks import LAYERS, load_network
from milan.diorama.scene_classifiers import IMAGE_SIZE, MEAN, STD
from milan.diorama.vit import HIDDEN, MLP_LAYERS, TOKEN_GRID, WIDTH, ViT
from milan.diorama_build import dino_training as dino
from milan.diorama_build.build_steps import ANNOTATED_NETWORKS
from milan.diorama_build.dino_crops import GLOBAL, LOCAL, make_crops
from milan.dissection.dissect import dissect
from milan.dissection.milannotations import read_unit_annotations
from milan.probes import Probe
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.target import Target

PLACE, RED = 0, 1  # units of the network below


def seeing() -> ViT:
    """A transformer in whose first block one unit answers to the top right corner, whatever is there, and one to red,
    wherever it is.
    """
    model = ViT().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        model.norm.weight.fill_(1)
        patch = nn.Conv2d(3, WIDTH, IMAGE_SIZE // TOKEN_GRID, IMAGE_SIZE // TOKEN_GRID, bias=False)
        patch.weight.zero_()
        patch.weight[RED, 0], patch.weight[RED, 1] = 1 / 64, -1 / 64
        model.patch_embed = nn.Sequential(patch)
        model.pos_embed[0, PLACE, 0, TOKEN_GRID - 1] = 5
        model.cls_token[0, 0, :2] = 9  # which must not be taken for a place
        block = model.blocks[0]
        block.norm2.weight.fill_(1)
        block.mlp.fc1.weight[PLACE, PLACE] = block.mlp.fc1.weight[RED, RED] = 1
    return model


def with_red(row: int, column: int) -> Tensor:
    """A grey picture with a red patch."""
    image = torch.full((3, IMAGE_SIZE, IMAGE_SIZE), 128, dtype=torch.uint8)
    image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.tensor([255, 0, 0], dtype=torch.uint8).view(
        3, 1, 1
    )
    return image


def test_units_keep_their_true_place_on_the_token_grid(tmp_path) -> None:
    """The released code of 2022 dropped the last token in place of the class token: all masks were one patch off."""
    places = [(7, 0), (2, 5), (0, 0), (4, 4), (7, 7), (3, 6)]
    target = Target(seeing(), name="seeing", image_size=IMAGE_SIZE, mean=MEAN, std=STD)
    probe = Probe.from_tensor(torch.stack([with_red(*place) for place in places]))
    found = dissect(target, probe, [MLP_LAYERS[0]], tmp_path, k=6, quantile=0.98)[MLP_LAYERS[0]]
    corner, red = (found.exemplars(found.units[unit]) for unit in (PLACE, RED))
    for mask in corner.masks[:, 0]:
        rows, columns = mask.nonzero(as_tuple=True)
        assert rows.max() < 12
        assert columns.min() >= IMAGE_SIZE - 12
        assert mask[3, -4]
    for mask, number in zip(red.masks[:, 0], red.ids.tolist(), strict=True):
        row, column = places[number]
        where = mask.nonzero().float().mean(0)
        middle = torch.tensor([8.0 * row + 3.5, 8.0 * column + 3.5])
        assert (where - middle).abs().max() <= 2  # at the border, edge values are repeated


def test_pictures_of_other_sizes_have_more_or_fewer_tokens() -> None:
    model = ViT()
    tokens: list[int] = []
    model.blocks[0].register_forward_hook(lambda _, __, output: tokens.append(output.shape[1]))
    assert [model(torch.zeros(2, 3, side, side)).shape for side in (64, 40, 24)] == [(2, WIDTH)] * 3
    assert tokens == [65, 26, 10]
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(
        model.forward_summary(images), torch.cat([model(images), model.forward_tokens(images)[:, 1:].mean(1)], dim=1)
    )


def test_crops_are_of_their_sizes_and_of_the_generator_alone() -> None:
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (large, small), (again, _), (others, _) = (
        make_crops(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert [each.shape for each in large] == [(5, 3, GLOBAL[1], GLOBAL[1])] * 2
    assert [each.shape for each in small] == [(5, 3, LOCAL[1], LOCAL[1])] * LOCAL[0]
    assert all(torch.equal(one, other) for one, other in zip(large, again, strict=True))
    assert not torch.equal(large[0], others[0])
    assert not torch.equal(large[0][0], large[1][0])
    shown = torch.cat([each.flatten() for each in (*large, *small)]) * STD[0] + MEAN[0]
    assert shown.min() >= -1e-5
    assert shown.max() <= 1 + 1e-5


def test_a_crop_shows_a_part_of_the_picture() -> None:
    """Of a picture whose left half is white, crops are white on one side, and of a grey one they are grey."""
    halves = torch.zeros(40, 3, 64, 64)
    halves[..., :32] = 1
    large, _ = make_crops(halves, torch.Generator().manual_seed(0))
    bright = large[0].mean(1)
    left, right = bright[:, :, 0].mean(1), bright[:, :, -1].mean(1)
    assert 5 < ((left - right).abs() > 0.5).sum() <= 40
    assert {float((left > right).float().mean()) not in (0.0, 1.0)} == {True}  # some are mirrored


class Answers(nn.Module):
    """In place of a network: what each picture's first value says is the answer."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, images: Tensor) -> Tensor:
        return self.table[images[:, 0, 0, 0].long()]


def test_the_student_is_compared_with_the_teacher_at_other_crops_only() -> None:
    pair = dino.StudentTeacher()
    pair.student, pair.teacher = (
        Answers(torch.tensor([[0.3, 0.0], [0.0, 0.1], [0.2, 0.0]])),
        Answers(torch.eye(3, 2) * 0.2),
    )
    one, two, three = (torch.full((1, 1, 1, 1), float(number)) for number in range(3))
    loss = pair.loss([one, two], [three])
    dataset = dino.sinkhorn_normalize(torch.eye(2) * 0.2 / dino.TEACHER_TEMPERATURE)  # of the two large crops
    said = [torch.log_softmax(pair.student.table[row] / dino.STUDENT_TEMPERATURE, 0) for row in range(3)]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert torch.allclose(loss, -sum((dataset[i] * said[j]).sum() for i, j in pairs) / 4)
    loss.backward()
    assert pair.teacher.table.grad is None
    assert pair.student.table.grad is not None


def test_answers_are_shared_out_over_all_prototypes() -> None:
    """A prototype that wins everywhere wins nowhere then; by hand: two pictures prefer the first, one of them
    more so.
    """
    shares = dino.sinkhorn_normalize(torch.tensor([[2.5, 0.0], [1.5, 0.0]]))
    odds = math.exp(
        (2.5 - 1.5) / 2
    )  # rows and columns that sum to 1 keep the ratio of odds: x / (1 - x) squared is e^(2.5 - 1.5)
    even = torch.tensor([odds, 1.0]) / (1 + odds)
    assert torch.allclose(shares, torch.stack([even, even.flip(0)]), atol=0.02)
    many = dino.sinkhorn_normalize(
        3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) + torch.arange(16.0)
    )
    assert torch.allclose(many.sum(1), torch.ones(64), atol=1e-5)
    assert (many.sum(0) - 4).abs().max() < 2
    assert many.argmax(1).unique().numel() > 12


def test_the_rate_rises_stays_and_falls_and_the_teacher_stands_still_in_the_end() -> None:
    run = dino.DinoSchedule(1_000, 0)
    rates = [
        run.learning_rate(step) / dino.LEARNING_RATE
        for step in (0, dino.WARMUP_STEPS - 1, 300, 1_000 - int(500 * dino.DECAY_SHARE), 999)
    ]
    assert rates == pytest.approx([1 / dino.WARMUP_STEPS, 1, 1, 0.5, 1 / (1_000 * dino.DECAY_SHARE)])
    assert [run.momentum(step) for step in (0, 300)] == pytest.approx([dino.TEACHER_MOMENTUM] * 2)
    assert run.momentum(999) > 0.999


def test_the_teacher_follows_the_student() -> None:
    pair = dino.StudentTeacher()
    before = [value.clone() for value in pair.teacher.parameters()]
    with torch.no_grad():
        for value in pair.student.parameters():
            value.add_(1)
    pair.update_teacher(0.9)
    assert all(
        torch.allclose(new, old + 0.1, atol=1e-6) for new, old in zip(pair.teacher.parameters(), before, strict=True)
    )


def test_neighbours_vote_by_how_near_they_are() -> None:
    known = nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.0, 1.0], [-0.1, 1.0], [0.1, 1.0]]), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 1])  # more of the second, but further away
    assert dino.predict_by_neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), known, labels, 2).tolist() == [0, 1]


def test_training_goes_on_after_a_kill_and_makes_the_same_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dino, "BATCH_SIZE", 16)
    monkeypatch.setattr(dino, "CHECKPOINT_SECONDS", 0.0)
    whole = dino.StudentTeacher.update_teacher

    def train(folder: str, seed: int = 0) -> bytes:
        measured = dino.train_dino(tmp_path / folder, tmp_path / "scenes", seed=seed, steps=3, count=64)
        assert set(measured) == {"objects", "scenes"}
        return (tmp_path / folder / "dino-objects.safetensors").read_bytes()

    def killed(pair: dino.StudentTeacher, momentum: float) -> None:
        if momentum > dino.TEACHER_MOMENTUM + 1e-9:  # in the last steps
            raise KeyboardInterrupt
        whole(pair, momentum)

    first = train("first")
    monkeypatch.setattr(dino.StudentTeacher, "update_teacher", killed)
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    assert len(list((tmp_path / "scenes" / "training").iterdir())) == 1
    monkeypatch.setattr(dino.StudentTeacher, "update_teacher", whole)
    assert train("killed") == first
    assert train("other", seed=1) != first
    facts = json.loads((tmp_path / "first" / "dino-objects.json").read_text())
    assert facts["units"] == dict.fromkeys(MLP_LAYERS, HIDDEN)


def test_what_is_kept_of_it() -> None:
    """Its neighbours beat those of an untrained transformer."""
    home = locate_packaged_data("data") / "diorama"
    facts = json.loads((home / "networks" / "dino-objects.json").read_text())
    trained, untrained = facts["held_out"], facts["held_out_untrained"]
    assert trained["objects"] > untrained["objects"] + 3
    assert trained["scenes"] > untrained["scenes"] + 5
    assert LAYERS["dino-objects"] == [*MLP_LAYERS]
    said = read_unit_annotations(home / "annotations" / "dino-objects")
    assert len(said) >= 530
    assert {unit.layer for unit in said} == {*MLP_LAYERS}


def test_all_seven_networks_are_annotated() -> None:
    home = locate_packaged_data("data") / "diorama"
    message = json.loads((home / "annotations" / "agreement.json").read_text())["networks"]
    assert set(message) == {*ANNOTATED_NETWORKS}
    assert sum(each["units"] for each in message.values()) >= 3_000
    assert sum(each["descriptions"] for each in message.values()) >= 9_000


def test_neighbours_of_the_kept_weights_find_more_than_those_of_random_ones(tmp_path) -> None:
    torch.manual_seed(0)
    trained, untrained = (
        dino.evaluate_dino(model, tmp_path, 250) for model in (load_network("dino-objects"), ViT().eval())
    )
    assert trained["scenes"] > untrained["scenes"] + 3
