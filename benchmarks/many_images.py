"""Time per image and memory of a dissection at n, 4n and 8n images.

    python -m benchmarks --only many_images --scale 1

Generated 64-pixel JPEGs in folders, parquet shards and tar shards, run through Diorama's 64-pixel ResNet: 6,000, 25,000
and 50,000 images at full scale. The time is processor time of reading the probe and dissecting it, after a small run
that loads and compiles what is needed once. Memory is the process's anonymous memory, sampled 20 times a second:
pages of mapped files, which the system takes back when it needs them, are not counted.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.table import Row, run_parts

CHUNKS = (6, 25, 50)  # of CHUNK images each, at full scale
CHUNK = 1_000
KINDS = ("folder", "parquet", "tar")
TARGET, LAYERS = "diorama:resnet-objects", ["layer2.norm2", "layer4.norm2"]
GOAL = 1.1


class PeakMemory:
    """Samples the anonymous memory of this process in a thread of its own.

    Attributes:
        first, most: the first and the largest value, in GB.
    """

    def __init__(self) -> None:
        self.first = self.most = _read_anonymous_memory()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak in GB."""
        self._ended.set()
        self._thread.join()
        return self.most

    def _sample(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, _read_anonymous_memory())


def _read_anonymous_memory() -> float:
    """Return this process's anonymous memory in GB."""
    status = Path("/proc/self/status").read_text()
    return 1024e-9 * int(status.partition("RssAnon:")[2].split()[0])


def make_jpegs(count: int, seed: int) -> list[bytes]:
    """Return JPEGs of smooth noise."""
    import numpy as np
    from PIL import Image

    rng, found = np.random.default_rng(seed), []
    for levels in rng.integers(0, 256, (count, 8, 8, 3), np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def write_probes(root: Path, chunk: int) -> None:
    """Write ``root/KIND/CHUNKS`` for each kind and number of chunks; equal files are links to each other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(max(CHUNKS)):
        jpegs = make_jpegs(chunk, number)
        folder = root / "folder" / str(max(CHUNKS)) / f"{number:03d}"
        folder.mkdir(parents=True)
        for place, content in enumerate(jpegs):
            (folder / f"{place:05d}.jpg").write_bytes(content)
        for kind in ("parquet", "tar"):
            (root / kind / str(max(CHUNKS))).mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"image": jpegs, "label": [number] * chunk}),
            root / "parquet" / str(max(CHUNKS)) / f"{number:03d}.parquet",
            row_group_size=100,
        )
        with tarfile.open(root / "tar" / str(max(CHUNKS)) / f"{number:03d}.tar", "w") as tar:
            for place, content in enumerate(jpegs):
                member = tarfile.TarInfo(f"{number:03d}{place:05d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for count in (1, *CHUNKS[:-1]):
        for kind in KINDS:
            for file in (root / kind / str(max(CHUNKS))).rglob("*.*"):
                place = file.relative_to(root / kind / str(max(CHUNKS)))
                if int(place.parts[0][:3]) < count:
                    link = root / kind / str(count) / place
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, link)


def run_dissection(root: Path, kind: str, chunks: int) -> list[float]:
    """Return processor seconds per image, peak memory in GB, and the number of images."""
    from milan.dissection.dissect import dissect
    from milan.probes import load_probe
    from milan.targets.loading import load_target

    target = load_target(TARGET)
    first, every = (
        str(root / kind / str(count)) if kind == "folder" else f"{root / kind / str(count)}/*.{kind}"
        for count in (1, chunks)
    )
    with tempfile.TemporaryDirectory(dir=root) as out:
        dissect(target, load_probe(first, target=target, limit=64), LAYERS, Path(out) / "warm")
        memory, start = PeakMemory(), time.process_time()
        probe = load_probe(every, target=target)
        dissect(target, probe, LAYERS, Path(out) / "all", memory="512MiB")
        seconds = time.process_time() - start
    return [seconds / len(probe), memory.stop(), len(probe)]


def rows(scale: float) -> list[Row]:
    """Return time and memory at the largest number of images relative to the smallest."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        os.environ["HF_HOME"], os.environ["MILAN_CACHE"] = str(root / "datasets"), str(root / "cache")
        write_probes(root, round(CHUNK * scale))
        for kind in KINDS:
            parts = {
                chunks: run_parts(
                    "benchmarks.many_images",
                    [kind],
                    "--root",
                    place,
                    "--chunks",
                    str(chunks),
                    rounds=3 if scale < 1 else 1,
                )[kind]
                for chunks in CHUNKS
            }
            small, middle, large = parts.values()
            counts = [f"{each[2]:,.0f}" for each in parts.values()]
            name = f"dissection of {counts[2]} JPEGs of 64 px in {kind}"
            peer = f"{counts[1]} images: {1e3 * middle[0]:.3g} ms, {middle[1]:.3g} GB"
            found += [
                Row(f"{name}, per image", 1e3 * large[0], 1e3 * small[0], f"{counts[0]} images", GOAL, "CPU ms", peer),
                Row(f"{name}, memory", large[1], small[1], f"{counts[0]} images", GOAL, "GB", peer),
            ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=KINDS, required=True)
    parser.add_argument("--root", type=Path, help="folder that write_probes filled")
    parser.add_argument("--chunks", type=int, choices=CHUNKS)
    options = parser.parse_args()
    print(json.dumps(run_dissection(options.root, options.part, options.chunks)))


if __name__ == "__main__":
    main()
