"""The HTTP layer of the stand-in: injected faults, authentication, and JSON encoding."""

import email.parser
import email.policy
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api as api

from tests.launch.stand_in.models import Refusal

_WIRE = api.ApiClient()


@dataclass
class Fault:
    """A fault to inject into the next `times` matching requests."""

    method: str
    path: str
    kind: str  # status, hang, drop, drop-after, html or redirect
    status: int = 500
    message: str = "the database is away"
    times: int = 1


class Answers(Protocol):
    """What the handler needs from a server."""

    token: str
    cookie: str
    faults: list[Fault]
    requests: list[tuple[str, str]]
    closing: threading.Event

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Returns the response to a request."""


class Handler(BaseHTTPRequestHandler):
    """Handles requests one at a time."""

    kfp: Answers
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        url = urlsplit(self.path)
        self.kfp.requests.append((self.command, url.path))
        fault = next(
            (f for f in self.kfp.faults if f.times and f.method == self.command and re.search(f.path, url.path)), None
        )
        if fault:
            fault.times -= 1
            if fault.kind == "drop-after":
                self._result(url.path, url.query, raw)
            if fault.kind in ("drop", "drop-after"):
                self.close_connection = True
                return self.connection.close()
            if fault.kind == "hang":
                self.kfp.closing.wait(20)
                self.close_connection = True
                return None
            if fault.kind == "html":
                return self._send(200, b"<html><title>Log in</title></html>", "text/html")
            if fault.kind == "redirect":
                return self._send(302, b"", "text/html", location="https://login.example.com/dex/auth?state=SECRET")
            return self._send(fault.status, json.dumps({"code": 13, "message": fault.message}).encode())
        status, answer = self._result(url.path, url.query, raw)
        return self._send(status, json.dumps(answer).encode())

    def _result(self, path: str, query: str, raw: bytes) -> tuple[int, Any]:
        if self.kfp.token and self.headers.get("authorization") != f"Bearer {self.kfp.token}":
            return 401, {"code": 16, "message": "Request header error: there is no user identity header"}
        if self.kfp.cookie and self.headers.get("cookie") != self.kfp.cookie:
            return 401, {"code": 16, "message": "no session"}
        try:
            return 200, _WIRE.sanitize_for_serialization(
                self.kfp.answer(self.command, unquote(path), dict(parse_qsl(query)), self._body(raw))
            )
        except Refusal as refusal:
            return refusal.status, {"code": 3, "message": refusal.message}

    def _body(self, raw: bytes) -> Any:
        kind = self.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            head = f"content-type: {kind}\r\n\r\n".encode()
            return email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        return json.loads(raw) if raw else None

    def _send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _serve
