"""Segmenters: the embedded one against the scenes' own labels, real classes of transformers and torchvision from
folders and files.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from milan.diorama import DioramaImages
from milan.diorama.segmenter_network import SceneSegmenter, count_classes, load_scene_segmenter
from milan.diorama_build import segmenter_training as labelling
from milan.diorama_build.segmenter_training import (
    evaluate_segmenter,
    iter_held_out_scenes,
    stack_labels,
    train_scene_segmenter,
)
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.pretrained.segmenter import Segmenter, load_segmenter
from milan.pretrained.segmenter_labels import load_pixel_labels
from milan.probes import load_probe
from milan.storage.packaged_data import locate_packaged_data

COUNT = 40


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    shown = DioramaImages("objects", length=COUNT)
    return torch.from_numpy(np.stack([shown.image(index) for index in range(COUNT)]))


def test_the_embedded_segmenter_tells_what_pixels_show(images: torch.Tensor) -> None:
    """Against the labels of the probe, concept by concept, on scenes that it was neither trained on nor
    measured with.
    """
    segmenter = load_segmenter()
    found = segmenter.segment(images)
    truth = load_pixel_labels(load_probe("diorama:objects", limit=COUNT))
    exact = truth.load(range(COUNT))
    assert found.shape == (COUNT, 6, 64, 64)
    assert set(segmenter.level_names) == set(truth.level_names)
    assert set(segmenter.concepts) == set(truth.concepts)
    numbers = torch.tensor([*(segmenter.concepts.index(name) for name in truth.concepts), -1])
    right = {}
    for level, name in enumerate(segmenter.level_names):
        right[name] = (found[:, level] == numbers[exact[:, truth.level_names.index(name)]]).float().mean().item()
    assert right["colour"] > 0.85, right
    assert right["pattern"] > 0.85, right
    assert right["object"] > 0.85, right
    assert right["part"] > 0.85, right
    assert right["setting"] > 0.95, right
    assert right["text"] > 0.98, right


def test_no_batch_changes_an_answer_and_sizes_are_kept(images: torch.Tensor) -> None:
    one, many = load_segmenter(batch_size=1), load_segmenter(batch_size=16)
    assert torch.equal(one.segment(images[:3]), many.segment(images[:3]))
    assert one.key == many.key
    assert many.segment(images[:0]).shape == (0, 6, 64, 64)
    large = images[:2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    found = many.segment(large)
    assert found.shape == (2, 6, 128, 128)
    assert (found[:, :, ::2, ::2] == many.segment(images[:2])).float().mean() > 0.95


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    folder = tmp_path_factory.mktemp("segformer")
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8, id2label={0: "wall", 1: "sky", 2: "tree"},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_transformers_by_folder_answers_as_the_library_does(segformer: Path, images: torch.Tensor) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    segmenter = load_segmenter(f"hf:{segformer}", batch_size=4)
    assert segmenter.concepts == ["wall", "sky", "tree"]
    pictures = images[:6, :, :48]  # not square
    found = segmenter.segment(pictures)
    assert found.shape == (6, 1, 48, 64)
    model, processor = (
        AutoModelForSemanticSegmentation.from_pretrained(segformer),
        AutoImageProcessor.from_pretrained(segformer),
    )
    with torch.no_grad():
        output = model(**processor(images=list(pictures), return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(output, target_sizes=[(48, 64)] * 6)
    assert (found[:, 0] == torch.stack(expected)).float().mean() > 0.999
    assert len(found.unique()) > 1


def test_transformers_key_covers_weights_and_processor(segformer: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessor

    model = AutoModelForSemanticSegmentation.from_pretrained(segformer)
    model.save_pretrained(tmp_path / "other")
    SegformerImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "other")
    with torch.no_grad():
        model.decode_head.classifier.bias += 1
    model.save_pretrained(tmp_path / "third")
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "third")
    keys = [
        load_segmenter(f"hf:{folder}").key for folder in (segformer, segformer, tmp_path / "other", tmp_path / "third")
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_torchvision_with_a_file_of_weights(tmp_path: Path, images: torch.Tensor) -> None:
    from torchvision.models import segmentation

    torch.manual_seed(0)
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    segmenter = load_segmenter(f"torchvision:lraspp_mobilenet_v3_large={tmp_path / 'weights.pt'}")
    assert segmenter.concepts[:3] == ["background", "aeroplane", "bicycle"]
    assert len(segmenter.concepts) == 21
    found = segmenter.segment(images[:2])
    assert found.shape == (2, 1, 64, 64)
    preset = segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT.transforms()
    with torch.no_grad():
        logits = model.eval()(preset(images[:2]))["out"]
    expected = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False).argmax(1)
    assert (found[:, 0] == expected).float().mean() > 0.98


def test_torchvision_with_other_classes_counts_them(tmp_path: Path, images: torch.Tensor) -> None:
    from torchvision.models import segmentation

    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "four.pt")
    segmenter = load_segmenter(f"torchvision:lraspp_mobilenet_v3_large={tmp_path / 'four.pt'}")
    assert segmenter.concepts == ["class 1", "class 2", "class 3", "class 4"]
    assert int(segmenter.segment(images[:1]).max()) < 4


def test_one_of_your_own(tmp_path: Path, images: torch.Tensor) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from milan.pretrained.segmenter import Segmenter\n"
        "class Bright(Segmenter):\n"
        "    key, concepts, level_names = 'bright', ['bright'], ['light']\n"
        "    def _segment(self, images):\n"
        "        return (images.float().mean(1, keepdim=True) > 128).long() - 1\n"
        "def nothing():\n    return 3\n"
    )
    segmenter = load_segmenter(f"{file}:Bright")
    assert isinstance(segmenter, Segmenter)
    picture = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert segmenter.segment(picture).tolist() == [[[[-1, 0]]]]
    with pytest.raises(BadInput, match="makes a int"):
        load_segmenter(f"{file}:nothing")
    with pytest.raises(BadInput, match="diorama:small"):
        load_segmenter("diorama:small")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dioramma", "diorama"),
        ("hf:", "hf:ID_OR_FOLDER"),
        ("torchvision:fcn_resnet5", "fcn_resnet50"),
    ],
)
def test_unknown_names_are_told(spec: str, words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        load_segmenter(spec)


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch_size is 0"):
        load_segmenter(batch_size=0)
    with pytest.raises(BadInput, match="no folder"):
        load_segmenter("hf:./nowhere/at/all")
    with pytest.raises(BadInput, match="device"):
        load_segmenter(device="abacus")
    with pytest.raises(MissingEvidence, match="--only segmenter"):
        load_scene_segmenter(tmp_path)


def test_labels_of_a_scene_are_counted_as_the_heads_count_them() -> None:
    scene = DioramaImages("objects", length=1).scene(0)
    truth = stack_labels([scene])
    assert torch.equal(truth["object"][0], torch.from_numpy(scene.labels["object"].astype(np.int64)))  # 0 is nothing
    assert torch.equal(
        truth["colour"][0] + 1, torch.from_numpy(scene.labels["colour"].astype(np.int64))
    )  # every pixel has one
    assert {kind: tuple(maps.shape) for kind, maps in SceneSegmenter()(torch.zeros(1, 3, 64, 64)).items()}["part"] == (
        1,
        49,
        64,
        64,
    )


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder that has nothing but the encoder."""
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "encoder.safetensors").symlink_to(
        locate_packaged_data("data") / "diorama" / "networks" / "encoder.safetensors"
    )
    return tmp_path


def test_training_makes_the_same_file_twice_and_goes_on_after_a_kill(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CHECKPOINT_STEPS": 2, "CHECKING_SCENES": 8, "BATCH_SIZE": 4, "COUNTED_BATCHES": 2}.items():
        monkeypatch.setattr(labelling, name, value)
    measured = train_scene_segmenter(workshop, workshop / "work", scenes=16)
    file = workshop / "segmenter" / "model.safetensors"
    once = file.read_bytes()
    assert set(measured) == {"objects", "scenes"}
    assert not list((workshop / "work").glob("*.pt"))
    file.unlink()

    def killed(step: int, seed: int, batch: object = labelling._make_batch) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return batch(step, seed)  # type: ignore[operator]

    with monkeypatch.context() as patched:
        patched.setattr(labelling, "_make_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_scene_segmenter(workshop, workshop / "work", scenes=16)
    assert len(list((workshop / "work").glob("*.pt"))) == 1
    train_scene_segmenter(workshop, workshop / "work", scenes=16)
    assert file.read_bytes() == once


def test_rare_classes_count_for_more_and_a_pixel_for_1_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "COUNTED_BATCHES", 2)
    weights = labelling.compute_class_weights(0)
    truth = [labelling._make_batch(step, 0)[1]["part"].flatten() for step in range(2)]
    assert weights["part"][torch.cat(truth)].mean().item() == pytest.approx(1, abs=1e-3)
    assert weights["part"].argmin() == 0  # nothing is what most pixels show
    assert weights["text"].max() > 10


def test_the_measure_is_1_for_the_truth_itself() -> None:
    class Knowing(SceneSegmenter):
        """Answers with the labels of the held-out scenes, in the order in which they are asked for."""

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            truth = stack_labels(self.scenes[: len(images)])
            del self.scenes[: len(images)]
            return {
                kind: torch.nn.functional.one_hot(maps, count_classes(kind)).permute(0, 3, 1, 2)
                for kind, maps in truth.items()
            }

    model = Knowing()
    model.scenes = [
        scene for world in ("objects", "scenes") for scenes in iter_held_out_scenes(world, 6) for scene in scenes
    ]
    measured = evaluate_segmenter(model, 6)
    measured["objects"].pop("text")  # of which these few scenes show none
    measured["scenes"].pop("text")
    assert [set(world.values()) for world in measured.values()] == [{1.0}, {1.0}]
