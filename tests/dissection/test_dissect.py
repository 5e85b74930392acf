"""What a dissection finds, against brute force; and what must not change it."""

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from milan.dissection import dissect as dissecting
from milan.dissection import dissection_run as running
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.masks import masks_from_maps
from milan.errors import BadInput, MilanNotice, MilanWarning, MissingEvidence, UnknownName, recorded_warnings
from milan.probes import Probe, load_probe
from milan.storage.files import lock_folder
from milan.targets import target as targets
from milan.targets.hooks import ablate, run_to_layers
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit
from tests.dissection.world import (
    LAYERS,
    SIZE,
    Hungry,
    Toy,
    all_maps,
    brute_exemplars,
    brute_thresholds,
    counted,
    files,
    leftovers,
    toy_images,
    toy_probe,
    toy_target,
)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> None:
    warnings.simplefilter("error", MilanWarning)
    warnings.filterwarnings("ignore", ".* are shown whole", MilanWarning)


def test_everything_is_brute_force(tmp_path: Path) -> None:
    target, images = toy_target(), toy_images()
    found = dissect(target, toy_probe(), LAYERS, tmp_path, k=7, quantile=0.95)
    for layer, maps in all_maps(target, images).items():
        dissection = found[layer]
        ids = brute_exemplars(maps, 7)
        thresholds = brute_thresholds(maps, 0.95).astype(np.float32)
        assert np.array_equal(dissection.thresholds().numpy(), thresholds)
        assert torch.equal(dissection.activations("max"), maps.amax((2, 3)))
        assert torch.allclose(dissection.activations("mean"), maps.mean((2, 3)), atol=1e-6)
        for unit in dissection.units:
            exemplars = dissection.exemplars(unit)
            own = maps[ids[unit.index], unit.index]
            assert exemplars.ids.tolist() == ids[unit.index].tolist()
            assert torch.equal(exemplars.activations, own.amax((1, 2)))
            assert torch.equal(exemplars.images, images[exemplars.ids])
            expected = masks_from_maps(own, float(thresholds[unit.index]), SIZE)
            empty = ~expected.flatten(1).any(1)
            assert torch.equal(exemplars.masks[~empty, 0], expected[~empty])
            assert exemplars.masks[empty].all()


def test_values_are_those_before_an_in_place_successor(tmp_path: Path) -> None:
    found = dissect(toy_target(), toy_probe(), ["conv1", "relu"], tmp_path)
    assert found["conv1"].activations("mean").min() < 0 <= found["relu"].activations("mean").min()


def test_network_and_threads_are_as_before(tmp_path: Path) -> None:
    target = toy_target()
    target.model.train()
    torch.set_num_threads(2)
    try:
        dissect(target, toy_probe(), ["conv2"], tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(module.training and not module._forward_hooks for module in target.model.modules())


def squeezenet() -> tuple[Target, Probe]:
    """A real architecture, whose numbers do depend on batch and threads when it is run plainly."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(0)
    return Target(squeezenet1_0(), name="squeezenet", image_size=96), Probe.from_tensor(toy_images(40, 96))


@pytest.mark.parametrize(("batch_size", "workers", "threads"), [(1, 0, 1), (7, 2, 2), (16, 0, 2), (40, 2, 1)])
def test_same_bytes_for_any_batch_workers_and_threads(
    tmp_path: Path, batch_size: int, workers: int, threads: int
) -> None:
    target, probe = squeezenet()
    layers = ["features.3", "features.12"]
    dissect(target, probe, layers, tmp_path / "one")
    torch.set_num_threads(threads)
    try:
        dissect(target, probe, layers, tmp_path / "other", batch_size=batch_size, workers=workers)
    finally:
        torch.set_num_threads(1)
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_run_plainly_the_same_network_depends_on_the_batch() -> None:
    """Why blocks are needed; should this fail some day, they are not."""
    target, probe = squeezenet()
    images = target.prepare(torch.stack([probe.image(index) for index in range(40)]))
    with torch.no_grad():
        ones, all_at_once = (
            torch.cat([target.model.eval().features(part) for part in images.split(size)]) for size in (1, 40)
        )
    assert not torch.equal(ones, all_at_once)


def test_layers_one_by_one_or_together_make_the_same_bytes(tmp_path: Path) -> None:
    dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "together")
    for layer in reversed(LAYERS):
        dissect(toy_target(), toy_probe(), [layer], tmp_path / "apart")
    assert files(tmp_path / "together") == files(tmp_path / "apart")


def passes(target: Target, probe: Probe, out: Path, **settings: object) -> int:
    """How many images of the probe go through the network for this dissection."""
    count = counted(target)
    _ = next(count), target.dissectable_layers, target.fingerprint  # both run it too
    before = next(count)
    dissect(target, probe, ["conv2"], out, **settings)
    return next(count) - before - 5  # images by which the layers are examined


def test_what_is_known_is_not_looked_at_again_and_what_changed_is(tmp_path: Path) -> None:
    probe = toy_probe(60)
    assert passes(toy_target(), probe, tmp_path) == 60
    assert passes(toy_target(), probe, tmp_path) == 0
    assert passes(toy_target(), probe, tmp_path, batch_size=3, workers=1, memory="3GiB") == 0
    for change in ({"k": 4}, {"quantile": 0.9}, {"units": {"conv2": [1, 3]}}):
        assert passes(toy_target(), probe, tmp_path, **change) == 60
        assert passes(toy_target(), probe, tmp_path, **change) == 0
    changed = toy_target()
    with torch.no_grad():
        changed.model.conv1.bias[0] += 1e-6
    assert passes(changed, probe, tmp_path) == 60
    pixel = toy_images(60)
    pixel[17, 0, 3, 3] ^= 1
    assert passes(changed, Probe.from_tensor(pixel), tmp_path) == 60
    other_colours = Target(changed.model, name="toy", image_size=SIZE, mean=(0.5, 0.5, 0.5))
    assert passes(other_colours, Probe.from_tensor(pixel), tmp_path) == 60


def test_what_was_found_of_an_ablated_network_is_not_taken_for_the_whole_one(tmp_path: Path) -> None:
    target, probe = toy_target(), toy_probe(60)
    whole = dissect(target, probe, ["conv2"], tmp_path)["conv2"].thresholds()
    with ablate(target, [Unit("conv1", 0), Unit("conv1", 3)]):
        assert not torch.equal(dissect(target, probe, ["conv2"], tmp_path)["conv2"].thresholds(), whole)
    with ablate(target, [Unit("conv1", 1)]):
        other = dissect(target, probe, ["conv2"], tmp_path)["conv2"].thresholds()
    assert not torch.equal(other, whole)
    assert torch.equal(dissect(target, probe, ["conv2"], tmp_path)["conv2"].thresholds(), whole)


def changed(**facts: object) -> Callable[[bytes], bytes]:
    """A dissection.json that says something else."""
    return lambda file: json.dumps(json.loads(file) | facts).encode()


SPOILT: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "of 0.1": ("conv2/dissection.json", changed(format=1), "milan 0.1"),
    "of another version": ("conv2/dissection.json", changed(format=99), "format 99"),
    "changed by hand": ("conv2/dissection.json", changed(image_size=31), "checksum"),
    "no facts": ("conv2/dissection.json", lambda file: b"[]", "JSON list"),
    "cut facts": ("conv2/dissection.json", lambda file: file[:200], "not JSON"),
    "deep": ("conv2/dissection.json", lambda file: b"[" * 100_000, "too deeply"),
    "lost": ("conv2/pooled_max.npy", lambda file: None, "pooled_max.npy cannot be read"),
    "cut exemplars": ("conv2/exemplars.safetensors", lambda file: file[:-1], "exemplars.safetensors is damaged"),
    "a flipped bit": ("conv2/exemplars.safetensors", lambda file: file[:-1] + bytes([file[-1] ^ 1]), "checksum"),
    "zero bytes": ("conv2/statistics.safetensors", lambda file: b"", "0 bytes instead"),
    "cut activations": ("conv2/pooled_mean.npy", lambda file: file[:-4], "pooled_mean.npy is damaged"),
    "lost images": ("images.npy", lambda file: None, ""),
    "lost list": ("images.json", lambda file: None, ""),
    "cut images": ("images.npy", lambda file: file[:-1], ""),
    "other images": ("images.npy", lambda file: file[:-1] + bytes([file[-1] ^ 1]), ""),
    "other order": ("images.json", changed(ids=[*range(60)]), ""),
}


@pytest.mark.parametrize("what", SPOILT)
def test_damaged_results_are_told_and_made_anew(tmp_path: Path, what: str) -> None:
    made = dissect(toy_target(), toy_probe(60), ["conv2"], tmp_path)["conv2"]
    shown = made.exemplars(made.units[0]).images
    whole = files(tmp_path)
    name, spoil, message = SPOILT[what]
    content = spoil((tmp_path / name).read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if message:
        with pytest.raises((BadInput, MissingEvidence), match=message):
            read_whole(load_dissection(tmp_path / "conv2"))
        with pytest.warns(MilanNotice, match=message):
            dissect(toy_target(), toy_probe(60), ["conv2"], tmp_path)
    found = dissect(toy_target(), toy_probe(60), ["conv2"], tmp_path)["conv2"]
    assert files(tmp_path) == whole
    assert torch.equal(found.exemplars(found.units[0]).images, shown)


def read_whole(dissection: Dissection) -> None:
    dissection.maps(dissection.units[0])
    dissection.thresholds()
    for pooling in ("max", "mean"):
        dissection.activations(pooling)


def test_a_layer_beside_a_damaged_one_is_dissected(tmp_path: Path) -> None:
    dissect(toy_target(), toy_probe(60), ["conv1"], tmp_path)
    (tmp_path / "conv1" / "dissection.json").write_text("[]")
    found = dissect(toy_target(), toy_probe(60), ["conv2"], tmp_path)["conv2"]
    assert len(found.exemplars(found.units[0]).images) == 15


class Crafted(nn.Module):
    """Units whose behaviour is known by heart, made of the mean colour."""

    names = ("zero", "constant", "negative", "rare", "red", "nan", "sometimes_nan", "infinite")

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        red = images[:, :1, ::8, ::8]
        first = red.flatten(1).amax(1).reshape(-1, 1, 1, 1)
        nothing = torch.zeros_like(red)
        return self.units(
            torch.cat(
                [
                    nothing,
                    nothing + 3,
                    red - 100,
                    (red * (first > 0.99)).clamp(min=0),
                    red,
                    nothing / 0,
                    torch.where(first > 0.99, nothing / 0, red),
                    nothing + torch.inf,
                ],
                1,
            )
        )


def crafted(count: int = 30) -> tuple[Target, Probe]:
    images = toy_images(count) // 2
    images[5, 0] = 255
    images[9, 0] = 254
    return Target(
        Crafted(), name="crafted", image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    ), Probe.from_tensor(images)


def test_dead_sparse_and_invalid_units_are_told_apart(tmp_path: Path) -> None:
    target, probe = crafted()
    with pytest.warns(MilanWarning, match="NaN or infinite activations in units 5, 6, 7; they count as the lowest"):
        found = dissect(target, probe, ["units"], tmp_path, k=4)["units"]
    words = dict(zip(Crafted.names, found.status.values(), strict=True))
    assert words == {
        "zero": "dead",
        "constant": "dead",
        "negative": "ok",
        "rare": "sparse",
        "red": "ok",
        "nan": "invalid",
        "sometimes_nan": "ok",
        "infinite": "invalid",
    }
    assert [unit.index for unit in found.active_units()] == [2, 4, 6]
    assert found.exemplars(Unit("units", 2)).ids[:2].tolist() == [5, 9]
    assert found.exemplars(Unit("units", 2)).activations.max() < 0
    assert found.exemplars(Unit("units", 0)).ids.tolist() == [0, 1, 2, 3]
    assert found.exemplars(Unit("units", 3)).ids.tolist() == [5, 9, 0, 1]
    assert not {5, 9} & set(found.exemplars(Unit("units", 6)).ids.tolist())
    assert found.exemplars(Unit("units", 0)).masks.all()
    assert found.activations("max")[:, 5].isnan().all()
    assert found.activations("mean")[:, 6].isnan().nonzero().flatten().tolist() == [5, 9]


def test_more_exemplars_than_images(tmp_path: Path) -> None:
    with pytest.warns(MilanWarning, match="k is 15, .* only 4 images.*k = 4"):
        found = dissect(toy_target(), toy_probe(4), ["conv2"], tmp_path)["conv2"]
    assert found.k == 4
    assert all(sorted(found.exemplars(unit).ids.tolist()) == [0, 1, 2, 3] for unit in found.units)


def test_one_image(tmp_path: Path) -> None:
    found = dissect(toy_target(), toy_probe(1), LAYERS, tmp_path, k=1)
    assert found["conv1"].exemplars(Unit("conv1", 3)).ids.tolist() == [0]
    assert found["head"].status[Unit("head", 0)] in ("ok", "sparse")  # one number proves no death
    assert found["head"].activations().shape == (1, 5)


def test_empty_masks_become_whole_and_that_is_told_once(tmp_path: Path) -> None:
    found = dissect(toy_target(), toy_probe(), ["head"], tmp_path)["head"]
    with pytest.warns(
        MilanWarning, match="head: exemplars in which no place exceeds the unit's threshold are shown whole"
    ):
        first = found.exemplars(found.active_units()[0])
    assert first.masks.all()
    warnings.simplefilter("error", MilanWarning)
    assert found.exemplars(found.active_units()[1]).masks.all()


def test_unit_subset_is_the_same_as_in_the_whole(tmp_path: Path) -> None:
    whole = dissect(toy_target(), toy_probe(), ["conv2"], tmp_path / "whole")["conv2"]
    part = dissect(toy_target(), toy_probe(), ["conv2"], tmp_path / "part", units={"conv2": [6, 1, 6]})["conv2"]
    assert [unit.index for unit in part.units] == [1, 6]
    assert torch.equal(part.thresholds(), whole.thresholds()[[1, 6]])
    assert torch.equal(part.activations("mean"), whole.activations("mean")[:, [1, 6]])
    for unit in part.units:
        one, other = part.exemplars(unit), whole.exemplars(unit)
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.masks, other.masks)
    with pytest.raises(UnknownName, match=r"'conv2:2'.*2 units of conv2 were dissected"):
        part.exemplars(Unit("conv2", 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"quantile": 1.2}, "quantile is 1.2"),
        ({"quantile": float("nan")}, "quantile is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"memory": "much"}, "not a size: memory='much'"),
        ({"memory": "1KB"}, "maps alone take"),
        ({"units": {"conv2": [8]}}, "between 0 and 7; there is no 8"),
        ({"units": {"conv2": []}}, "units of conv2"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dissect(toy_target(), toy_probe(20), ["conv2"], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_layers_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="conv2"):
        dissect(toy_target(), toy_probe(20), ["conv22"], tmp_path)
    with pytest.raises(BadInput, match="no layers"):
        dissect(toy_target(), toy_probe(20), [], tmp_path)
    with pytest.warns(MilanWarning, match="twice"):
        assert list(dissect(toy_target(), toy_probe(20), ["conv2", "module.conv2"], tmp_path)) == ["conv2"]


def test_folder_that_cannot_be_used_is_told_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = toy_target()
    _ = target.dissectable_layers
    count = counted(target)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        dissect(target, toy_probe(20), ["conv2"], tmp_path / "file")
    monkeypatch.setattr(dissecting.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    with pytest.raises(BadInput, match=r"0\.00 GiB free"):
        dissect(target, toy_probe(20), ["conv2"], tmp_path / "full")
    assert next(count) <= 2  # nothing but the two images that measure the maps


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(BadInput, match="being written by this process"):
        dissect(toy_target(), toy_probe(20), ["conv2"], tmp_path)


def test_out_of_memory_halves_the_block_and_loses_nothing(tmp_path: Path) -> None:
    whole = dissect(toy_target(), toy_probe(50), ["conv1", "head"], tmp_path / "whole", k=5)
    with pytest.warns(MilanWarning, match="not enough memory for a block"):
        less = dissect(toy_target(kind=Hungry), toy_probe(50), ["conv1", "head"], tmp_path / "less", k=5)
    for layer in ("conv1", "head"):
        assert torch.allclose(less[layer].thresholds(), whole[layer].thresholds(), atol=1e-5)
        assert torch.allclose(less[layer].activations("mean"), whole[layer].activations("mean"), atol=1e-5)
        assert all(torch.equal(less[layer].exemplars(u).ids, whole[layer].exemplars(u).ids) for u in whole[layer].units)


def test_out_of_memory_for_one_image_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "most", 0)
    warnings.simplefilter("ignore", MilanWarning)
    with pytest.raises(BadInput, match="not enough memory to run toy on one image"):
        dissect(toy_target(kind=Hungry), toy_probe(50), ["conv1", "head"], tmp_path)


class Uncopied(Toy):
    def __deepcopy__(self, memo: dict) -> "Uncopied":
        raise TypeError("holds a lock")


def test_a_network_that_cannot_be_copied_is_run_by_one_thread(tmp_path: Path) -> None:
    dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "plain")
    torch.set_num_threads(2)
    try:
        with pytest.warns(
            MilanWarning, match=r"toy cannot be copied \(holds a lock\), so one thread is used instead of 2"
        ):
            found = dissect(toy_target(kind=Uncopied), toy_probe(), LAYERS, tmp_path / "uncopied")
    finally:
        torch.set_num_threads(1)
    for layer in LAYERS:
        one, other = (tmp_path / "plain" / layer, found[layer].folder)
        assert (one / "exemplars.safetensors").read_bytes() == (other / "exemplars.safetensors").read_bytes()


def picture_folder(folder: Path, count: int, bad: list[int]) -> str:
    folder.mkdir()
    for index, image in enumerate(toy_images(count)):
        file = folder / f"{index:03}.png"
        if index in bad:
            file.write_bytes(b"no picture")
        else:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return str(folder)


def test_bad_files_do_not_shift_the_others(tmp_path: Path) -> None:
    spec = picture_folder(tmp_path / "pictures", 80, [31, 32, 79])
    with pytest.warns(MilanWarning, match="3 of 80 images"):
        found = dissect(toy_target(), load_probe(spec, size=SIZE, resize=SIZE), ["conv2"], tmp_path / "out", k=5)[
            "conv2"
        ]
    peaks = all_maps(toy_target(), toy_images(80))["conv2"].amax((2, 3))
    activations = found.activations("max")
    assert activations.isnan().all(1).nonzero().flatten().tolist() == [31, 32, 79]
    good = ~activations.isnan().any(1)
    assert torch.allclose(activations[good], peaks[good], atol=1e-5)
    assert json.loads((found.folder / "dissection.json").read_text())["skipped"] == [31, 32, 79]
    assert not {31, 32, 79} & {id for unit in found.units for id in found.exemplars(unit).ids.tolist()}


@pytest.mark.parametrize("blocks", [0, 2, 99])
def test_warnings_of_the_pass_are_kept_whenever_it_is_stopped(blocks: int, tmp_path: Path, monkeypatch) -> None:
    """Stopped after so many blocks, or not at all, and run once more when it is done."""
    monkeypatch.setattr(running, "MIN_CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(running, "CHECKPOINT_COST_RATIO", 0)
    spec = picture_folder(tmp_path / "pictures", 80, [1, 79])
    take, taken = running.DissectionRun._add_block, []

    def taking(self: running.DissectionRun, *arguments: object) -> None:
        if len(taken) == blocks:
            taken.append("stopped")
            raise KeyboardInterrupt
        taken.append("a block")
        take(self, *arguments)

    monkeypatch.setattr(running.DissectionRun, "_add_block", taking)
    message: list[dict[str, None]] = []
    for _ in range(3):
        message.append({})
        probe = load_probe(spec, size=SIZE, resize=SIZE)
        record = recorded_warnings(message[-1].setdefault)
        with record, warnings.catch_warnings(action="ignore"), suppress(KeyboardInterrupt):
            dissect(toy_target(), probe, ["conv2"], tmp_path / "out", k=5)
    assert message[2] == message[1]
    (text,) = message[1]
    assert "2 of 80 images" in text
    assert "001.png: " in text


def test_too_many_bad_files_are_an_error(tmp_path: Path) -> None:
    spec = picture_folder(tmp_path / "pictures", 20, [3, 4])
    with pytest.raises(BadInput, match="more than 5%"):
        dissect(toy_target(), load_probe(spec, size=SIZE, resize=SIZE), ["conv2"], tmp_path / "out")


def test_images_not_kept_are_asked_of_the_probe_if_it_is_still_the_same(tmp_path: Path) -> None:
    spec = picture_folder(tmp_path / "pictures", 40, [])
    unit = Unit("conv2", 1)
    whole = dissect(toy_target(), load_probe(spec, size=SIZE, resize=SIZE), ["conv2"], tmp_path / "out", k=5)[
        "conv2"
    ].exemplars(unit)
    (tmp_path / "out" / "images.npy").unlink()
    again = load_dissection(tmp_path / "out" / "conv2")
    assert torch.equal(again.exemplars(unit).images, whole.images)
    (tmp_path / "pictures" / "000.png").write_bytes((tmp_path / "pictures" / "001.png").read_bytes())
    with pytest.raises(MissingEvidence, match=r"has changed since .*; dissect again"):
        load_dissection(tmp_path / "out" / "conv2").exemplars(unit)


def test_images_of_a_probe_without_a_name_cannot_be_asked_for_again(tmp_path: Path) -> None:
    found = dissect(toy_target(), toy_probe(40), ["conv2"], tmp_path, k=5)["conv2"]
    (tmp_path / "images.npy").unlink()
    with pytest.raises(MissingEvidence, match="dissect again with out="):
        load_dissection(tmp_path / "conv2").exemplars(found.units[0])


def test_pixels_that_do_not_fit_the_memory_are_decoded_again(tmp_path: Path) -> None:
    dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "roomy")
    dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "tight", memory=f"{4 * 10 * 3 * SIZE**2 + 4 * 10**6}B")
    assert files(tmp_path / "roomy") == files(tmp_path / "tight")


def test_beyond_the_memory_thresholds_are_sampled_with_a_stated_error(tmp_path: Path) -> None:
    target, probe = toy_target(), Probe.from_tensor(toy_images(600, SIZE))
    maps = all_maps(target, toy_images(600, SIZE))["conv1"].double().transpose(0, 1).flatten(1)
    found = {}
    for batch_size in (3, 64):
        tight = {"k": 3, "quantile": 0.5, "memory": "3.5MB", "batch_size": batch_size}
        with pytest.warns(MilanWarning, match="1 in 2 values.*quantile 0.5"):
            found[batch_size] = dissect(target, probe, ["conv1"], tmp_path / str(batch_size), **tight)
    assert files(tmp_path / "3") == files(tmp_path / "64")
    facts = json.loads((tmp_path / "3" / "conv1" / "dissection.json").read_text())
    ranks = (maps <= found[3]["conv1"].thresholds().double()[:, None]).double().mean(1)
    assert facts["sampled"] == 0.5
    assert 0 < (ranks - 0.5).abs().max() < facts["rank_error"] < 0.05
    with pytest.warns(MilanWarning, match="quantile 0.5"):  # reported again where the result is only read
        dissect(target, probe, ["conv1"], tmp_path / "3", k=3, quantile=0.5, memory="3.5MB")


def test_class_token_and_mean_of_tokens(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VisionTransformer(
            image_size=SIZE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=3
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    target = Target(model, name="vit", image_size=SIZE)
    layer = "encoder.layers.encoder_layer_0"
    found = dissect(target, toy_probe(40), [layer, "conv_proj"], tmp_path)
    seen: list[Tensor] = []
    model.eval().get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    target.outputs(target.prepare(toy_images(40)))
    assert torch.allclose(found[layer].activations("cls"), seen[0][:, 0], atol=1e-5)
    assert torch.allclose(found[layer].activations("tokens"), seen[0][:, 1:].mean(1), atol=1e-5)
    assert torch.allclose(found[layer].activations("max"), seen[0][:, 1:].amax(1), atol=1e-5)
    with pytest.raises(MissingEvidence, match="has no tokens"):
        found["conv_proj"].activations("tokens")
    with pytest.raises(MissingEvidence, match="has no class token"):
        found["conv_proj"].activations("cls")


def test_what_a_folder_holds_is_told(tmp_path: Path) -> None:
    dissect(toy_target(), toy_probe(40), ["conv1", "conv2"], tmp_path)
    assert not leftovers(tmp_path)
    with pytest.raises(BadInput, match=r"holds several layers.*: conv1, conv2"):
        load_dissection(tmp_path)
    with pytest.raises(BadInput, match=r"no dissection in .*nothing"):
        load_dissection(tmp_path / "nothing")
    again = load_dissection(str(tmp_path / "conv1"))
    assert (again.layer, again.k, again.quantile, again.target, again.image_size, len(again.units)) == (
        "conv1",
        15,
        0.99,
        "toy",
        SIZE,
        6,
    )
    for name in ("statistics.safetensors", "pooled_max.npy"):
        (tmp_path / "conv1" / name).unlink()
    for ask in (load_dissection(tmp_path / "conv1").thresholds, load_dissection(tmp_path / "conv1").activations):
        with pytest.raises(MissingEvidence, match="dissect again with out="):
            ask()


def test_checkpoints_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(running.DissectionRun, "_checkpoint", lambda run: written.append(run.next_image) or 0.0)
    dissect(toy_target(), toy_probe(), ["conv2"], tmp_path)
    assert not written  # it took less than the pause


def test_real_photographs_on_a_real_network_are_brute_force(tmp_path: Path, shared_data: Path) -> None:
    """Exemplars, activations and thresholds of the real run, on a part of it, worked out again by numpy in float64."""
    target = load_target(
        "torchvision:squeezenet1_0", weights=shared_data / "squeezenet" / "squeezenet1_0_imagenet.safetensors"
    )
    probe = load_probe(str(shared_data / "imagenet_sample" / "train.parquet"), target=target, limit=48)
    layers = ["features.3", "features.12"]
    found = dissect(target, probe, layers, tmp_path)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with run_to_layers(target, layers, lambda layer, maps, cls: parts[layer].append(maps.clone())) as look:
        for _, images in probe.batches(4):  # the network is run as it is run there: four images of this size at a time
            look(target.prepare(images))
    for layer in layers:
        maps = torch.cat(parts[layer])
        ids = brute_exemplars(maps, 15)
        assert np.array_equal(found[layer].thresholds().numpy(), brute_thresholds(maps, 0.99).astype(np.float32))
        assert torch.equal(found[layer].activations("max"), maps.amax((2, 3)))
        assert torch.allclose(
            found[layer].activations("mean").double(), maps.double().mean((2, 3)), atol=1e-4, rtol=1e-5
        )
        for unit in found[layer].units[::16]:
            exemplars = found[layer].exemplars(unit)
            assert exemplars.ids.tolist() == ids[unit.index].tolist()
            assert torch.equal(exemplars.activations.double(), maps[exemplars.ids, unit.index].double().amax((1, 2)))
            assert torch.equal(exemplars.images[0], probe.image(int(exemplars.ids[0])))


def test_a_network_whose_size_nobody_stated_is_run_on_a_probe_of_fixed_size(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    probe = Probe.from_tensor(torch.arange(4 * 3 * 16 * 16).reshape(4, 3, 16, 16).remainder(251).to(torch.uint8))
    with pytest.warns(MilanWarning, match="224 x 224"):
        target = Target(model)
    with pytest.warns(MilanWarning, match="16 x 16"):
        layer = dissect(target, probe, ["1"], tmp_path, k=2)["1"]
    assert layer.exemplars(Unit("1", 0)).images.shape == (2, 3, 16, 16)


def test_weights_are_hashed_as_often_for_many_layers_as_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[nn.Module] = []
    real = targets.network_hash
    monkeypatch.setattr(targets, "network_hash", lambda network: (calls.append(network), real(network))[1])
    dissect(toy_target(), toy_probe(), LAYERS[:1], tmp_path / "one")
    count = len(calls)
    dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "many")
    assert len(LAYERS) > 1
    assert len(calls) == 2 * count
