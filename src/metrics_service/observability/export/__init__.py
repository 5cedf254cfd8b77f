"""OpenTelemetry out: traces, metrics and logs of the service itself, by the standard `OTEL_*` variables."""

from metrics_service.observability.export.environment import load_otel_settings
from metrics_service.observability.export.export import Export, start_export

__all__ = ["Export", "load_otel_settings", "start_export"]
