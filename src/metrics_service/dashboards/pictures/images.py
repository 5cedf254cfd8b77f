"""Has pictures drawn by a process of their own, one at a time, so that no other request waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import msgspec
import structlog

from metrics_service.dashboards.layout import Place
from metrics_service.dashboards.pictures.compose import size_of
from metrics_service.dashboards.pictures.picture import DRAWN, LENGTH, ImageFormat, Picture
from metrics_service.dashboards.pictures.theme import ThemeName
from metrics_service.dashboards.widgets import Widget
from metrics_service.errors import InvalidQueryError, UnavailableError

MAX_WAITING = 8
MAX_WAITING_OF_ONE = 2
RETRY_AFTER_S = 5

# The first one waits for the process too, which starts in a second; thirty widgets take two. Others
# wait meanwhile.
DRAWS_S = 10.0

# A PNG is drawn in memory, four bytes a pixel.
MAX_PIXELS = 32_000_000

# What an interpreter needs to find its modules and to write text; no address, no secret.
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZDIR")

_log = structlog.get_logger()


def picture_of(
    name: str,
    description: str,
    *,
    widgets: Iterable[Widget],
    layout: Mapping[str, Any],
    answers: bytes,
    format_: ImageFormat,
    theme: ThemeName,
    width: int,
) -> Picture:
    """A dashboard and the answer of its `/data` to be drawn; raises `InvalidQueryError`."""
    picture = Picture(
        name=name,
        description=description,
        widgets=list(widgets),
        layout={id_: place for id_, raw in layout.items() if (place := _place(raw)) is not None},
        answers=msgspec.Raw(answers),
        format=format_,
        theme=theme,
        width=width,
    )
    across, down = size_of(picture)
    if format_ == "png" and across * down > MAX_PIXELS:
        raise InvalidQueryError(
            f"parameter width: the picture would have {across} x {down} pixels;"
            f" ask for less than {MAX_PIXELS // 1_000_000} million, or for svg or pdf"
        )
    return picture


def _place(raw: Any) -> Place | None:
    """Of a dashboard that was stored before places were looked at, there may be others."""
    try:
        return msgspec.convert(raw, Place)
    except msgspec.ValidationError:
        return None


class Renderer:
    """The drawing process of one server process; it begins with the first picture."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: Counter[Hashable] = Counter()
        self._process: asyncio.subprocess.Process | None = None

    async def render(self, picture: Picture, *, whose: Hashable) -> bytes:
        """Raises `UnavailableError` when too many wait, or when it cannot be drawn in time."""
        if self._waiting.total() >= MAX_WAITING or self._waiting[whose] >= MAX_WAITING_OF_ONE:
            raise UnavailableError("too many pictures are being drawn", retry_after_s=RETRY_AFTER_S)
        self._waiting[whose] += 1
        try:
            async with self._turn:
                return await self._draw(msgspec.json.encode(picture))
        finally:
            self._waiting[whose] -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]

    async def _draw(self, message: bytes) -> bytes:
        is_whole = False
        try:
            async with asyncio.timeout(DRAWS_S):
                outcome, image = await self._ask(message)
            is_whole = True
        except TimeoutError:
            raise UnavailableError(
                "the picture takes too long to draw; ask for fewer widgets, or for a shorter time",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except (asyncio.IncompleteReadError, OSError):
            _log.warning("the drawing process ended")
            raise UnavailableError(
                "the picture could not be drawn", retry_after_s=RETRY_AFTER_S
            ) from None
        finally:
            # Also when the client left: the next one must not be given this picture.
            if not is_whole:
                await self.aclose()
        if outcome != DRAWN:
            _log.error("a picture was not drawn", reason=image.decode(errors="replace"))
            raise UnavailableError("the picture could not be drawn", retry_after_s=RETRY_AFTER_S)
        return image

    async def _ask(self, message: bytes) -> tuple[bytes, bytes]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await _start()
        if process.stdin is None or process.stdout is None:
            raise OSError("the drawing process has no pipes")
        process.stdin.write(LENGTH.pack(len(message)) + message)
        await process.stdin.drain()
        outcome = await process.stdout.readexactly(1)
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        return outcome, await process.stdout.readexactly(length)

    async def aclose(self) -> None:
        """End the process; the next picture begins another."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "metrics_service.dashboards.pictures.drawing",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        # Ctrl-C is for the server, which ends this process when nothing is drawn any more.
        start_new_session=True,
    )
