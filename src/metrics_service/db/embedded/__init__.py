"""The server in a wheel: start it or join it, its address, and keep it alive."""

from metrics_service.db.embedded.server import EmbeddedServer, embedded_server
from metrics_service.errors import EmbeddedServerError

__all__ = ["EmbeddedServer", "EmbeddedServerError", "embedded_server"]
