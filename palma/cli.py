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
from palma.proxy.command import proxy
from palma.token_command import app as token_app
from palma.version import __version__

EXIT_FAILED = 1
EXIT_BAD_SETTING = 2
EXIT_TOO_LARGE = 3

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

    settings = _settings(flags)
    configure_logging(debug=settings.debug)
    serve_http(settings)


def check(**flags: Any) -> None:
    """Show what would run a model here, and whether its weights fit; serves nothing.

    Takes the flags of `palma serve`. Exit status: 0 it would be served, 1 it cannot be loaded,
    2 a setting is wrong, 3 its weights do not fit into memory.
    """
    from palma.model_reports import show_checkups
    from palma.serving.model_options import startup_plans

    if not show_checkups(startup_plans(_settings(flags))):
        raise typer.Exit(EXIT_TOO_LARGE)


@app.command()
def download(
    model: Annotated[
        str, typer.Argument(help="A name of ~/.palma/models.yaml, or of the Hub: org/name.")
    ],
) -> None:
    """Download a model's files, so that serving it needs no network."""
    from palma.model_reports import show_download

    show_download(model, load_settings())


@app.command("list")
def list_models() -> None:
    """List the models of ~/.palma/models.yaml, and those that are on this machine."""
    from palma.model_reports import show_models

    load_settings()  # for HF_HOME in .env
    show_models()


def _settings(flags: dict[str, Any]) -> Settings:
    """Return the settings with the flags that were given; each -id adds to MODELS."""
    given = {name: value for name, value in flags.items() if value is not None}
    models = [*(given.pop("id", None) or ()), *([given["models"]] if "models" in given else ())]
    if models:
        given["models"] = "; ".join(models)
    return load_settings(**given)


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
_ID_FLAG = inspect.Parameter(
    "id",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            "-id",
            "--id",
            help='A model and its keys: "model_id=mistral max_seq_len=8192"; may stand there '
            "several times.",
            show_default=False,
        ),
    ],
)
for _command in (serve, check):
    _command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_ID_FLAG, *(_flag(name, field) for name, field in Settings.model_fields.items())]
    )
    app.command()(_command)
app.command()(bench)
app.command()(proxy)
app.add_typer(token_app, name="token")
