r"""Parameters of a notebook: their types, profiles, and what is said when one of them does not fit.

The cell tagged `parameters` is the contract: what it assigns are the names, and the defaults give the types.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from coursekit.errors import CourseError, unknown

T = TypeVar("T")


def fits(value: Any, kind: type) -> bool:
    r"""Whether a parameter of type `kind` can take `value`.

    An int will do for a float and a list for a tuple; True and False are no numbers.
    """
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, kind)


def defaults(notebook: Path) -> dict[str, type | None]:
    r"""Names in the notebook's `parameters` cell, each with the type of its default (None: anything goes)."""
    import nbformat
    from papermill.translators import PythonTranslator

    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    kinds: dict[str, type | None] = {}
    for parameter in PythonTranslator.inspect(tagged[0]) if tagged else []:
        try:
            default = ast.literal_eval(parameter.default)
        except (ValueError, SyntaxError):  # computed in the cell
            default = None
        kinds[parameter.name] = None if default is None else type(default)
    return kinds


def escaped(path: Path) -> str:
    r"""`path` as papermill wants it: it fills parameters into braces of file names."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check(kinds: Mapping[str, type | None], given: Mapping[str, Any], where: str) -> None:
    r"""Raises CourseError for the first value in `given` that its parameter cannot take, or no notebook can."""
    for name, value in given.items():
        kind = kinds.get(name)
        if kind is not None and not fits(value, kind):
            hint = ""
            if kind is float and isinstance(value, str) and _is_number(value):
                hint = f"; YAML takes {value} for text, write {float(value):.1e}"  # it wants a dot before the e
            given_as = f"{value!r} ({type(value).__name__})"
            raise CourseError(f"parameter {name!r} expects {kind.__name__}, got {given_as} ({where}){hint}")
        if name in kinds and (odd := _unwritable(value)) is not None:
            raise CourseError(f"parameter {name!r} cannot be {odd} ({where}): {_PLAIN}")


_PLAIN = "give numbers, text, True, False, None, or lists of these"


def _unwritable(value: Any) -> str | None:
    r"""What in `value` cannot be written into a notebook's cell; None where all can."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text that is not UTF-8"
    except (ValueError, RecursionError):  # a list that holds itself
        return "nested so deeply"
    except TypeError as error:  # "Object of type set is not JSON serializable", or of a key, "not tuple"
        return f"of type {str(error).removesuffix(' is not JSON serializable').split()[-1]}"
    return None


def as_yaml(given: Mapping[str, Any]) -> str:
    r"""`given` for papermill's `--parameters_file`. (JSON would not do: YAML takes its 5e-05 and Infinity for text.)"""
    import yaml

    return yaml.safe_dump(dict(given), allow_unicode=True, sort_keys=False)


def read_profile(profile: str | Path | None, folder: Path) -> tuple[Path | None, dict[str, Any]]:
    r"""File and content of a profile: a name in `folder/profiles`, or a papermill parameter file."""
    import yaml

    if profile is None:
        return None, {}
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / "profiles" / f"{profile}.yaml"
        if not path.is_file():
            raise unknown("profile", str(profile), [p.stem for p in path.parent.glob("*.yaml")])
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            # Ten lines of aliases to lists of aliases are more values than a machine has room for.
            raise CourseError(f"the profile {path} has an alias such as *name: write the value there once more")
        content = yaml.safe_load(text)
    except OSError as error:
        raise CourseError(f"cannot read the profile {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"the profile {path} is not UTF-8 text") from error
    # ValueError: a date such as 2024-99-99. TypeError: a list as a name. RecursionError: a thousand brackets.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise CourseError(f"the profile {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is not None and not (isinstance(content, dict) and all(isinstance(k, str) for k in content)):
        raise CourseError(f"the profile {path} must hold lines of the form `name: value`")
    return path, content or {}


def parse(assignment: str) -> tuple[str, Any]:
    r"""`name=value` of a command line; the value is a Python literal where it can be one, else text."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.isidentifier():
        raise CourseError(f"cannot read the parameter {assignment!r}: write name=value, for example steps=20")
    try:
        return name, ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # such as {[]}, or a thousand brackets
        return name, text


def listed(text: str, kind: type[T], what: str) -> list[T]:
    r"""The values in `text`, which has commas between them. Raises CourseError for one that is no `kind`."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(kind(part))
        except ValueError:
            raise CourseError(f"{part!r} in {what}={text!r} is no {kind.__name__}") from None
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
