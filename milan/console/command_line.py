"""Command lines: options from a function's signature, errors in one line, and defined exit statuses.

Nothing here imports torch, so that ``--help`` is quick.
"""

import errno
import inspect
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType, UnionType
from typing import TYPE_CHECKING, Any, NoReturn, Union, get_args, get_origin

import jsonargparse
import yaml
from jsonargparse import get_loader, set_loader

# Other modules still import these from here.
from milan.console.processes import is_first_process
from milan.console.text_cleaning import clean_text
from milan.errors import MilanError, MilanNotice, MilanWarning, find_nearest_names

RESUME_HINT = "run the same command again to continue where it stopped"
_UNKNOWN_OPTION = re.compile(
    r"unrecognized arguments: --?([\w.-]+)|Option '([\w.-]+)' is not accepted|Key '([\w.-]+)' is not expected"
)
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
MAX_YAML_VALUES = 100_000  # of a file of options, with its aliases expanded
_recorded_warnings: list[str] = []

if TYPE_CHECKING:
    from rich.console import Console


class OptionErrors(jsonargparse.ArgumentParser):
    """A parser that reports errors in options, or in files of options, in one line and exits with status 2.

    Attributes:
        hints: what to print in place of jsonargparse's message, by a part of that message.
    """

    hints: Mapping[str, str] = {}

    def parse_path(self, path: str | os.PathLike, *args: Any, **settings: Any) -> Any:
        """Read a file of options; exit with status 2 and one line if it is not UTF-8 or not valid YAML."""
        with suppress(OSError):  # jsonargparse reports a file that cannot be read
            try:
                bounded_yaml(Path(path).read_bytes().decode())
            except UnicodeDecodeError as error:
                where = f"{error.reason} at byte {error.start}"
                self.error(f"{os.fspath(path)} is not UTF-8 text ({where}); save it as UTF-8", error)
            except yaml.YAMLError as error:
                self.error(f"{os.fspath(path)} is not valid YAML: {error}", error)
        return super().parse_path(path, *args, **settings)

    def format_help(self, *formatter: Any) -> str:
        """Return the help, with ``Path`` where jsonargparse writes ``<class 'Path'>``."""
        return re.sub(r"<class\s+'(\w+)'>", r"\1", super().format_help(*formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr, with the three nearest options if one is unknown, and exit with status 2."""
        message = next((hint for part, hint in self.hints.items() if part in message), message)
        options = {option for action in self._actions for option in action.option_strings}
        option_names = sorted(
            option.strip("-") for option in options if option.startswith("--") and not option.endswith("+")
        )
        sys.stderr.write(f"{self.prog}: {clean_text(_format_parser_error(message, option_names))}\n")
        raise SystemExit(2)


class ArgumentParser(OptionErrors):
    """jsonargparse's parser with lists of several words, switches without a value, and hints at similar options."""

    list_options: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        """Parse arguments as jsonargparse does, with lists of several words and switches without a value."""
        return super().parse_args(
            self._normalize_arguments(sys.argv[1:] if args is None else args), namespace, **settings
        )

    def _normalize_arguments(self, words: Sequence[str]) -> list[str]:
        """Return ``--layers a b --dry_run`` as ``--layers=["a","b"] --dry_run=true``, which jsonargparse reads."""
        normalized: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name = word.removeprefix("--")
            if (given := re.match(r"--([\w.-]+)=([^\[].*)", word)) and given[1] in self.list_options:
                word = f"--{given[1]}={json.dumps([given[2]])}"
            elif name in self.list_options and word != name:
                values = [rest.pop(0) for _ in range(_count_values(rest))]
                word = f"{word}={values[0] if len(values) == 1 and values[0][:1] == '[' else json.dumps(values)}"
            elif name in self.flags and word != name:
                word = f"{word}={rest.pop(0) if rest and rest[0].lower() in ('true', 'false') else 'true'}"
            normalized.append(word)
        return normalized


def build_parser(prog: str, description: str, function: Callable[..., object]) -> ArgumentParser:
    """Return a parser for the parameters of ``function``, with the Args of its docstring as help.

    ``--config FILE.yaml`` merges a file of options; ``--print_config`` prints the options in force.
    """
    built = ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    built.add_argument(
        "--config", action="config", metavar="FILE.yaml", help="options from a file; later options on the line win"
    )
    flat = _flat_options(function)
    add_arguments = built.add_class_arguments if inspect.isclass(function) else built.add_function_arguments
    add_arguments(function, as_group=False, skip=set(flat))
    annotations = [(name, parameter.annotation) for name, parameter in inspect.signature(function).parameters.items()]
    for kind in flat.values():
        built.add_class_arguments(kind, as_group=False)
        annotations += [(field.name, field.type) for field in fields(kind)]
    for name, annotation in annotations:
        kinds = _annotation_types(annotation)
        if bool in kinds:
            built.flags |= {name}
        elif kinds & {list, tuple, Sequence}:
            built.list_options |= {name}
    return built


def arguments_of(function: Callable[..., object], options: dict[str, Any]) -> dict[str, Any]:
    """Return parsed options as arguments of ``function``; options of a dataclass become an instance of it."""
    options = {name: value for name, value in options.items() if name != "config"}
    for name, kind in _flat_options(function).items():
        options[name] = kind(**{field.name: options.pop(field.name) for field in fields(kind)})
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    return {
        name: type(defaults[name])(**value) if isinstance(value, dict) and is_dataclass(defaults[name]) else value
        for name, value in options.items()
    }


def _flat_options(function: Callable[..., object]) -> dict[str, Any]:
    """Return the parameters whose fields are options without a prefix, with their dataclasses."""
    kinds = {name: type(parameter.default) for name, parameter in inspect.signature(function).parameters.items()}
    return {name: kind for name, kind in kinds.items() if is_dataclass(kind) and getattr(kind, "flat", False)}


def program(prog: str, text: str, main: Callable[..., object], words: Sequence[str] | None, command: str = "") -> int:
    """Read the options of ``main`` from ``words`` (else the command line), call it, and return the exit status.

    Args:
        prog: name of the program in its help.
        text: description of the program in its help.
        main: the function to call.
        words: the command line; ``sys.argv`` if None.
        command: a word that may precede the options, such as ``build``.
    """

    def started() -> None:
        options, given = build_parser(prog, text, main), list(sys.argv[1:] if words is None else words)
        first = given.pop(0) if command and given and not given[0].startswith("-") else command
        if first != command:
            options.error(f"unknown command {first!r}; the only command is {command}")
        chosen = options.instantiate_classes(options.parse_args(given)).as_dict()
        main(**arguments_of(main, chosen))

    return run_program(started)


def run_program(main: Callable[[], object]) -> int:
    """Run a program and return its exit status, as in ``sys.exit(run_program(main))``.

    A ``MilanError``, a full disk or a path that is too long is printed on one line to stderr (status 2). Ctrl-C (130)
    and SIGTERM (143) end the program with a hint how to resume it. A closed pipe (``... | head``) ends it silently
    (141). Each ``MilanWarning`` is printed once and kept for ``get_recorded_warnings``.
    """
    _open_streams()
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        _flushed(main)
    except MilanError as error:
        return _exit_with(2, clean_text(f"error: {error}"))
    except KeyboardInterrupt:
        return _exit_with(130, f"interrupted; {RESUME_HINT}")
    except _Terminated:
        return _exit_with(143, f"terminated; {RESUME_HINT}")
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            path = str(error.filename)
            return _exit_with(2, clean_text(f"error: {path[:80]}... is too long for a path ({len(path)} characters)"))
        if error.errno not in _DISK_FULL_ERRNOS:
            raise
        _discard_output()
        where = error.filename or "the output"
        return _exit_with(
            2, clean_text(f"error: cannot write {where}: {error.strerror}; make room, then {RESUME_HINT}")
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def terminal(width: int) -> "Console":
    """Return a rich console on stdout, which is ``width`` columns wide if stdout is not a terminal."""
    from rich.console import Console

    class Stdout(Console):
        def on_broken_pipe(self) -> None:
            """Raise, so that ``run_program`` ends the program; rich would exit with status 1."""
            raise BrokenPipeError

    return Stdout(highlight=False, width=None if sys.stdout.isatty() else width)


def bounded_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Read YAML whose aliases expand to at most ``MAX_YAML_VALUES`` values.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or expands to more values or to infinitely many.
    """
    if "*" in text and _values_in(yaml.compose(text, yaml.SafeLoader), {}) > MAX_YAML_VALUES:
        raise yaml.YAMLError(
            f"its aliases (*) expand to more than {MAX_YAML_VALUES:,} values; write it without aliases"
        )
    return load(text)


# The loader of jsonargparse for every file of options, with the bound.
set_loader("yaml", partial(bounded_yaml, load=get_loader("yaml")), (yaml.YAMLError,))


def _values_in(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """Return the number of values that a node expands to."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        # While the node is being counted, so that a node inside itself counts as infinite.
        counts[id(node)] = MAX_YAML_VALUES + 1
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counts[id(node)] = 1 + sum(_values_in(part, counts) for part in inner)
    return counts[id(node)]


@contextmanager
def record_warnings() -> Iterator[None]:
    """Print each ``MilanWarning`` within the block once on one line; record it for ``get_recorded_warnings``.

    A ``MilanNotice`` is printed once and not recorded. Under ``torchrun`` the first process prints. Warnings are never
    errors within the block: under ``python -W error`` a deprecation in some library would end a run.
    """
    _recorded_warnings.clear()
    printed: set[str] = set()
    with warnings.catch_warnings():
        if any(action == "error" for action, *_ in warnings.filters):
            warnings.simplefilter("default")
        warnings.simplefilter("always", MilanWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, MilanWarning):
                others(message, category, *where, **more)
            elif (text := clean_text(str(message))) not in printed:
                printed.add(text)
                notice = issubclass(category, MilanNotice)
                _recorded_warnings.extend([] if notice else [text])
                if is_first_process():
                    print(f"{'note' if notice else 'warning'}: {text}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield


def get_recorded_warnings() -> list[str]:
    """Return the warnings of this run, in order, for its ``run.json``."""
    return list(_recorded_warnings)


class _Terminated(BaseException):
    """SIGTERM as an exception, so that every ``finally`` block runs."""


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _flushed(main: Callable[[], object]) -> None:
    """Call ``main`` and flush its output, including that of ``--help``, which ends with ``SystemExit``."""
    try:
        with record_warnings():
            main()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _open_streams() -> None:
    """Make stdout and stderr writable: closed streams discard output, unencodable characters become escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (open to the end)
        stream = getattr(sys, name)
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Discard the rest of stdout's buffer, so that the interpreter's last flush does not fail."""
    # ValueError: a stream without a file descriptor.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_with(status: int, text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return status


def _count_values(words: list[str]) -> int:
    """Return the number of words before the next option."""
    return next((at for at, word in enumerate(words) if word.startswith("--")), len(words))


def _annotation_types(annotation: Any) -> set[Any]:
    """Return the types in an annotation without their parameters: ``list[str] | None`` is ``{list, NoneType}``."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*(_annotation_types(part) for part in get_args(annotation)))
    return {origin or annotation}


def _format_parser_error(message: str, available: list[str]) -> str:
    """Return jsonargparse's message on one line, with similar options if it is about an unknown one."""
    text = " ".join(message.split())
    if unknown := _UNKNOWN_OPTION.search(text):
        name = next(group for group in unknown.groups() if group)
        near = ", ".join(f"--{option}" for option in find_nearest_names(name, available))
        text = f"unknown option '--{name}'" + (f"; nearest: {near}" if near else "")
    elif stray := re.match(r"unrecognized arguments: (.*)", text):
        text = f"{stray[1]!r} does not belong to an option"
    elif wrong := re.match(r'Parser key "([\w.-]+)": (.*)', text):
        text = f"--{wrong[1]}: {_format_type_error(wrong[2])}"
    return f"error: {text}; --help lists the options"


def _format_type_error(text: str) -> str:
    """Return jsonargparse's message about a value of the wrong type in few words.

    >>> _format_type_error("Expected a <class 'int'>. Got value: x")
    "expected int, got 'x'"
    >>> _format_type_error("- Expected a int - Expected a <class 'NoneType'> Given value: y")
    "expected int, got 'y'"
    """
    value = re.search(r".*(?:Got|Given) value: (.*)$", text)
    types = re.findall(
        r"Expected (?:an? )?(?:<class '([^']+)'>|(?:typing\.)?(Literal\[[^\]]*\]|[\w.]+(?:\[[^\]]*\])?))", text
    )
    names = [name for name in dict.fromkeys("".join(pair) for pair in types) if name != "NoneType"]
    return f"expected {' or '.join(names)}, got {value[1]!r}" if value and names else text
