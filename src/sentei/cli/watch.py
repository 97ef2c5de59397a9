"""The command `sentei watch`: serve the page of a run while it goes on."""

from __future__ import annotations

import os
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Annotated

from cyclopts import Parameter

from sentei.cli import screen
from sentei.cli.bounds import Port
from sentei.cli.options import NETWORK, RUN, Shown
from sentei.cli.screen import Result


def watch(
    journal: Path,
    *,
    model: Annotated[str | None, Parameter(group=NETWORK)] = None,
    port: Annotated[Port, Parameter(group=RUN)] = 0,
    until_input_ends: Annotated[bool, Parameter(group=RUN)] = False,
    run: Shown = Shown(),
) -> Result:
    """Serve the page of a run on this machine while the run goes on, until Ctrl-C.

    The page shows the steps so far and follows the run. Comparisons of criteria and times are left
    to the page that --report writes at the end.

    Parameters
    ----------
    journal
        Folder of the run.
    model
        The network of the run, if it is of your own class: file.py:name or package.module:name.
    port
        Port on 127.0.0.1; any free one if 0.
    until_input_ends
        End when standard input ends, in place of Ctrl-C: a program that starts this command ends it
        by closing the pipe, or by ending. The folder need not exist yet.
    """
    from sentei.reporting.live import HOST

    if not until_input_ends:
        _check(journal)
    run.start()
    made = _served(journal, model, port)
    address = f"http://{HOST}:{made.server_address[1]}/"
    if not screen.as_json.get():
        screen.console.say(address)
    if until_input_ends:
        Thread(target=_shut, args=(made,), daemon=True).start()
    with made:
        made.serve_forever()
    return Result({"address": address}, ())


def _served(journal: Path, model: str | None, port: int) -> ThreadingHTTPServer:
    """Return a server of the run's page.

    Raises:
        OSError: the port is taken, or may not be used.
    """
    from sentei.reporting.live import HOST, Pages, server

    try:
        return server(Pages(journal, lambda: _page(journal, model)), port)
    except OSError as error:
        raise OSError(
            f"port {port} of {HOST} cannot be used ({error.strerror}); give another --port, or "
            "leave it out for any free one"
        ) from error


def _check(journal: Path) -> None:
    """Raise FileNotFoundError if a folder is not that of a run, and is not empty either."""
    if not journal.is_dir():
        raise FileNotFoundError(f"there is no folder {journal}; name the --journal of a run")
    if any(journal.iterdir()) and not (journal / "run.json").exists():
        raise FileNotFoundError(f"{journal} is no folder of a run: it has no run.json")


def _shut(made: ThreadingHTTPServer) -> None:
    """Read standard input to its end, then end the server."""
    while os.read(0, 4096):
        pass
    made.shutdown()


def _page(journal: Path, model: str | None) -> bytes:
    from sentei.cli.loading import untrained
    from sentei.reporting.page import live

    return live(journal, None if model is None else untrained(model))
