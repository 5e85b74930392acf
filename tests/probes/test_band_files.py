"""Networks of one channel and of many: grey pictures, arrays of bands, and what is shown of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from milan.cli.describe import main
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.errors import BadInput, MilanWarning
from milan.probes import Probe, load_probe
from milan.probes.band_files import read_bands
from milan.probes.image_decoding import UnreadableImage
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.targets.generator_target import GeneratorTarget
from milan.targets.latents import Latents
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit

SIZE, COUNT = 16, 12
GREY = {"mean": (0.4,), "std": (0.3,), "image_size": SIZE}
# Reflectances, in units of their own as satellites' products have them.
BANDS = 13
MEAN, STD = tuple(1000.0 + band for band in range(BANDS)), (300.0,) * BANDS


def net(channels: int) -> nn.Module:
    torch.manual_seed(0)
    after = [nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 2)]
    return nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), *after)


def grey_target() -> Target:
    return Target(net(1), name="grey", **GREY)


def band_target(**options: object) -> Target:
    given = {"mean": MEAN, "std": STD, "image_size": SIZE, "display_bands": (3, 2, 1)} | options
    return Target(net(BANDS), name="bands", **given)


def arrays() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (COUNT, BANDS, SIZE, SIZE), dtype=np.uint16)


def write_npy(file: Path, image: np.ndarray) -> None:
    np.save(file.with_suffix(".npy"), image.transpose(1, 2, 0))


def write_npy_first(file: Path, image: np.ndarray) -> None:
    np.save(file.with_suffix(".npy"), image.astype(np.float64))


def write_tiff(file: Path, image: np.ndarray) -> None:
    tifffile.imwrite(file.with_suffix(".tif"), image.transpose(1, 2, 0), planarconfig="contig", compression="zlib")


def write_planes(file: Path, image: np.ndarray) -> None:
    tifffile.imwrite(file.with_suffix(".tiff"), image, planarconfig="separate")


def folder_of(place: Path, write: object = write_npy, images: np.ndarray | None = None) -> Path:
    for index, image in enumerate(arrays() if images is None else images):
        folder = place / ("forest", "sea")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{index:02}", image)  # type: ignore[operator]
    return place


def plain(target: Target, images: Tensor) -> Tensor:
    """The peaks of the first layer, by plain PyTorch."""
    with torch.no_grad():
        return target.model[0](images).amax((2, 3))  # type: ignore[index]


# one channel


@pytest.fixture
def grey_folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / "digits" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return tmp_path / "digits"


def test_a_grey_network_sees_grey_pictures_as_they_are(grey_folder: Path, tmp_path: Path) -> None:
    target = grey_target()
    probe = load_probe(str(grey_folder), target=target)
    found = dissect(target, probe, ["0"], tmp_path / "out", k=3)["0"]
    files = sorted(grey_folder.rglob("*.png"))
    own = torch.stack([torch.from_numpy(np.asarray(Image.open(file))).float()[None] / 255 for file in files])
    assert torch.equal(found.activations("max"), plain(target, (own - 0.4) / 0.3))
    shown = found.exemplars(Unit("0", 1)).images
    assert shown.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(shown[:, 0], shown[:, 2])


def test_coloured_pictures_become_grey_as_pillow_makes_them() -> None:
    pixels = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = Target(net(1), mean=(0.0,), std=(1.0,), image_size=40)
    grey = [np.asarray(Image.fromarray(each.permute(1, 2, 0).numpy()).convert("L")) for each in pixels]
    assert torch.equal(target.prepare(pixels)[:, 0] * 255, torch.from_numpy(np.stack(grey)).float())


def test_a_grey_network_goes_through_a_whole_run(grey_folder: Path, tmp_path: Path) -> None:
    code = "from tests.probes.test_band_files import grey_target\n"
    (tmp_path / "net.py").write_text(code)
    where = ["--target", f"{tmp_path / 'net.py'}:grey_target", "--probe", str(grey_folder), "--layers", "0"]
    assert main([*where, "--describer", "constant:text=things", "--k", "3", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["images"] == COUNT
    assert (tmp_path / "out" / "page" / "index.html").is_file()


def test_accuracy_without_units_of_networks_of_other_channels(grey_folder: Path, tmp_path: Path) -> None:
    for target, folder in ((grey_target(), grey_folder), (band_target(), folder_of(tmp_path / "bands"))):
        probe = load_probe(str(folder), target=target)
        _, right = evaluate_ablations(target, probe, [(), [Unit("0", 0)]], tmp_path / f"{target.name}.sqlite")
        given = torch.cat([target.make_input(ids, images) for ids, images in probe.inputs(5)])
        with torch.no_grad():
            own = target.model(given).argmax(1) == torch.tensor(probe.labels)
        assert right[0].tolist() == own.tolist()


def test_grey_pictures_in_memory() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 1, SIZE, SIZE), dtype=np.uint8))
    probe = Probe.from_tensor(pixels)
    assert torch.equal(probe.image(3), pixels[3].expand(3, -1, -1))
    given = grey_target().make_input(torch.tensor([3]), probe.input(3)[None])
    assert torch.allclose(given, (pixels[3:4] / 255 - 0.4) / 0.3)


def test_a_generator_of_grey_pictures() -> None:
    model = nn.Sequential(nn.Linear(4, SIZE * SIZE), nn.Tanh(), nn.Unflatten(1, (1, SIZE, SIZE)))
    target = GeneratorTarget(model, Latents(4, count=6), image_size=SIZE)
    picture = target.generate_image(2)
    assert picture.shape == (3, SIZE, SIZE)
    assert torch.equal(picture[0], picture[2])


def test_grey_networks_of_transformers(tmp_path: Path) -> None:
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    transformers.ViTModel(transformers.ViTConfig(**sizes, num_channels=1)).save_pretrained(tmp_path)
    side = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    target = load_target(f"hf:{tmp_path}")
    assert (target.mean, target.std, target.image_size) == ((0.5,), (0.25,), 32)
    assert target.layer("layernorm").grid == (4, 4)


# bands


@pytest.mark.parametrize("write", [write_npy, write_npy_first, write_tiff, write_planes])
def test_a_network_of_bands_sees_them_as_they_are(write: object, tmp_path: Path) -> None:
    target = band_target()
    probe = load_probe(str(folder_of(tmp_path / "eurosat", write)), target=target)
    assert (probe.channels, probe.classes) == (BANDS, ["forest", "sea"])
    found = dissect(target, probe, ["0"], tmp_path / "out", k=4)["0"]
    images = torch.from_numpy(arrays().astype(np.float32))[[*range(0, COUNT, 2), *range(1, COUNT, 2)]]
    own = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    assert torch.allclose(found.activations("max"), plain(target, own), atol=1e-5)
    exemplars = found.exemplars(Unit("0", 2))
    assert exemplars.ids.tolist() == plain(target, own)[:, 2].argsort(descending=True)[:4].tolist()
    rgb = images[:, [3, 2, 1]]
    low, high = (rgb.transpose(0, 1).flatten(1).quantile(share, dim=1)[:, None, None] for share in (0.02, 0.98))
    expected = ((rgb - low) / (high - low)).clamp(0, 1)[exemplars.ids] * 255
    assert (exemplars.images.float() - expected).abs().max() <= 0.51


def test_a_dissection_of_bands_opens_its_probe_again(tmp_path: Path) -> None:
    target = band_target()
    probe = load_probe(str(folder_of(tmp_path / "eurosat")), target=target)
    dissect(target, probe, ["0"], tmp_path / "out", k=4)
    again = load_dissection(tmp_path / "out" / "0").open_probe()
    assert again.fingerprint == probe.fingerprint
    assert torch.equal(again.input(5), probe.input(5))
    part = load_probe(f"{tmp_path / 'eurosat'}@judge", target=target)
    assert part.channels == BANDS
    assert part.image(0).shape == (3, SIZE, SIZE)
    assert probe.subset([5, 2]).input(1).equal(probe.input(2))
    other = load_probe(str(tmp_path / "eurosat"), target=band_target(display_bands=(0, 1, 2)))
    assert other.fingerprint != probe.fingerprint


def test_bands_are_scaled_and_cut_as_pictures_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (tmp_path / "bands").mkdir()
    (tmp_path / "pictures").mkdir()
    np.save(tmp_path / "bands" / "a.npy", np.concatenate([pixels, pixels[..., :1]], axis=2))
    Image.fromarray(pixels).save(tmp_path / "pictures" / "a.png")
    sizes = {"image_size": (16, 20), "resize": (20, 25)}
    four = Target(net(4), mean=(0.0,) * 4, std=(1.0,) * 4, display_bands=(0, 1, 2), **sizes)
    three = Target(net(3), mean=(0.0,) * 3, std=(1.0,) * 3, **sizes)
    bands = load_probe(str(tmp_path / "bands"), target=four)
    pictures = load_probe(str(tmp_path / "pictures"), target=three)
    assert (bands.input(0)[:3] * 255 - pictures.input(0)).abs().max() <= 1
    assert (bands.image(0).int() - pictures.image(0).int()).abs().max() <= 1


def test_bands_that_nobody_chose_to_be_shown_are_warned_of(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "tiles", images=arrays()[:, :4]))
    with pytest.warns(MilanWarning, match="first three of the 4 bands"):
        load_probe(folder, channels=4, size=SIZE)
    with pytest.raises(BadInput, match=r"band 4.* 0 to 3"):
        load_probe(folder, channels=4, size=SIZE, display_bands=(4, 1, 0))
    with pytest.raises(BadInput, match=r"\(1, 0\)"):
        load_probe(folder, channels=4, size=SIZE, display_bands=(1, 0))


def test_bands_in_memory(tmp_path: Path) -> None:
    probe = Probe.from_tensor(arrays().astype(np.float32), display_bands=(3, 2, 1))
    found = dissect(band_target(), probe, ["0"], tmp_path, k=2)["0"]
    assert found.exemplars(Unit("0", 0)).images.shape == (2, 3, SIZE, SIZE)
    with pytest.warns(MilanWarning, match="first three"):
        bytes_probe = Probe.from_tensor((arrays()[:, :4] // 16).astype(np.uint8))
    assert bytes_probe.image(0).equal(torch.from_numpy((arrays()[0, :3] // 16).astype(np.uint8)))
    assert float(bytes_probe.input(0).max()) <= 1


def test_a_network_and_a_probe_of_other_channels_do_not_fit(tmp_path: Path, grey_folder: Path) -> None:
    pictures = load_probe(str(grey_folder), size=SIZE)
    bands = Probe.from_tensor(arrays().astype(np.float32), display_bands=(3, 2, 1))
    for target, probe, message in (
        (band_target(), pictures, "13 channels and these have 3"),
        (grey_target(), bands, "1 channels and these have 13"),
    ):
        with pytest.raises(BadInput, match=message):
            dissect(target, probe, ["0"], tmp_path / "out")
    with pytest.raises(BadInput, match=r"no images found .*\.npy .*12 \.png"):
        load_probe(str(grey_folder), target=band_target())
    with pytest.raises(BadInput, match="mean and std"):
        Target(net(1), name="digits", image_size=SIZE).layers()
    with pytest.raises(BadInput, match="display_bands"):
        load_probe(str(grey_folder), size=SIZE, display_bands=(2, 1, 0))


def test_a_folder_of_arrays_alone_serves_networks_of_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, SIZE, SIZE), dtype=np.uint8)
    target = Target(net(3), image_size=SIZE)
    probe = load_probe(str(folder_of(tmp_path / "tiles", images=pixels)), target=target)
    given = target.make_input(torch.tensor([0]), probe.input(0)[None])
    assert torch.allclose(given, target.prepare(torch.from_numpy(pixels[:1])), atol=1e-5)
    assert torch.equal(probe.image(0), torch.from_numpy(pixels[0]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pickled.npy", lambda file: np.save(file, np.array([{}, {}]), allow_pickle=True), "Python objects"),
        ("cut.npy", lambda file: file.write_bytes(b"\x93NUMPY\x01\x00"), ""),
        ("axes.npy", lambda file: np.save(file, np.zeros((2, 3, 4, 5))), r"\(2, 3, 4, 5\)"),
        ("complex.npy", lambda file: np.save(file, np.zeros((3, 8, 8), complex)), "complex"),
        ("text.tif", lambda file: file.write_text("not a tiff"), ""),
        ("empty.npy", lambda file: file.write_bytes(b""), ""),
    ],
)
def test_damaged_arrays_are_unreadable(name: str, content: object, message: str, tmp_path: Path) -> None:
    content(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(UnreadableImage, match=message):
        read_bands(tmp_path / name)


def test_an_array_that_claims_to_be_huge_is_unreadable(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 13), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UnreadableImage):
        read_bands(tmp_path / "a.npy")


def test_an_array_of_other_bands_is_skipped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tiles", images=np.repeat(arrays(), 3, axis=0))
    np.save(folder / "sea" / "zz.npy", arrays()[0, :5])
    probe = load_probe(str(folder), target=band_target())
    with pytest.warns(MilanWarning, match="5 bands.* 13"):
        assert sum(len(ids) for ids, _ in probe.inputs(8)) == 3 * COUNT


def test_without_tifffile_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "tiles", write_tiff)
    monkeypatch.setitem(sys.modules, "tifffile", None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"milan\[bands\]"):
        load_probe(str(folder), target=band_target())
