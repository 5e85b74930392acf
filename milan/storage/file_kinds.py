"""Recognize files that were mistaken for weights or data by their first bytes."""

from pathlib import Path

from milan.errors import BadInput

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_OTHERS = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes; convert it to PyTorch first"),
    (b"{", "a text in JSON, as an index of several weights files is; give the weights themselves"),
)
_NEEDED = (".safetensors", ".json", ".model")
_PICKLED = (".bin", ".pth", ".pt")


def wrong_kind(path: Path) -> str:
    """Return what a file is instead of data, and what to do, as a continuation of "FILE is".

    Git LFS pointers, web pages, empty files and some formats that are mistaken for weights are recognized. The result
    is empty for any other file.
    """
    head = _head(path)
    if not head:
        return "empty; copy or download it again"
    return _placeholder(head) or next((text for start, text in _OTHERS if head.startswith(start)), "")


def check_model_folder(folder: Path) -> None:
    """Check that the files of a model in a folder were downloaded.

    Raises:
        BadInput: a file that loading the model needs is a Git LFS pointer or a web page.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    safe = {file.parent for file in files if file.suffix == ".safetensors"}
    for file in files:
        # Pickled weights beside safetensors are not read.
        needed = file.suffix in _NEEDED or (file.suffix in _PICKLED and file.parent not in safe)
        if needed and (text := _placeholder(_head(file))):
            raise BadInput(f"{file} is {text}")


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins like safetensors: eight bytes with the size of a JSON header."""
    head = _head(path)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _placeholder(head: bytes) -> str:
    if head.startswith(_POINTER):
        return "a Git LFS pointer in place of the file; fetch the file with: git lfs pull"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page (HTML or XML) in place of the file; sign in where the site asks for it and download it again"
    return ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
