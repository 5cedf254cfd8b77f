"""The charts' library for browsers: made of vl-convert once, in a process of its own, and kept.

vl-convert has Vega, Vega-Lite and vega-embed inside, and bundles them without any network; that takes
seconds, for which it keeps the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gzip
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import structlog

from metrics_service.errors import UnavailableError

SCRIPT = "window.vegaEmbed = vegaEmbed;"
LEVEL = 9

# Another worker may be making it already, and this one waits for that.
MAKES_S = 60.0
RETRY_AFTER_S = 5

# What an interpreter needs to find its modules; no address, no secret.
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL")

_log = structlog.get_logger()


class VegaBundle:
    """The library as browsers get it; made for the first page that one of them gets."""

    def __init__(self, directory: Path) -> None:
        self.version = version("vl-convert-python")
        """Of what is in it."""
        self._path = directory / f"vega-{self.version}.js.gz"
        self._making: asyncio.Task[bytes] | None = None

    def prepare(self) -> None:
        """Begin to make it, unless it is there or in the making."""
        if self._making is None or _has_failed(self._making):
            self._making = asyncio.create_task(self._make())

    async def body(self) -> bytes:
        """The library, compressed with gzip; raises `UnavailableError`."""
        self.prepare()
        if self._making is None:
            raise AssertionError
        # A browser that leaves does not end what others wait for.
        return await asyncio.shield(self._making)

    async def aclose(self) -> None:
        """Stop making it."""
        making, self._making = self._making, None
        if making is not None:
            making.cancel()
            await asyncio.wait([making])

    async def _make(self) -> bytes:
        kept = await asyncio.to_thread(read_bundle, self._path)
        if kept is not None:
            return kept
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metrics_service.web.vega",
            str(self._path),
            stdout=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            # Ctrl-C is for the server.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(MAKES_S):
                body, _ = await process.communicate()
        except TimeoutError:
            body = b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if not await asyncio.to_thread(is_whole, body):
            _log.error("the charts' library was not made", exit_code=process.returncode)
            raise UnavailableError(
                "the charts' library could not be made", retry_after_s=RETRY_AFTER_S
            )
        return body


def _has_failed(task: asyncio.Task[bytes]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def read_bundle(path: Path) -> bytes | None:
    """What was kept; None where there is nothing, or something damaged."""
    try:
        body = path.read_bytes()
    except OSError:
        return None
    return body if is_whole(body) else None


def is_whole(body: bytes) -> bool:
    """Whether nothing of it is missing or changed, by its own check sum."""
    try:
        return len(gzip.decompress(body)) > 0
    except (OSError, EOFError, zlib.error):
        return False


# -- in a process of its own ------------------------------------------------------------------------


def main(path: Path) -> None:
    """Write the library to the output; made at most once where the directory can be written."""
    with _turn(path):
        body = read_bundle(path)
        if body is None:
            body = _made()
            # Without a directory it lives in memory alone.
            with contextlib.suppress(OSError):
                _keep(path, body)
    sys.stdout.buffer.write(body)


def _made() -> bytes:
    # Only here: the library is a hundred megabytes, which the server does not need.
    import vl_convert  # noqa: PLC0415  # see above

    # Without a time in it, so that every process makes the same.
    return gzip.compress(vl_convert.javascript_bundle(SCRIPT).encode(), LEVEL, mtime=0)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One process at a time; the kernel ends the turn of one that was killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("wb")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keep(path: Path, body: bytes) -> None:
    """Store it whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
