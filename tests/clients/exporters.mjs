// The exporters of opentelemetry-js, each made to remember whether everything was taken.
import { diag, DiagLogLevel } from "@opentelemetry/api";
import { OTLPLogExporter as GrpcLogs } from "@opentelemetry/exporter-logs-otlp-grpc";
import { OTLPLogExporter as JsonLogs } from "@opentelemetry/exporter-logs-otlp-http";
import { OTLPLogExporter as ProtobufLogs } from "@opentelemetry/exporter-logs-otlp-proto";
import { OTLPMetricExporter as GrpcMetrics } from "@opentelemetry/exporter-metrics-otlp-grpc";
import { OTLPMetricExporter as JsonMetrics } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPMetricExporter as ProtobufMetrics } from "@opentelemetry/exporter-metrics-otlp-proto";
import { OTLPTraceExporter as GrpcTraces } from "@opentelemetry/exporter-trace-otlp-grpc";
import { OTLPTraceExporter as JsonTraces } from "@opentelemetry/exporter-trace-otlp-http";
import { OTLPTraceExporter as ProtobufTraces } from "@opentelemetry/exporter-trace-otlp-proto";

const KINDS = {
  "http/json": { logs: JsonLogs, spans: JsonTraces, metrics: JsonMetrics },
  "http/protobuf": { logs: ProtobufLogs, spans: ProtobufTraces, metrics: ProtobufMetrics },
  grpc: { logs: GrpcLogs, spans: GrpcTraces, metrics: GrpcMetrics },
};

export const failures = [];

// A partial success is only ever a warning to a client; here it is a failure like any other.
const complain = (...words) => failures.push(words.join(" "));
const silent = () => {};
diag.setLogger(
  { error: complain, warn: complain, info: silent, debug: silent, verbose: silent },
  DiagLogLevel.WARN,
);

// Where to, with which headers and whether compressed is told by the usual OTEL_EXPORTER_OTLP_*.
export function exportersFor(protocol) {
  const kinds = KINDS[protocol];
  if (kinds === undefined) throw new Error(`OTEL_EXPORTER_OTLP_PROTOCOL is ${protocol}`);
  return {
    logs: watched(new kinds.logs()),
    spans: watched(new kinds.spans()),
    metrics: watched(new kinds.metrics()),
  };
}

function watched(exporter) {
  const send = exporter.export.bind(exporter);
  exporter.export = (items, done) =>
    send(items, (result) => {
      if (result.code !== 0) failures.push(String(result.error ?? "an export failed"));
      done(result);
    });
  return exporter;
}
