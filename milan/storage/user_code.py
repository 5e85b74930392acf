"""Load objects from Python files of the user, given as ``PATH/FILE.py:NAME``."""

import hashlib
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from milan.errors import BadInput, MilanError, UnknownName


def is_file_spec(spec: str) -> bool:
    """Return whether ``spec`` is ``PATH/FILE.py:NAME``.

    >>> is_file_spec("nets/mine.py:resnet"), is_file_spec("timm:vit")
    (True, False)
    """
    return spec.rpartition(":")[0].endswith(".py")


def module_of(spec: str, kind: str) -> tuple[ModuleType, str]:
    """Run the file of ``PATH/FILE.py:NAME``, and return its module and the name.

    The file can import modules beside it. Its module is in ``sys.modules``, as dataclasses and pickle require.

    Args:
        spec: ``PATH/FILE.py:NAME``.
        kind: what the file should define, for messages, such as ``"describer"``.

    Raises:
        BadInput: there is no such file, or its code raises.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadInput(f"no file {file} (given as {kind} {spec!r})")
    home = str(path.parent.resolve())
    mark = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    known_as = re.sub(r"\W", "_", f"milan_{kind}_{path.stem}_{mark}")
    module_spec = importlib.util.spec_from_loader(known_as, _SourceLoader(known_as, str(path)))
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[known_as] = module
    sys.path.insert(0, home)
    try:
        module_spec.loader.exec_module(module)
    except MilanError:
        raise
    # The user's code may raise anything.
    except (Exception, SystemExit) as error:
        del sys.modules[known_as]
        raise BadInput(f"the {kind} file {file} cannot be imported: {one_line(error)}") from error
    finally:
        sys.path.remove(home)
    return module, name


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time, and writes nothing beside it.

    Bytecode is found by size and by whole seconds, so that a file which was changed at once would be run as it was.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


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
        public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
        own = [key for key, value in public.items() if value.__module__ == module.__name__]
        defines = f"it defines {', '.join(own)}" if own else "it defines no class or function"
        raise UnknownName(f"{kind} in {spec.rpartition(':')[0]}", name, public, defines)
    try:
        return make()
    except MilanError:
        raise
    # The user's own code raises anything.
    except Exception as error:
        raise BadInput(f"{name}() in {spec.rpartition(':')[0]} failed: {one_line(error)}") from error


def place_of(error: BaseException) -> str:
    """Return the innermost line outside installed packages where an error arose, as `` (mine.py, line 7)``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def one_line(error: BaseException) -> str:
    """Return the type and the text of an error, on one line of at most 300 characters.

    >>> one_line(ValueError("so\\nlong"))
    'ValueError: so long'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].removesuffix(": ")
