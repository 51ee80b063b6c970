"""Settings as command-line flags: every field of `Settings` is one, with its help and its variable, spelled once."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from app.settings import PREFIX, Settings, load_settings


def flagged(command: Callable[[Settings], None]) -> Callable[..., None]:
    """A typer command with one flag for each setting; one that is not given leaves the setting to the environment.

    Raises:
        InvalidSettings: when run, as `load_settings` does.
    """

    def run(**flags: Any) -> None:
        command(load_settings({name: value for name, value in flags.items() if value is not None}))

    parameters = [_parameter(name) for name in Settings.model_fields]
    run.__doc__ = command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _parameter(name: str) -> inspect.Parameter:
    info = Settings.model_fields[name]
    kind = bool if info.annotation is bool else str
    text = f"{info.description} [{PREFIX}{name.upper()}; default: {_shown(info.default)}]"
    option = typer.Option(help=text, show_default=False, metavar=_metavar(info.annotation))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _metavar(annotation: Any) -> str | None:
    """What stands behind the flag in the help text."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    names = {bool: None, int: "NUMBER", float: "NUMBER", str: "TEXT"}
    return names.get(annotation, "LIST" if get_origin(annotation) in (tuple, Mapping) else "PATH")


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return "none" if default == {} else str(default).lower() if isinstance(default, bool) else str(default)
