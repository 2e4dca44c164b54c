"""A small server of one folder's runs: the list, and each run's page; to this machine alone, and nothing is written.

It answers GET for what is in the list and for the plotly file beside a light page, by exact address: there is no path
to take apart, and what a link in the folder leads out of it to is not served. A page that was not kept is drawn from
its result when it is asked for. A request that names another host than this machine is refused, so that a foreign site
cannot read runs through a name that leads here. A page may be a stranger's: it is served as a sandbox, whose scripts
may ask nobody for anything and see neither the list nor another page. Whoever says nothing for a while is hung up on.
"""

import re
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from factscope.errors import UserError
from factscope.plots.page import SHARED_SCRIPT, page_html
from studies.explorer.page import href, index_html
from studies.explorer.runs import PAGE, entries, kept_file
from studies.saved import saved_run

HOST = "127.0.0.1"
OURS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
SILENT = 10.0  # seconds that a connection may say nothing
MOST = 64  # connections at once; one more is closed unheard
HTML = "text/html; charset=utf-8"
# What a page of ours needs, of which a foreign one gets no more; a sandbox has an origin that nobody else has.
SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'self'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """The server, bound and not yet running; port 0 takes a free one. UserError where the port is taken."""
    try:
        return _Server((HOST, port), partial(_Handler, folder=folder))
    except OSError as trouble:
        raise UserError(
            f"port {port} cannot be had ({trouble.strerror}); give another with --port, or --port 0 for a free one"
        ) from trouble
    except OverflowError:
        raise UserError(f"a port is a number from 0 to 65535, not {port}") from None


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and no more of them than `MOST`."""

    def __init__(self, *given: Any) -> None:
        self.free = threading.BoundedSemaphore(MOST)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hear a connection, or close it where too many are open."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Hear it, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up is no trouble of ours; all else is told at the terminal."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = SILENT

    def __init__(self, *given: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*given)

    def do_GET(self) -> None:  # a name that http.server asks for
        """The list, a page, or a word of refusal."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not OURS.fullmatch(hosts[0]):
            return self._say(HTTPStatus.FORBIDDEN, "this server answers to the names of this machine alone")
        path = self.path.partition("?")[0].removeprefix("/")
        try:
            runs = entries(self.folder)
            if path in ("", "index.html"):
                return self._send(index_html(f"Runs in {self.folder}", runs).encode(), HTML)
            places = {href(entry): entry.place for entry in runs}
            if path in places:
                return self._send(self._page(*places[path]), HTML, policy=SANDBOX)
            scripts = {address.removesuffix(PAGE) + SHARED_SCRIPT: place for address, place in places.items()}
            if path in scripts and (script := kept_file(self.folder, scripts[path], SHARED_SCRIPT)):
                return self._send(script.read_bytes(), "text/javascript; charset=utf-8", shared="cross-origin")
        except (UserError, OSError) as trouble:
            return self._say(HTTPStatus.NOT_FOUND, str(trouble))
        return self._say(HTTPStatus.NOT_FOUND, "there is no such run in the list")

    do_HEAD = do_GET  # noqa: N815

    def _page(self, *place: str) -> bytes:
        if kept := kept_file(self.folder, place, PAGE):
            return kept.read_bytes()
        return page_html(saved_run(self.folder.joinpath(*place))[1]).encode()

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(words.encode("utf-8", "backslashreplace"), "text/plain; charset=utf-8", status)

    def _send(
        self,
        body: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        policy: str = "frame-ancestors 'self'",
        shared: str = "same-origin",
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Content-Security-Policy", policy),
            ("Cross-Origin-Resource-Policy", shared),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silence: the terminal is told the address, not each request."""
