"""Odd requests to `factscope view`: paths and links out of its folder, foreign hosts, endless and silent lines.

Requests are sent as bytes, since a client would mend them. Beside the folder that is served lies a secret, and nothing
that the server says may hold it. A request has fallen if it does, or if the answer is another than it should be, the
server's thread ended in a traceback, a file was written, or the list is not answered afterwards.
"""

import contextlib
import io
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from campaigns.files import SCRIPT, run_folder
from campaigns.trial import Fall, outside
from studies.explorer import server as ours

SECRET = "nobody is told this"
LISTED = "one/page.html"
GOOD = "127.0.0.1"
PATIENCE = 20.0  # seconds that an answer may take; the machine may be busy


@dataclass(frozen=True)
class Request:
    """What is sent, and which answers are right; None: hung up without one."""

    name: str
    sent: bytes
    right: tuple[int | None, ...]


def requests() -> Iterator[Request]:
    """All of them."""
    yield from _paths()
    for host in ("evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example:80", "localhost.",
                 "[::1]", "[", "]", "127.0.0.1:80:80", "127.0.0.1:x", "127.1", "0.0.0.0", "", "\u00e9", "127.0.0.1 x",
                 "127.0.0.1, evil.example"):  # fmt: skip
        yield Request(f"host {host!r}", _get("/", host.encode("latin-1")), (403,))
    yield Request("no host", b"GET / HTTP/1.1\r\n\r\n", (403,))
    yield Request("two hosts", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", (403,))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "_send", "\x1b[2J", "\x9b"):
        yield Request(f"method {method!r}", _get("/", method=method.encode("latin-1")), (501, 400))
    head = f"Host: {GOOD}\r\n".encode()
    for name, sent, right in (
        ("a long path", _get("/" + "a" * 100_000), (414,)),
        ("a long list of folders", _get("/.." * 20_000), (404,)),
        ("a long header", b"GET / HTTP/1.1\r\n" + head + b"X: " + b"a" * 100_000 + b"\r\n\r\n", (431,)),
        ("many headers", b"GET / HTTP/1.1\r\n" + head + b"X: a\r\n" * 2000 + b"\r\n", (431,)),
        ("no end of the line", b"GET /" + b"a" * 200_000, (414,)),
        ("no colon", b"GET / HTTP/1.1\r\nHost\r\n\r\n", (403,)),
        ("HTTP/0.9", b"GET /\r\n\r\n", (None, 403)),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\n" + head + b"\r\n", (None, 505)),
        ("HTTP/x", b"GET / HTTP/x\r\n" + head + b"\r\n", (None, 400)),
        ("one word", b"GET\r\n\r\n", (None, 400)),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", (None, 400)),
        ("nothing", b"", (None,)),
        ("zeros", bytes(5000) + b"\r\n\r\n", (None, 400)),
        ("a body that lies", b"GET / HTTP/1.1\r\n" + head + b"Content-Length: 99999999\r\n\r\nx", (200,)),
        ("a second request", _get("/") + _get("/../secret"), (200,)),
        ("half a request", b"GET / HTTP/1.1\r\nHo", (None, 403)),
    ):
        yield Request(name, sent, right)


def _paths() -> Iterator[Request]:
    up = ("..", "%2e%2e", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%u002e%u002e", "..;", "%2e%2e%00", "..\\", "..%5c",
          "..%2f", "%ff", "\u2025", "....//")  # fmt: skip
    for one in up:
        for path in (
            f"/{one}/secret",
            f"/one/{one}/{one}/secret",
            f"/{one}{one}secret",
            f"/one/page.html/{one}/secret",
        ):
            yield Request(f"path {path!r}", _get(path), (404, 400))
    for path in ("//secret", "/{out}/secret", "//{out}/secret", "{out}/secret", "file://{out}/secret", "secret", "*",
                 "http://127.0.0.1/one/page.html", "http://[/", "//[", "/one/page.html%00", "/one\0/page.html",
                 "/one/page.html\0", "/one/result.json", "/one/page.html/", "/one//page.html", "/one/./page.html",
                 "/inside/page.html", "/linked/page.html", "/link.html", "/fifo/page.html", "/led/plotly.min.js",
                 "/loop/page.html", "/\x1b[2J\x07"):  # fmt: skip
        yield Request(f"path {path!r}", _get(path), (404, 400))
    for path in ("/one/page.html", "/one/page.html?../secret", "/%FF/page.html"):
        yield Request(f"path {path!r}", _get(path), (200,))
    yield Request("a page that is a link to the secret", _get("/led/page.html"), (404,))


def _get(path: str, host: bytes = GOOD.encode(), method: bytes = b"GET") -> bytes:
    return method + b" " + path.encode("utf-8") + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


def laid_out(room: Path) -> Path:
    """A folder of runs, of which some are links to what lies beside it, and one has a name that is no text."""
    folder, beside = room / "inside" / "runs", room / "beside"
    (beside / "secret").write_text(SECRET)
    run_folder(beside / "run", "TraceResult", {})
    (beside / "run" / "page.html").write_text(SECRET)
    for name in ("one", "led", "loop", "linked", "fifo", os.fsdecode(b"\xff")):
        run_folder(folder / name, "TraceResult", {})
    for name in ("one", os.fsdecode(b"\xff")):
        (folder / name / "page.html").write_text(f"<title>{SCRIPT}</title>")
    for name in ("page.html", "plotly.min.js"):
        (folder / "led" / name).symlink_to(beside / "secret")
    (folder / "loop" / "page.html").symlink_to("page.html")
    (folder / "inside").symlink_to(beside / "run")
    (folder / "link.html").symlink_to(beside / "secret")
    (folder / "linked" / "result.json").unlink()
    (folder / "linked" / "result.json").symlink_to(beside / "run" / "result.json")
    (folder / "linked" / "page.html").symlink_to(beside / "run" / "page.html")
    (folder / "fifo" / "result.json").unlink()
    os.mkfifo(folder / "fifo" / "result.json")
    return folder


@contextlib.contextmanager
def served(folder: Path, silent: float = ours.SILENT) -> Iterator[tuple[tuple[str, int], io.StringIO]]:
    """The server's address, and what it says at the terminal."""
    said = io.StringIO()
    with patch.object(ours._Handler, "timeout", silent), ours.server(folder, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        with contextlib.redirect_stderr(said):
            thread.start()
            try:
                yield (str(serving.server_address[0]), int(serving.server_address[1])), said
            finally:
                serving.shutdown()
                thread.join()


def asked(address: tuple[str, int], sent: bytes) -> tuple[int | None, bytes]:
    """Status and all that was answered."""
    with socket.create_connection(address, PATIENCE) as line:
        with contextlib.suppress(ConnectionError):  # it may have heard enough before the end
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := line.recv(2**16):
                answer += more
    words = answer.split(b" ", 2)
    known = len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit()
    return (int(words[1]) if known else None), answer


def falls(room: Path) -> Iterator[tuple[Request, Fall | None]]:
    """Send every request to a server of its folder; with what fell."""
    folder = laid_out(room)
    before, names = outside(room), sorted(folder.rglob("*"))
    with served(folder) as (address, said):
        for one in requests():
            words = _wrong(address, Request(one.name, one.sent.replace(b"{out}", bytes(room / "beside")), one.right))
            words = words or (f"at the terminal: {said.getvalue()[-300:]}" if said.getvalue() else "")
            if not words and (outside(room) != before or sorted(folder.rglob("*")) != names):
                words = "a file was written"
            yield one, Fall(f"request: {one.name}", repr(one.sent[:200]), words) if words else None
        status, answer = asked(address, _get("/"))
        yield Request("the list afterwards", b"", (200,)), None if status == 200 else Fall("list", "", repr(answer))


def _wrong(address: tuple[str, int], one: Request) -> str:
    try:
        status, answer = asked(address, one.sent)
    except TimeoutError:
        return "hung"
    if SECRET.encode() in answer:
        return f"told the secret: {answer[-200:]!r}"
    if status not in one.right:
        return f"answered {status}, and {one.right} is right: {answer[:200]!r}"
    head, _, body = answer.partition(b"\r\n\r\n")
    if (
        status == 200
        and b"page.html" in one.sent
        and (b"Policy: sandbox allow-scripts" not in head or b"allow-same" in head)
    ):
        return f"a page without a sandbox: {head!r}"
    if any(sign < 32 and sign not in b"\r\n\t" for sign in head + (body if status != 200 else b"")):
        return f"a control character in {answer[:300]!r}"
    return ""


def crowd(room: Path, silent: float = 0.5) -> str:
    """Three times as many silent connections as are heard, some with half a request; what is wrong then."""
    with served(room / "inside" / "runs", silent) as (address, said), contextlib.ExitStack() as lines:
        for number in range(3 * ours.MOST):
            line = lines.enter_context(socket.create_connection(address, PATIENCE))
            with contextlib.suppress(ConnectionError):
                line.sendall(b"GET / HTTP/1.1\r\nHost: 127" if number % 2 else b"")
        threads = threading.active_count()
        for _ in range(100):
            threading.Event().wait(silent / 2)
            if asked(address, _get("/"))[0] == 200:
                break
        else:
            return "nobody is answered after silent connections"
        if threads > ours.MOST + 20:
            return f"{threads} threads for silent connections"
        return f"at the terminal: {said.getvalue()[-300:]}" if said.getvalue() else ""
