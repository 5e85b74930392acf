"""Light, camera noise and blur of rendered scenes, in integer arithmetic."""

import numpy as np

from milan.diorama.canvas import Canvas
from milan.diorama.rng import PortableRng


def render_lit_image(canvas: Canvas, rng: PortableRng) -> np.ndarray:
    """Return the image with slanting light and camera noise, uint8 (3, size, size)."""
    size = canvas.size
    steps = np.arange(size, dtype=np.int32) * 64 // size - 32
    across, down, level = rng.randint(-70, 70), rng.randint(-80, 20), rng.randint(800, 1090)
    light = level + ((across * steps[None, :] + down * steps[:, None]) >> 5)
    grain = rng.randint(1, 9)
    noise = rng.random_words(3 * size * size // 4 + 1).astype("<u8").view(np.uint8)[: 6 * size * size].astype(np.int32)
    noise = (noise[: 3 * size * size] - noise[3 * size * size :]).reshape(size, size, 3)
    pixels = (canvas.render_rgb() * light[:, :, None] >> 10) + ((noise * grain) >> 7)
    return np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1))


def blur_region(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the image with the given pixels replaced by the mean of their neighbourhood, uint8 (3, height, width)."""
    if not where.any():
        return image
    reach = max(2, image.shape[1] // 16)
    side = 2 * reach + 1
    sums = (
        np.pad(image.astype(np.int64), ((0, 0), (reach + 1, reach), (reach + 1, reach)), mode="edge")
        .cumsum(1)
        .cumsum(2)
    )
    boxes = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
    return np.where(where, (boxes // side**2).astype(np.uint8), image)
