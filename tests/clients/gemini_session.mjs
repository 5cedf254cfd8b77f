// A session as Gemini CLI 0.61 tells of it: `node gemini_session.mjs SESSION_ID BEGAN_MS`.
//
// It says the same thing each time it is run with the same arguments, down to every id and time, so
// that running it again is a client sending again. The exit code is 1 when an export failed.
import { createHash } from "node:crypto";

import { ROOT_CONTEXT, SpanStatusCode, trace, ValueType } from "@opentelemetry/api";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";
import { MeterProvider, MetricReader } from "@opentelemetry/sdk-metrics";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";

import { exportersFor, failures } from "./exporters.mjs";

const [session, began] = [process.argv[2], Number(process.argv[3])];
const at = (seconds) => began + Math.round(seconds * 1000);
const exporters = exportersFor(process.env.OTEL_EXPORTER_OTLP_PROTOCOL);
const resource = resourceFromAttributes({
  "service.name": "gemini-cli",
  "service.version": process.version,
  "session.id": session,
});
const common = {
  "session.id": session,
  "installation.id": "0b5e6a0e-6a3c-4a7e-9d2f-3b1f5b8a7c11",
  interactive: false,
  auth_type: "gemini-api-key",
  "user.email": "ada@example.com",
};
const MODEL = "gemini-2.5-flash";

// -- what happened -------------------------------------------------------------------------------

const modelCalls = [
  { at: 0.2, ms: 900, input: 1200, cached: 0, output: 40, thoughts: 25 },
  { at: 1.4, ms: 300, error: { status: 503, type: "ServerError", message: "overloaded" } },
  { at: 2.0, ms: 1100, input: 1500, cached: 1100, output: 60, thoughts: 0 },
  { at: 4.6, ms: 700, input: 1900, cached: 1400, output: 25, thoughts: 10 },
];
const toolCalls = [
  { at: 1.2, ms: 12, tool: "read_file", args: { absolute_path: "/src/app.py" } },
  { at: 3.2, ms: 8, tool: "read_file", args: { absolute_path: "/src/none.py" }, failed: true },
  { at: 3.3, ms: 950, tool: "run_shell_command", args: { command: "pytest -q" } },
  { at: 4.3, ms: 30, tool: "replace", args: { file_path: "/src/app.py" }, added: 7, removed: 2 },
];
const ends = 5.5;

// -- spans ---------------------------------------------------------------------------------------

let spanNumber = 0;
function idOf(kind, length) {
  spanNumber += 1;
  const hash = createHash("sha256").update(`${session} ${kind} ${spanNumber}`);
  return hash.digest("hex").slice(0, length);
}

const tracers = new BasicTracerProvider({
  resource,
  idGenerator: {
    generateTraceId: () => idOf("trace", 32),
    generateSpanId: () => idOf("span", 16),
  },
  spanProcessors: [new BatchSpanProcessor(exporters.spans)],
});
const tracer = tracers.getTracer("gemini-cli", "v1");

function span(name, call, attributes, parent = ROOT_CONTEXT) {
  const started = tracer.startSpan(name, { startTime: at(call.at), attributes }, parent);
  started.setAttributes({
    "gen_ai.operation.name": name,
    "gen_ai.agent.name": "gemini-cli",
    "gen_ai.conversation.id": session,
  });
  // A tool that failed is no failed span; a model call is.
  const code = call.error === undefined ? SpanStatusCode.OK : SpanStatusCode.ERROR;
  started.setStatus({ code, message: call.error?.message });
  started.end(at(call.at + call.ms / 1000));
  return trace.setSpan(ROOT_CONTEXT, started);
}

// -- logs ----------------------------------------------------------------------------------------

const loggers = new LoggerProvider({
  resource,
  processors: [new BatchLogRecordProcessor({ exporter: exporters.logs })],
});
const logger = loggers.getLogger("gemini-cli");

function log(name, seconds, body, attributes, context = ROOT_CONTEXT) {
  const timestamp = at(seconds);
  logger.emit({
    body,
    context,
    timestamp,
    observedTimestamp: timestamp,
    attributes: {
      ...common,
      "event.name": name,
      "event.timestamp": new Date(timestamp).toISOString(),
      ...attributes,
    },
  });
}

function sayModelCall(call) {
  const done = call.at + call.ms / 1000;
  const context = span("llm_call", call, {
    "gen_ai.request.model": MODEL,
    "gen_ai.usage.input_tokens": call.input,
    "gen_ai.usage.output_tokens": call.output,
  });
  const known = { model: MODEL, prompt_id: session, role: "main" };
  log("gemini_cli.api_request", call.at, `API request to ${MODEL}.`, known, context);
  if (call.error !== undefined) {
    log("gemini_cli.api_error", done, `API error for ${MODEL}.`, {
      ...known,
      model_name: MODEL,
      error: call.error.message,
      "error.message": call.error.message,
      "error.type": call.error.type,
      status_code: call.error.status,
      duration: call.ms,
      duration_ms: call.ms,
    });
  } else {
    log("gemini_cli.api_response", done, `API response from ${MODEL}. Status: 200.`, {
      ...known,
      status_code: 200,
      duration_ms: call.ms,
      input_token_count: call.input,
      output_token_count: call.output,
      cached_content_token_count: call.cached,
      thoughts_token_count: call.thoughts,
      tool_token_count: 0,
      total_token_count: call.input + call.output + call.thoughts,
      finish_reasons: ["stop"],
    });
  }
  // The same call in the words of the conventions, as this client sends every one of them twice.
  log("gen_ai.client.inference.operation.details", done, `GenAI operation details from ${MODEL}.`, {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "gcp.gen_ai",
    "gen_ai.request.model": MODEL,
  });
}

const NOT_FOUND = {
  error: "File not found",
  "error.message": "File not found",
  error_type: "file_not_found",
  "error.type": "file_not_found",
};

function sayToolCall(call, number) {
  const batch = span("schedule_tool_calls", call, {});
  span(
    "tool_call",
    call,
    {
      "gen_ai.tool.name": call.tool,
      // Only the span knows an id.
      "gen_ai.tool.call_id": `${call.tool}__${call.tool}_${began}_${number}`,
    },
    batch,
  );
  const lines = { model_added_lines: call.added, model_removed_lines: call.removed };
  log(
    "gemini_cli.tool_call",
    call.at + call.ms / 1000,
    `Tool call: ${call.tool}. Success: ${!call.failed}. Duration: ${call.ms}ms.`,
    {
      function_name: call.tool,
      function_args: JSON.stringify(call.args, null, 2),
      duration_ms: call.ms,
      success: !call.failed,
      decision: call.tool === "replace" ? "auto_accept" : "accept",
      prompt_id: session,
      tool_type: "native",
      content_length: 64,
      mcp_server_name: undefined,
      ...(call.added === undefined ? {} : { metadata: JSON.stringify(lines) }),
      ...(call.failed ? NOT_FOUND : {}),
    },
    batch,
  );
}

// -- metrics -------------------------------------------------------------------------------------

const INT = { valueType: ValueType.INT };

class Once extends MetricReader {
  onShutdown = async () => {};
  onForceFlush = async () => {};
}

async function sendMetrics() {
  const reader = new Once();
  const meter = new MeterProvider({ resource, readers: [reader] }).getMeter("gemini-cli");
  const counters = {};
  const add = (name, value, attributes) =>
    (counters[name] ??= meter.createCounter(name, INT)).add(value, { ...common, ...attributes });
  const latency = meter.createHistogram("gemini_cli.tool.call.latency", { unit: "ms" });

  add("gemini_cli.session.count", 1, {});
  for (const call of modelCalls) {
    const status_code = call.error?.status ?? 200;
    add("gemini_cli.api.request.count", 1, { model: MODEL, status_code });
    if (call.error !== undefined) continue;
    const { input, output, cached: cache, thoughts: thought } = call;
    for (const [type, tokens] of Object.entries({ input, output, cache, thought })) {
      add("gemini_cli.token.usage", tokens, { model: MODEL, type });
    }
  }
  for (const call of toolCalls) {
    const named = { function_name: call.tool };
    const went = { success: !call.failed, decision: "accept", tool_type: "native" };
    add("gemini_cli.tool.call.count", 1, { ...named, ...went });
    latency.record(call.ms, { ...common, ...named });
    if (call.added === undefined) continue;
    add("gemini_cli.lines.changed", call.added, { ...named, type: "added" });
    add("gemini_cli.lines.changed", call.removed, { ...named, type: "removed" });
  }

  const { resourceMetrics } = await reader.collect();
  const time = (seconds) => [Math.floor(at(seconds) / 1000), (at(seconds) % 1000) * 1e6];
  for (const { metrics } of resourceMetrics.scopeMetrics) {
    for (const point of metrics.flatMap((metric) => metric.dataPoints)) {
      Object.assign(point, { startTime: time(0), endTime: time(ends) });
    }
  }
  await new Promise((done) => exporters.metrics.export(resourceMetrics, done));
}

// -- all of it -----------------------------------------------------------------------------------

log("gemini_cli.config", 0, "CLI configuration loaded.", { model: MODEL, approval_mode: "yolo" });
log("gemini_cli.user_prompt", 0.1, "User prompt. Length: 21.", {
  prompt_length: 21,
  prompt_id: session,
});
modelCalls.forEach(sayModelCall);
toolCalls.forEach(sayToolCall);
log("gemini_cli.conversation_finished", ends, "Conversation finished.", {
  approvalMode: "yolo",
  turnCount: 4,
});

// What goes wrong in one must not keep the others from being sent.
await Promise.allSettled([loggers.forceFlush(), tracers.forceFlush(), sendMetrics()]);
for (const failure of failures) console.error(failure);
process.exit(failures.length === 0 ? 0 : 1);
