"""What a file is that was taken for weights or data, by its first bytes, whatever its name ends in."""

from pathlib import Path

from milan.errors import BadInput

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_OTHERS = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes; convert it to PyTorch first"),
    (b"{", "a text in JSON, as an index of several weights files is; give the weights themselves"),
)


def wrong_kind(path: Path) -> str:
    """What a file is instead of data, with what to do, to stand after "FILE is"; empty where its first bytes say nothing of it.

    Git LFS pointers, web pages and empty files are told, and of archives and other formats those that are taken for weights.
    """
    head = _head(path)
    if not head:
        return "empty; copy or download it again"
    return _stand_in(head) or next((text for start, text in _OTHERS if head.startswith(start)), "")


def check_model_folder(folder: Path) -> None:
    """Raises BadInput if a file that loading a model from this folder needs is a Git LFS pointer or a web page in its place."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    safe = {file.parent for file in files if file.suffix == ".safetensors"}
    for file in files:
        needed = file.suffix in (".safetensors", ".json", ".model") or (file.suffix in (".bin", ".pth", ".pt") and file.parent not in safe)
        if needed and (text := _stand_in(_head(file))):
            raise BadInput(f"{file} is {text}")


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: eight bytes that count the bytes of a header in JSON."""
    head = _head(path)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _stand_in(head: bytes) -> str:
    if head.startswith(_POINTER):
        return "a Git LFS pointer in place of the file; fetch the file with: git lfs pull"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page (HTML or XML) in place of the file; download it again, and sign in first where the site asks for it"
    return ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
