"""Flags from the fields of a model: of `Settings`, and of a task's options. Each is spelled once, with its help."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from app.settings import PREFIX, Settings, load_settings


def flagged(command: Callable[[Settings], None]) -> Callable[..., None]:
    """A typer command with one flag for each setting; one that is not given leaves the setting to the environment.

    Raises:
        InvalidSettings: when run, as `load_settings` does.
    """

    def run(**flags: Any) -> None:
        command(load_settings(given(flags)))

    return signed(run, command.__doc__, setting_flags(Settings.model_fields))


def setting_flags(names: Iterable[str]) -> list[inspect.Parameter]:
    """Flags of the settings named, with their variables."""
    fields = Settings.model_fields
    return [flag(name, fields[name], PREFIX + name.upper()) for name in names]


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some flags that were typed."""
    return {name: value for name, value in flags.items() if value is not None}


def flag(name: str, info: FieldInfo, variable: str = "") -> inspect.Parameter:
    """The flag of a field, named as callers name it, its value still text: the model that it goes into validates."""
    switch = info.annotation is bool
    shown = f"default: {_shown(info.default)}"
    text = f"{info.description} [{variable}; {shown}]" if variable else f"{info.description} ({shown})"
    spoken = (info.alias or name).replace("_", "-")
    names = f"--{spoken}/--no-{spoken}" if switch else f"--{spoken}"
    option = typer.Option(names, help=text, show_default=False, metavar=_metavar(info.annotation))
    kind = bool if switch else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def signed(run: Callable[..., None], doc: str | None, parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """A function that typer reads as if these parameters were written in its signature."""
    found = list(parameters)
    run.__doc__ = doc
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
    vars(run)["__signature__"] = inspect.Signature(found)
    return run


def _metavar(annotation: Any) -> str | None:
    """What stands behind the flag in the help text."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) in (Union, type(int | None)):
        return _metavar(next(part for part in get_args(annotation) if part is not type(None)))
    names = {bool: None, int: "NUMBER", float: "NUMBER", str: "TEXT"}
    return names.get(annotation, "LIST" if get_origin(annotation) in (tuple, Mapping) else "PATH")


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    empty = default is None or default == {}
    return "none" if empty else str(default).lower() if isinstance(default, bool) else str(default)
