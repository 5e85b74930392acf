"""Images of any number of bands, as of satellites and microscopes: folders of .npy arrays or TIFF files."""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput
from milan.probes.image_decoding import MAX_DECODED_BYTES, UnreadableImage, check_file, suffixes
from milan.probes.image_folders import FolderSource, list_files
from milan.storage.hub_access import format_error_line

NPY, TIFF = (".npy",), (".tif", ".tiff")
# Numbers of channels of networks that take grey or RGB images.
PICTURE_CHANNELS = (1, 3)
# Files that are tried for the number of bands, since the first ones may be damaged.
TRIED = 20


class BandFolder(FolderSource):
    """All arrays under a folder, sorted by path, with classes as in a folder of pictures.

    An array is (bands, height, width) or (height, width, bands), where the shorter of the first and the last axis is
    the bands, or (height, width) for one band. Bytes from 0 to 255 become 0 to 1; other numbers are kept.
    """

    kinds = (*NPY, *TIFF)

    def load_image(self, index: int) -> Float[np.ndarray, "bands height width"]:
        """Return an array's bands, float32.

        Raises:
            UnreadableImage: it cannot be read, or has another number of bands than the first array.
        """
        bands = read_bands(self.files[index])
        if bands.shape[0] != self.bands:
            raise UnreadableImage(f"{bands.shape[0]} bands, and the first file of the folder has {self.bands}")
        return bands

    @cached_property
    def bands(self) -> int:  # type: ignore[override]
        """Number of bands of the first array."""
        return len(self._first)

    @cached_property
    def of_bytes(self) -> bool:  # type: ignore[override]
        """Whether the first array is stored as bytes."""
        return bool(self._first.size) and _array(self._first_file).dtype == np.uint8

    @cached_property
    def _first(self) -> np.ndarray:
        return read_bands(self._first_file)

    @cached_property
    def _first_file(self) -> Path:
        for file in self.files[:TRIED]:
            try:
                read_bands(file)
            except UnreadableImage as error:
                reason = f"{clean_text(str(file))}: {error}"
            else:
                return file
        raise BadInput(f"cannot read the bands of {reason}")


def open_folder(folder: Path, channels: int) -> FolderSource:
    """Open a folder of pictures, or of arrays if there are no pictures or the network has other than 1 or 3 channels.

    Raises:
        BadInput: the folder holds neither.
    """
    pictures, others = list_files(folder, suffixes())
    arrays = channels not in PICTURE_CHANNELS or (not pictures and any(others[kind] for kind in NPY))
    return BandFolder(folder) if arrays else FolderSource(folder)


def read_bands(file: Path) -> Float[np.ndarray, "bands height width"]:
    """Return the bands of an array in a file, see :class:`BandFolder`.

    Raises:
        UnreadableImage: it cannot be read, is too large, or is no array of numbers with two or three axes.
    """
    array = _array(file)
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif" or not array.size:
        raise UnreadableImage(f"an array of {array.dtype} with the shape {array.shape}, which is no image")
    values = np.asarray(array, dtype=np.float32)
    if array.dtype == np.uint8:
        values = values / np.float32(255)
    if array.ndim == 2:
        return values[None]
    first = values.shape[0] <= values.shape[2]
    return np.ascontiguousarray(values if first else values.transpose(2, 0, 1))


def _array(file: Path) -> np.ndarray:
    try:
        check_file(file)
        return _read_npy(file) if file.suffix.lower() in NPY else _read_tiff(file)
    except (UnreadableImage, BadInput):
        raise
    except MemoryError:
        raise UnreadableImage("not enough memory to read it") from None
    # Readers raise anything for arbitrary bytes.
    except Exception as error:
        raise UnreadableImage(format_error_line(error)) from None


def _read_npy(file: Path) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    _check_bytes(4 * array.size)
    return array


def _read_tiff(file: Path) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        text = "TIFF files of bands are read by tifffile, which is not installed; pip install 'milan[bands]'"
        raise BadInput(text) from error
    with tifffile.TiffFile(file) as opened:
        series = opened.series[0]
        _check_bytes(max(4, series.dtype.itemsize if series.dtype else 0) * series.size)
        return series.asarray().squeeze()


def _check_bytes(needed: int) -> None:
    if needed > MAX_DECODED_BYTES:
        raise UnreadableImage(f"an array of {needed / 1e9:.1f} GB; at most {MAX_DECODED_BYTES / 1e9:.1f} GB are read")
