"""The disk under the embedded server's data; other servers have theirs elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from metrics_service.db.embedded import EmbeddedServerError
from metrics_service.db.embedded.places import find_served


def find_data_dir(root: Path, dsn: str) -> Path | None:
    """Where the data of the server behind the DSN is, if it is the embedded one of `root`."""
    host = parse_qs(urlsplit(dsn).query).get("host", [""])[0]
    if not host.startswith("/"):
        return None
    try:
        places = find_served(root.resolve(), Path(host))
    except (EmbeddedServerError, OSError):
        return None
    return None if places is None else places.data_dir


def room(data_dir: Path) -> tuple[int, int] | None:
    """Bytes that are free, and all there are; None where the system does not say."""
    try:
        usage = shutil.disk_usage(data_dir)
    except OSError:
        return None
    return usage.free, usage.total
