"""Python files that a user names, as ``PATH/FILE.py:NAME``."""

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from milan.errors import BadInput, MilanError, UnknownName


def is_file_spec(spec: str) -> bool:
    """Return whether ``spec`` is ``PATH/FILE.py:NAME``.

    >>> is_file_spec("nets/mine.py:resnet"), is_file_spec("timm:vit")
    (True, False)
    """
    return spec.rpartition(":")[0].endswith(".py")


def module_of(spec: str, kind: str) -> tuple[ModuleType, str]:
    """Run the file of ``PATH/FILE.py:NAME`` and return it as a module, and the name.

    While it runs it can import its neighbours. Its module is found by name, as dataclasses and pickles need it.

    Args:
        kind: what the file is to define, for messages, as ``"describer"``.

    Raises:
        BadInput: there is no such file, or its own code fails.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadInput(f"no file {file} (asked for as {kind} {spec!r})")
    home = str(path.parent.resolve())
    mark = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    known_as = re.sub(r"\W", "_", f"milan_{kind}_{path.stem}_{mark}")
    found = importlib.util.spec_from_file_location(known_as, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[known_as] = module
    sys.path.insert(0, home)
    try:
        found.loader.exec_module(module)
    except MilanError:
        raise
    # whatever the user's own code raises
    except (Exception, SystemExit) as error:
        del sys.modules[known_as]
        raise BadInput(f"the {kind} file {file} cannot be imported: {one_line(error)}") from error
    finally:
        sys.path.remove(home)
    return module, name


def load_from_file(spec: str, kind: str) -> Any:
    """Return what the class or function of ``PATH/FILE.py:NAME`` returns, called without arguments.

    Args:
        spec: the file and the name.
        kind: what the file is to define, for messages, as ``"target"``.

    Raises:
        BadInput: there is no such file, or its own code fails.
        UnknownName: the file defines no class or function of that name.
    """
    module, name = module_of(spec, kind)
    make = getattr(module, name, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"{kind} in {spec.rpartition(':')[0]}", name, known)
    try:
        return make()
    except MilanError:
        raise
    # The user's own code raises anything.
    except Exception as error:
        raise BadInput(f"{name}() in {spec.rpartition(':')[0]} failed: {one_line(error)}") from error


def place_of(error: BaseException) -> str:
    """Return the innermost line outside installed packages that an error came from, as `` (mine.py, line 7)``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def one_line(error: BaseException) -> str:
    """Return the type and the text of an error, on one line of at most 300 characters.

    >>> one_line(ValueError("so\\nlong"))
    'ValueError: so long'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].removesuffix(": ")
