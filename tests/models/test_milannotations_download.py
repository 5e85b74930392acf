"""The released annotations: downloaded from a local server, and joined with images in the layout of ImageNet's
validation set.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from milan.dissection.loading import load_dissection
from milan.errors import BadInput, MissingEvidence
from milan.models.data_module import find_annotation_sources, read_annotations
from milan.models.milannotations_download import join_images
from milan.units import Unit
from tests.file_server import serve
from tests.models.test_data_module import annotated

pytestmark = pytest.mark.filterwarnings("ignore::milan.errors.MilanNotice")


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return buffer.getvalue()


def imagenet_like(folder: Path, classes: int, images: int) -> Path:
    """Pictures whose red says their class and whose green their number, of a shape that squashing would show."""
    for number in range(classes):
        place = folder / "val" / f"n{number:08}"
        place.mkdir(parents=True)
        for index in range(images // classes):
            pixels = np.zeros((40, 64, 3), np.uint8)
            pixels[..., 0], pixels[..., 1] = 40 * number, 40 * index
            pixels[:, :8, 2] = 255  # cut off by the central square
            Image.fromarray(pixels).save(place / f"image_{index}.png")
    return folder


def without_images(folder: Path) -> Path:
    root = annotated(folder, layers=("conv1",), units=2)
    (root / "conv1" / "images.npy").unlink()
    np.savetxt(root / "conv1" / "ids.csv", [[0, 5, 1, 2], [3, 4, 5, 0]], fmt="%d", delimiter=",")
    return root


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    files = {}
    for name in ("imagenet", "places365"):
        files[f"/data/biggan-{name}.zip"] = zipped(annotated(tmp_path / "made" / name, layers=("layer0",), units=4))
    files["/data/alexnet-imagenet.zip"] = zipped(without_images(tmp_path / "made" / "alexnet"))
    with serve(files) as server:
        monkeypatch.setenv("MILAN_RELEASE_URL", server.url)
        yield server


def test_a_group_is_downloaded_once_and_brings_its_images(release):
    release.faults += ["cut:1000"]
    layers = find_annotation_sources(["milannotations:biggan"])
    assert [layer.relative_to(layer.parents[1]).as_posix() for layer in layers] == [
        "biggan-imagenet/layer0",
        "biggan-places365/layer0",
    ]
    assert read_annotations(layers[0])[Unit("layer0", 2)][0] == "green squares"
    assert load_dissection(layers[0]).exemplars(Unit("layer0", 0)).images.shape == (4, 3, 32, 32)
    asked = len(release.asked)
    assert find_annotation_sources(["milannotations:biggan"]) == layers
    assert len(release.asked) == asked == 3


def test_annotations_of_imagenet_need_its_folder_and_say_so(release):
    with pytest.raises(MissingEvidence, match=r"--data\.imagenet FOLDER"):
        find_annotation_sources(["milannotations:alexnet/imagenet"])


def test_ids_are_places_in_torchvisions_order_and_the_crop_is_the_exemplars(tmp_path):
    root, pictures = without_images(tmp_path / "alexnet"), imagenet_like(tmp_path / "pictures", 2, 6)
    join_images(root, str(pictures), classes=2, images=6)
    found = load_dissection(root / "conv1").exemplars(Unit("conv1", 0)).images
    files = [Path(file) for file, _ in ImageFolder(pictures / "val").samples]
    for image, index in zip(found, (0, 5, 1, 2), strict=True):
        number, place = int(files[index].parent.name[1:]), int(files[index].stem[-1])
        assert image[:2, 16, 16].tolist() == [40 * number, 40 * place]
    assert found.shape[-2:] == (32, 32)
    assert int(found[:, 2].max()) == 0  # nothing of the left edge: cut out, not squashed
    join_images(root, classes=2, images=6)


@pytest.mark.parametrize(("classes", "images"), [(3, 6), (2, 8)])
def test_another_folder_than_the_validation_set_is_refused(classes, images, tmp_path):
    root, pictures = without_images(tmp_path / "alexnet"), imagenet_like(tmp_path / "pictures", 2, 6)
    with pytest.raises(BadInput, match="6 images in 2 folders"):
        join_images(root, str(pictures), classes=classes, images=images)
    assert not (root / "conv1" / "probe.json").exists()


def test_an_id_that_the_validation_set_does_not_have_is_refused(tmp_path):
    root, pictures = without_images(tmp_path / "alexnet"), imagenet_like(tmp_path / "pictures", 2, 4)
    with pytest.raises(BadInput, match=r"id 5; .* 0 to 3"):
        join_images(root, str(pictures), classes=2, images=4)


def test_a_joined_folder_is_written_down_and_replaced(tmp_path):
    root = without_images(tmp_path / "alexnet")
    for name in ("one", "two"):
        place = imagenet_like(tmp_path / name, 2, 6)
        join_images(root, str(place), classes=2, images=6)
        assert json.loads((root / "conv1" / "probe.json").read_text()) == {"spec": str(place / "val")}


def test_an_archive_that_is_none_is_not_kept(release, tmp_path):
    release.files["/data/biggan-imagenet.zip"] = b"no archive" * 99
    with pytest.raises(BadInput, match="no zip file"):
        find_annotation_sources(["milannotations:biggan/imagenet"])
    assert not list((tmp_path / "cache").rglob("*.zip"))
