"""Set-ups in which an agent falls silent, with real sockets: other programs, certificates, gateways."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Answer(msgspec.Struct, frozen=True):
    """What a server says to every request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


@contextmanager
def answering(answer: Answer, *, trust: ssl.SSLContext | None = None) -> Iterator[int]:
    """A program that says the same to whoever posts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def do_HEAD(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    with _served_by(Handler, trust) as port:
        yield port


@contextmanager
def serving_files(directory: Path) -> Iterator[int]:
    """Another program on the port: it knows no POST, and answers with a page."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(directory))

        def log_message(self, *_: Any) -> None:
            pass

    with _served_by(Handler, None) as port:
        yield port


@contextmanager
def _served_by(handler: Any, trust: ssl.SSLContext | None) -> Iterator[int]:
    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that turn away are the subject."""

        def finish_request(self, request: Any, address: Any) -> None:
            # Here, not where it is accepted: a client that says nothing must not hold up the others.
            if trust is None:
                super().finish_request(request, address)
                return
            with trust.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, address)

    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def accepting(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A program that does with each connection whatever it likes."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

        def converse(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                talk(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def say_nothing(_: socket.socket) -> None:
    """Keep the connection, as a program that waits for another language does."""


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)
    connection.shutdown(socket.SHUT_RDWR)


def never_end(connection: socket.socket) -> None:
    """Answer a little at a time, for ever."""
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\r\n")
    for _ in itertools.count():
        connection.sendall(b".")
        threading.Event().wait(0.05)


def never_answer(connection: socket.socket) -> None:
    """Say now and then that the answer is to come."""
    connection.recv(1)
    for _ in itertools.count():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        threading.Event().wait(0.05)


def never_end_head(connection: socket.socket) -> None:
    """Answer with a header that grows for ever, a little at a time."""
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\nserver: ")
    for _ in itertools.count():
        connection.sendall(b"x")
        threading.Event().wait(0.05)


def never_end_chunk(connection: socket.socket) -> None:
    """Answer with a piece of which not even the size is ever said."""
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n")
    connection.sendall(b"transfer-encoding: chunked\r\n\r\n1;")
    for _ in itertools.count():
        connection.sendall(b"x")
        threading.Event().wait(0.05)


def flood(connection: socket.socket) -> None:
    """Answer with a quarter of a GiB, of which any beginning is a success as good as none: unknown fields."""
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\r\n")
    for _ in range(4096):
        connection.sendall(b"\x12\0" * 32768)


def page_over_http_2(connection: socket.socket) -> None:
    """A gateway that speaks HTTP/2 and knows no gRPC: every request is answered with 404."""
    # RFC 9113: a frame is its length, type, flags, stream and payload. RFC 7541: 0x8d is `:status: 404`.
    preface, headers, settings, ack = 24, 1, 4, b"\0\0\0\x04\x01\0\0\0\0"
    connection.sendall(b"\0\0\0\x04\0\0\0\0\0")
    heard = b""
    while piece := connection.recv(65536):
        heard += piece
        while len(heard) >= preface + 9:
            frame = heard[preface:]
            end = 9 + int.from_bytes(frame[:3])
            if len(frame) < end:
                break
            heard = heard[:preface] + frame[end:]
            if frame[3] == settings and not frame[4]:
                connection.sendall(ack)
            elif frame[3] == headers:
                connection.sendall(b"\0\0\x01\x01\x05" + frame[5:9] + b"\x8d")


@contextmanager
def full() -> Iterator[int]:
    """A port whose queue is full, so that connecting to it takes for ever."""
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def grpc_answering(
    answer: Callable[[Any], bytes] | None, *, certificate: Certificate | None = None
) -> Iterator[int]:
    """A gRPC server: every call is answered so; without an answer it serves nothing at all."""

    class Every(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Every()] if answer is not None else [])
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pem = certificate.file.read_bytes()
        credentials = grpc.ssl_server_credentials([(pem, pem)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


class Certificate(msgspec.Struct, frozen=True):
    """A certificate that nobody but itself vouches for."""

    file: Path

    def server_side(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        context.set_alpn_protocols(["http/1.1"])
        return context


def new_certificate(place: Path, *, name: str = "127.0.0.1", days: int = 1) -> Certificate:
    """Make one for a name or an address; with negative days it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = datetime.now(UTC) + timedelta(days=days)
    try:
        named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        named = x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([named]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = place / f"{name}{days}.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return Certificate(file)
