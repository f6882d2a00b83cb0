"""``zenglow``: search, index and look after a ZenGlow server from a shell."""

from __future__ import annotations

import sys
from contextlib import suppress

import click
from rich.text import Text

from zenglow_client import errors, settings
from zenglow_client.client import DEFAULT_TIMEOUT_S, ZenGlow
from zenglow_client.console import ask, collections, documents, index, output, search, sources, weights
from zenglow_client.console.shared import as_json, server
from zenglow_client.transport import VERSION, Patience

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", metavar="URL", help=f"The server; else {settings.URL_VARIABLE}, else what `login` kept.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=DEFAULT_TIMEOUT_S, show_default=True, metavar="S")
@click.version_option(VERSION, message="zenglow %(version)s")
def zenglow(url: str | None, timeout: float) -> None:
    """Ask a ZenGlow server, and put documents into it.

    The API key comes from ZENGLOW_API_KEY or from `zenglow login`. It is never an option: options are seen by others.
    """


@zenglow.command()
@click.option("--url", metavar="URL", help="The server.")
@click.pass_context
def login(context: click.Context, url: str | None) -> None:
    """Try an API key and keep it, readable for you alone."""
    chosen = settings.checked_url(url or context.find_root().params["url"] or settings.load().url)
    if sys.stdin.isatty():
        key = click.prompt(f"API key for {chosen}", hide_input=True, err=True).strip()
    else:
        key = sys.stdin.readline().strip()
    if not key:
        raise click.UsageError("There was no key to read. Type it, or pipe it in.")
    if chosen.startswith("http://") and not chosen.startswith(("http://127.", "http://localhost", "http://[::1]")):
        output.note("This address is not encrypted: whoever sits between can read the key.")
    # A key without the scope `query` is a key all the same.
    with suppress(errors.ForbiddenError), ZenGlow(chosen, key, patience=Patience(attempts=1)) as client:
        next(client.collections(), None)
    output.line(f"Kept for {chosen} in {settings.save(settings.Settings(chosen, key))}")


@zenglow.command()
def logout() -> None:
    """Forget the kept key."""
    output.line("Forgotten." if settings.forget() else "There was nothing to forget.")


@zenglow.command()
@as_json
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say whether the server can answer."""
    client = server(context)
    ready = client.ready()
    if as_json:
        output.as_json(ready)
        return
    output.line(f"{client.url}: {ready.status}")
    rows = [(check.name, check.state, check.detail) for check in ready.checks]
    output.table(("part", "state", ""), rows, empty="It names no parts.")


zenglow.add_command(ask.ask)
zenglow.add_command(search.search)
zenglow.add_command(search.feedback)
zenglow.add_command(index.index)
zenglow.add_command(documents.documents)
zenglow.add_command(collections.collections)
zenglow.add_command(sources.sources)
zenglow.add_command(weights.weights)


def run() -> None:
    """The entry point. Whatever goes wrong is one line on stderr; bad input has the exit code 2, other faults 1."""
    try:
        code = zenglow.main(standalone_mode=False, prog_name="zenglow")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = BAD_INPUT
    except click.ClickException as error:
        code = _complain(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        code = _complain("Stopped.", INTERRUPTED)
    except errors.ZenGlowError as error:
        code = _explain(error)
    except BrokenPipeError:
        sys.stderr.close()
        code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: errors.ZenGlowError) -> int:
    match error:
        case errors.ConfigurationError() | errors.BadRequestError() | errors.NotFoundError():
            return _complain(str(error), BAD_INPUT)
        case errors.NotAuthenticatedError():
            return _complain(f"{error} `zenglow login` keeps a key, {settings.KEY_VARIABLE} gives one.", FAILED)
        case errors.ForbiddenError():
            return _complain(f"{error} Ask whoever runs the server for a key that may.", FAILED)
        case errors.ServerError():
            return _complain(f"{error} (request {error.request_id or 'without id'})", FAILED)
    return _complain(str(error), FAILED)


def _complain(text: str, code: int) -> int:
    # One line, whatever the message holds.
    output.err.print(Text(f"zenglow: {output.printable(' '.join(text.split()))}"))
    return code
