"""A real HTTP server that speaks the chat-completions protocol, well and badly."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast

Behaviour = Callable[["Handler"], None]
USAGE = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}


class Request(NamedTuple):
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    time: float

    @property
    def message(self) -> str:
        return self.body["messages"][0]["content"]


class Handler(BaseHTTPRequestHandler):
    """Keeps the request, then does what the server's script says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.request_seen = Request(
            self.path, dict(self.headers), json.loads(raw), time.monotonic()
        )
        cast("ChatServer", self.server).next_behaviour(self.request_seen)(self)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class ChatServer(ThreadingHTTPServer):
    """Plays its script, one behaviour a request, then `usual` for ever."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, usual: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.usual = usual
        self.script: list[Behaviour] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_behaviour(self, request: Request) -> Behaviour:
        with self._lock:
            self.requests.append(request)
            return self.script.pop(0) if self.script else self.usual

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients of these tests go away on purpose


def completion(text: str | None, finish: str = "stop", usage: object = USAGE) -> bytes:
    option = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    }
    return json.dumps({"id": "x", "choices": [option], "usage": usage}).encode()


def say(text: str | None, finish: str = "stop") -> Behaviour:
    return lambda handler: handler.send(200, completion(text, finish))


def fail(status: int, body: bytes = b"{}", **headers: str) -> Behaviour:
    return lambda handler: handler.send(status, body, **headers)


def send_bytes(body: bytes) -> Behaviour:
    return lambda handler: handler.send(200, body)


def stall(seconds: float) -> Behaviour:
    def behave(handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return behave


def cut_body(handler: Handler) -> None:
    """Promises more bytes than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(completion("3")[:20])
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Breaks the connection with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.connection.close()


def not_gzip(handler: Handler) -> None:
    """Says that its body is compressed, which it is not."""
    handler.send(200, completion("3"), content_encoding="gzip")


@contextmanager
def chat_server(usual: Behaviour) -> Iterator[ChatServer]:
    """A server on a free port, in a thread of its own."""
    server = ChatServer(usual)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
