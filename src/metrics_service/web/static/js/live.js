// What changes on the server, as events of the document: `live:changed` with the sessions that
// changed, or `many`, and `live:gone` when nobody is signed in any more.
//
// A browser has six connections to a host, so of all its tabs one holds the stream and tells the
// others. Where there is no stream, or the server does not hear of changes itself, each tab takes
// twice a minute for granted that something has changed.

const STREAM = "/live";
const NAME = "metrics-live";
const POLL_MS = 30_000;
const AWAY_MS = 60_000;
// The server says something every 20 seconds: a connection that says nothing is none any more.
const SILENT_MS = 45_000;
const RETRY_MS = 5_000;
const REFUSED_MS = 60_000;
// What was committed before a page was made is on it.
const JUST_LOADED_MS = 3_000;

const channel = "BroadcastChannel" in window ? new BroadcastChannel(NAME) : null;
const loadedAt = Date.now();

// "listening": changes are told; "polling": they are guessed; "gone": nobody is signed in.
let state = "polling";
let isHolder = false;
let isCompeting = false;
let isPolling = false;
let hasBegun = false;

// Begins to listen, once for all who ask for it.
export function startLive() {
  if (hasBegun) return;
  hasBegun = true;
  channel?.addEventListener("message", ({ data }) => hear(data));
  channel?.postMessage({ kind: "who" });
  document.addEventListener("page:signed-in", () => tell({ kind: "back" }));
  compete();
  poll();
}

function hear(message) {
  if (message.kind === "who") {
    if (isHolder) channel.postMessage({ kind: "state", state });
  } else if (message.kind === "state") {
    if (state !== "gone") state = message.state;
  } else if (message.kind === "changed") {
    document.dispatchEvent(new CustomEvent("live:changed", { detail: message.detail }));
  } else if (message.kind === "gone") {
    leave();
  } else if (message.kind === "back") {
    comeBack();
  }
}

function tell(message) {
  channel?.postMessage(message);
  hear(message);
}

function leave() {
  if (state === "gone") return;
  state = "gone";
  document.dispatchEvent(new CustomEvent("live:gone"));
}

// Somebody signed in again, in this tab or in another.
function comeBack() {
  if (state !== "gone") return;
  state = "polling";
  document.dispatchEvent(new CustomEvent("live:back"));
  compete();
  poll();
}

async function poll() {
  if (isPolling) return;
  isPolling = true;
  while (state !== "gone") {
    await wait(POLL_MS * (0.8 + 0.4 * Math.random()));
    if (state === "polling" && !document.hidden) hear({ kind: "changed", detail: { many: true } });
  }
  isPolling = false;
}

// -- the tab that holds the stream ----------------------------------------------------------------

// Waits to be the one, for as long as somebody looks at this tab, or did so within the last minute.
async function compete() {
  if (isCompeting) return;
  isCompeting = true;
  while (state !== "gone") {
    await untilSeen();
    const away = whenAway();
    try {
      if (navigator.locks && channel) {
        await navigator.locks.request(NAME, { signal: away.signal }, () => hold(away.signal));
      } else {
        await hold(away.signal);
      }
    } catch (error) {
      // Nobody looked for a minute while another tab held the stream.
      if (error.name !== "AbortError") throw error;
    } finally {
      away.stop();
    }
  }
  isCompeting = false;
}

async function hold(signal) {
  isHolder = true;
  try {
    while (state !== "gone" && !signal.aborted) {
      const pause = await listen(signal);
      if (state === "gone") return;
      tell({ kind: "state", state: "polling" });
      if (!signal.aborted) await wait(pause * (1 + Math.random()), signal);
    }
  } finally {
    isHolder = false;
  }
}

// Listens until the stream ends; answers for how long to leave the server alone.
async function listen(signal) {
  const connection = new AbortController();
  const end = () => connection.abort();
  signal.addEventListener("abort", end);
  let silence = setTimeout(end, SILENT_MS);
  let pause = RETRY_MS;
  try {
    // Not an EventSource, which says nothing of why it was refused.
    const response = await fetch(STREAM, {
      headers: { Accept: "text/event-stream" }, cache: "no-store", signal: connection.signal,
    });
    if (response.status === 401 || response.status === 403) {
      tell({ kind: "gone" });
      return 0;
    }
    if (!response.ok) {
      const seconds = Number(response.headers.get("Retry-After"));
      return seconds > 0 ? seconds * 1000 : REFUSED_MS;
    }
    let isFirst = true;
    for await (const event of eventsOf(response.body)) {
      clearTimeout(silence);
      silence = setTimeout(end, SILENT_MS);
      // Only now: a proxy that holds all back for the end has said nothing yet.
      if (isFirst && event.kind !== "deaf") begin();
      isFirst = false;
      pause = event.retry ?? pause;
      take(event);
    }
  } catch {
    // The connection broke, or was let go of.
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", end);
    connection.abort();
  }
  return pause;
}

function begin() {
  tell({ kind: "state", state: "listening" });
  if (Date.now() - loadedAt > JUST_LOADED_MS) tell({ kind: "changed", detail: { many: true } });
}

function take({ kind, data }) {
  if (kind === "changed") {
    if (state === "polling") tell({ kind: "state", state: "listening" });
    tell({ kind, detail: data });
  } else if (kind === "deaf") {
    tell({ kind: "state", state: "polling" });
  } else if (kind === "gone") {
    tell({ kind });
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (text + value).split("\n\n");
    text = messages.pop();
    for (const message of messages) yield eventOf(message);
  }
}

function eventOf(message) {
  const fields = Object.fromEntries(message.split("\n").map((line) => {
    const at = line.indexOf(":");
    return [line.slice(0, at), line.slice(at + 1).trim()];
  }));
  return {
    kind: fields.event,
    data: fields.data ? JSON.parse(fields.data) : null,
    retry: fields.retry ? Number(fields.retry) : undefined,
  };
}

// -- time, and whether anybody looks --------------------------------------------------------------

function wait(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

function untilSeen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

// Its signal is given when the tab has been hidden for a minute.
function whenAway() {
  const away = new AbortController();
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => away.abort(), AWAY_MS);
  };
  look();
  document.addEventListener("visibilitychange", look);
  return {
    signal: away.signal,
    stop: () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
    },
  };
}
