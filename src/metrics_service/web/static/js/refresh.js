// Brings a page up to date while it is open: asks for its main part again, and replaces what has an
// id and `data-live` and is not what it was. Such an element must be on the page from the beginning,
// also while it is empty.

import { startLive } from "./live.js";

// The server remembers what it showed for two seconds: asked sooner, it may tell of before the change.
const SETTLED_MS = 2_000;
const JITTER_MS = 1_000;
const TROUBLE_MS = 30_000;
// How often a screen reader is told that the page is another one.
const SAID_EVERY_MS = 60_000;

const TYPED = "input, textarea, select, [contenteditable]";

// As the server sent it: by now nothing has changed the page yet.
const known = textsOf(document);

function textsOf(root) {
  return new Map([...root.querySelectorAll("[data-live][id]")].map((one) => [one.id, one.outerHTML]));
}

// What the page's main part asks for by its attributes.
export function startRefreshing() {
  const { refresh, refreshSession, refreshTimed } = document.getElementById("main").dataset;
  if (!refresh && !refreshSession) return;
  refreshOn({
    sessions: refreshSession,
    everySeconds: Number(refresh || 2),
    isTimed: refreshTimed !== undefined,
  });
}

// Refreshes the page when something changed, or when this session did; or, timed, again and again.
export function refreshOn({ sessions, everySeconds, isTimed = false }) {
  let lastAt = Date.now();
  let timer = null;
  let isWanted = false;
  let isAsking = false;
  let isOver = false;
  let etag = null;

  document.addEventListener("live:changed", ({ detail }) => {
    if (sessions && !detail.many && !detail.sessions.includes(sessions)) return;
    want((detail.within ?? 0) * 1000);
  });
  document.addEventListener("live:gone", stop);
  document.addEventListener("live:back", () => {
    isOver = false;
    document.getElementById("signed-out")?.remove();
    want(0);
  });
  document.addEventListener("visibilitychange", () => { if (isWanted) want(0); });
  if (isTimed) setInterval(() => want(0), everySeconds * 1000);
  else startLive();

  // Soon, but not at the same moment as all others who were told.
  function want(withinMs) {
    isWanted = true;
    if (isOver || isAsking || timer !== null || document.hidden) return;
    const at = Math.max(lastAt + everySeconds * 1000, Date.now() + SETTLED_MS);
    const spread = Math.random() * (JITTER_MS + withinMs);
    timer = setTimeout(ask, at - Date.now() + spread);
  }

  async function ask() {
    timer = null;
    // Whoever comes back to it, or has done with the dialog, gets it then.
    if (isOver || document.hidden) return;
    if (document.querySelector("dialog[open]")) {
      want(0);
      return;
    }
    isAsking = true;
    isWanted = false;
    try {
      await fetchMain();
    } catch {
      later(isTimed ? 0 : TROUBLE_MS);
      // Calm must not be what a page shows whose server is gone.
      if (isTimed) sayStale("the service does not answer");
    } finally {
      isAsking = false;
      if (isWanted) want(0);
    }
  }

  async function fetchMain() {
    const headers = { "X-Refresh": "main", ...(etag ? { "If-None-Match": etag } : {}) };
    const response = await fetch(location.href, { headers });
    lastAt = Date.now();
    if (response.status === 401) {
      stop();
    } else if (response.status === 404) {
      // What the page is about was deleted: what it shows is all that is left.
      isOver = true;
    } else if (response.ok) {
      // What could not be replaced now is asked for again.
      const isWhole = replace(new DOMParser().parseFromString(await response.text(), "text/html"));
      etag = isWhole ? response.headers.get("ETag") : null;
      if (!isWhole) isWanted = true;
      sayUpdated();
    } else if (response.status === 304) {
      sayUpdated();
    } else {
      if (isTimed) sayStale(`the service answers with ${response.status}`);
      later(Math.max(TROUBLE_MS, Number(response.headers.get("Retry-After")) * 1000 || 0));
    }
  }

  function later(ms) {
    lastAt = Date.now() + ms - everySeconds * 1000;
    isWanted = true;
  }

  function stop() {
    if (isOver) return;
    isOver = true;
    clearTimeout(timer);
    timer = null;
    saySignedOut();
  }
}

// -- putting the new in the place of the old ------------------------------------------------------

// Answers whether all that changed was replaced.
function replace(fresh) {
  const replaced = [];
  let isWhole = true;
  for (const [id, text] of textsOf(fresh)) {
    const before = document.getElementById(id);
    if (!before || known.get(id) === text) continue;
    // One around it brought it along.
    if (replaced.some((one) => one.contains(before))) continue;
    if (isInUse(before)) {
      isWhole = false;
      continue;
    }
    const after = document.adoptNode(fresh.getElementById(id));
    const view = viewOf(before);
    before.replaceWith(after);
    restore(view, after);
    replaced.push(after);
    known.set(id, text);
    for (const inner of after.querySelectorAll("[data-live][id]")) known.set(inner.id, inner.outerHTML);
  }
  if (replaced.length) {
    document.dispatchEvent(new CustomEvent("page:refreshed", { detail: { elements: replaced } }));
  }
  return isWhole;
}

// Nobody loses what they type or have marked.
function isInUse(element) {
  const active = document.activeElement;
  if (element.contains(active) && active.matches(TYPED)) return true;
  const marked = getSelection();
  return Boolean(marked && !marked.isCollapsed && element.contains(marked.anchorNode));
}

// Where somebody was: the focus, what is open, and how far inner parts are scrolled.
function viewOf(root) {
  const active = document.activeElement;
  return {
    focus: root.contains(active) ? placeOf(active, root) : null,
    open: [...root.querySelectorAll("details")].map((one) => [placeOf(one, root), one.open]),
    scrolled: [root, ...root.querySelectorAll("*")]
      .filter((one) => one.scrollTop || one.scrollLeft)
      .map((one) => [placeOf(one, root), one.scrollTop, one.scrollLeft]),
  };
}

function restore(view, root) {
  for (const [place, isOpen] of view.open) {
    const one = at(place, root);
    if (one?.tagName === "DETAILS") one.open = isOpen;
  }
  for (const [place, top, left] of view.scrolled) at(place, root)?.scrollTo({ top, left, behavior: "instant" });
  if (view.focus) at(view.focus, root)?.focus({ preventScroll: true });
}

// An element by the nearest id, and the way down from there.
function placeOf(element, root) {
  const steps = [];
  let one = element;
  while (one !== root && !one.id) {
    steps.unshift([...one.parentElement.children].indexOf(one));
    one = one.parentElement;
  }
  return { id: one === root ? null : one.id, steps };
}

function at({ id, steps }, root) {
  const start = id ? root.querySelector(`#${CSS.escape(id)}`) : root;
  return steps.reduce((one, step) => one?.children[step], start);
}

// -- what is said about it ------------------------------------------------------------------------

let status = null;
let saidAt = 0;
let updatedAt = Date.now();

function sayUpdated() {
  updatedAt = Date.now();
  document.getElementById("stale")?.remove();
  if (!status) {
    status = document.createElement("p");
    status.className = "refreshed muted small";
    const shown = document.createElement("span");
    shown.setAttribute("aria-hidden", "true");
    const said = document.createElement("span");
    said.className = "visually-hidden";
    said.setAttribute("aria-live", "polite");
    status.append(shown, said);
    document.getElementById("main").append(status);
  }
  const time = clock(updatedAt);
  const [shown, said] = status.children;
  shown.textContent = `Updated ${time}`;
  if (Date.now() - saidAt >= SAID_EVERY_MS) {
    saidAt = Date.now();
    said.textContent = `Updated ${time}`;
  }
}

function clock(moment) {
  return new Date(moment).toLocaleTimeString("en-GB", { timeZone: document.body.dataset.zone });
}

function sayStale(why) {
  if (document.getElementById("stale")) return;
  const notice = document.createElement("p");
  notice.id = "stale";
  notice.className = "notice notice-error";
  notice.setAttribute("role", "alert");
  notice.textContent = `What you see is of ${clock(updatedAt)}: ${why}. This page keeps asking.`;
  document.getElementById("main").prepend(notice);
}

function saySignedOut() {
  if (document.getElementById("signed-out")) return;
  const notice = document.createElement("p");
  notice.id = "signed-out";
  notice.className = "notice notice-warning";
  notice.setAttribute("role", "status");
  const link = document.createElement("a");
  link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in";
  const text = document.createElement("span");
  text.append("You are signed out, so this page stays as it is. ", link, " to go on.");
  notice.append(text);
  document.getElementById("main").prepend(notice);
}
