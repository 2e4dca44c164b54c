"""A small server of one folder's runs: the list, and each run's page; to this machine alone, and nothing is written.

It answers GET for what is in the list and for the plotly file beside a light page, by exact address: there is no path
to take apart. A page that was not kept is drawn from its result when it is asked for. A request that names another host
than this machine is refused, so that a foreign site cannot read runs through a name that leads here.
"""

from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from factscope.errors import UserError
from factscope.plots.page import SHARED_SCRIPT, page_html
from studies.explorer.page import href, index_html
from studies.explorer.runs import PAGE, entries
from studies.saved import saved_run

HOST = "127.0.0.1"
OURS = (HOST, "localhost")


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """The server, bound and not yet running; port 0 takes a free one. UserError where the port is taken."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, folder=folder))
    except OSError as trouble:
        raise UserError(
            f"port {port} cannot be had ({trouble.strerror}); give another with --port, or --port 0 for a free one"
        ) from trouble
    except OverflowError:
        raise UserError(f"a port is a number from 0 to 65535, not {port}") from None


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    def __init__(self, *given: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*given)

    def do_GET(self) -> None:  # a name that http.server asks for
        """The list, a page, or a word of refusal."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in OURS:
            return self._say(HTTPStatus.FORBIDDEN, "this server answers to the names of this machine alone")
        path = urlsplit(self.path).path.removeprefix("/")
        try:
            runs = entries(self.folder)
            if path in ("", "index.html"):
                return self._send(index_html(f"Runs in {self.folder}", runs).encode(), "text/html; charset=utf-8")
            places = {href(entry): entry.place for entry in runs}
            if path in places:
                return self._send(self._page(*places[path]), "text/html; charset=utf-8")
            scripts = {address.removesuffix(PAGE) + SHARED_SCRIPT: place for address, place in places.items()}
            if path in scripts:
                file = self.folder.joinpath(*scripts[path], SHARED_SCRIPT)
                return self._send(file.read_bytes(), "text/javascript; charset=utf-8")
        except (UserError, OSError) as trouble:
            return self._say(HTTPStatus.NOT_FOUND, str(trouble))
        return self._say(HTTPStatus.NOT_FOUND, "there is no such run in the list")

    do_HEAD = do_GET  # noqa: N815

    def _page(self, *place: str) -> bytes:
        run = self.folder.joinpath(*place)
        if (run / PAGE).is_file():
            return (run / PAGE).read_bytes()
        return page_html(saved_run(run)[1]).encode()

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(words.encode(), "text/plain; charset=utf-8", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silence: the terminal is told the address, not each request."""
