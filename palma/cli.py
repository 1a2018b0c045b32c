"""Floor 5: the `palma` command. Each setting is a flag of `palma serve`."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from palma.bench.command import bench
from palma.core.config import Settings, load_settings
from palma.core.errors import PalmaError, SettingsError
from palma.core.logs import configure_logging
from palma.version import __version__

EXIT_FAILED = 1
EXIT_BAD_SETTING = 2

app = typer.Typer(
    help="An LLM inference server in Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; what goes wrong ends it with one line, a wrong setting with status 2."""
    try:
        app()
    except PalmaError as error:
        print(f"palma: {error.message}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTING if isinstance(error, SettingsError) else EXIT_FAILED)


def _show_version(value: bool) -> None:
    if value:
        print(f"palma {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """An LLM inference server in Python."""


def serve(**flags: Any) -> None:
    """Serve a model over HTTP. Each flag is also an environment variable, and a line of .env."""
    from palma.api.server import serve as serve_http

    given = {name: value for name, value in flags.items() if value is not None}
    settings = load_settings(**given)
    configure_logging(debug=settings.debug)
    serve_http(settings)


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """Describe the flag of a setting; unset, it leaves the choice to the environment."""
    help_text = f"{field.description} [{name.upper()}, default: {field.default}]"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_flag_type(field), typer.Option(help=help_text, show_default=False)],
    )


def _flag_type(field: FieldInfo) -> Any:
    """Return bool for switches and str for the rest: Settings checks values, with one voice."""
    return bool | None if field.annotation is bool else str | None


# Typer reads flags from a signature; this one is written by Settings, so the two cannot differ.
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_flag(name, field) for name, field in Settings.model_fields.items()]
)
app.command()(serve)
app.command()(bench)
