"""Images as chat messages carry them: JPEG files, sent as data URLs."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Every server of OpenAI's protocol reads JPEG; llama.cpp reads no WebP, and PNG takes five times as many bytes.
JPEG_QUALITY = 90


def encode_jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return an RGB picture of pixels 0..255 as a JPEG file with full colour resolution and without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_picture(file: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB pixels of an encoded picture."""
    with Image.open(io.BytesIO(file)) as opened:
        return np.array(opened.convert("RGB"))


def make_data_url(file: bytes) -> str:
    """Return an encoded picture as a data URL.

    >>> make_data_url(b"\\x89PNG"), make_data_url(b"\\xff\\xd8")
    ('data:image/png;base64,iVBORw==', 'data:image/jpeg;base64,/9g=')
    """
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
