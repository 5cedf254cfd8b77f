// The timeline of one session: rows are fetched as one comes near them, and as they happen; `n` and
// `p` go from failure to failure. Without this, links lead from page to page.

import { signInAgain } from "./api.js";

const NEAR = "2500px 0px";
const AT_THE_END_PX = 240;
const TYPING = "input, textarea, select, [contenteditable]";

const pages = document.getElementById("timeline-pages");
const news = document.getElementById("timeline-news");
const said = document.getElementById("timeline-said");
let state = document.getElementById("session-state")?.dataset.state;
let knownRows = Number(document.getElementById("session-state")?.dataset.rows);
let arrived = 0;

// -- rows as the server sends them ------------------------------------------------------------------

async function fetchPage(address, isAgain = false) {
  const response = await fetch(address, { headers: { "X-Refresh": "main" } });
  if (response.status === 401 && !isAgain && (await signInAgain())) return fetchPage(address, true);
  if (!response.ok) throw new Error(`the service answered ${response.status}`);
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  return template.content.querySelector(".tl-page");
}

// -- further down -----------------------------------------------------------------------------------

const near = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) loadMore().catch(() => {});
}, { rootMargin: NEAR });

let loading = null;
// Of the last page, where it is not the end.
let link = null;

function findLink() {
  link = pages.lastElementChild?.querySelector(":scope > .tl-more > [data-more]") ?? null;
}

// Resolves with whether there were more rows; rejects when they could not be fetched.
function loadMore() {
  loading ??= load().finally(() => { loading = null; });
  return loading;
}

async function load() {
  if (!link) return false;
  const place = link.parentElement;
  place.setAttribute("aria-busy", "true");
  try {
    const page = await fetchPage(link.dataset.more);
    await append(page);
    place.remove();
  } catch (error) {
    link.textContent = "That did not work; try again";
    near.disconnect();
    throw error;
  } finally {
    place.removeAttribute("aria-busy");
  }
  watch();
  return true;
}

// A part in each frame, so that none has to wait for all of them.
async function append(page) {
  const parts = [...page.children];
  page.replaceChildren();
  pages.append(page);
  for (const part of parts) {
    page.append(part);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

function watch() {
  near.disconnect();
  findLink();
  if (link) near.observe(link);
}

// -- what arrives -----------------------------------------------------------------------------------

function lastRow() {
  return [...pages.lastElementChild.querySelectorAll(".tl-row")].at(-1);
}

function isAtTheEnd() {
  const row = lastRow();
  return !row || row.getBoundingClientRect().bottom - innerHeight < AT_THE_END_PX;
}

function goToTheEnd() {
  lastRow()?.scrollIntoView({ block: "end" });
  // What is near now is only now as high as it is.
  requestAnimationFrame(() => lastRow()?.scrollIntoView({ block: "end" }));
}

async function refreshEnd() {
  const now = { ...document.getElementById("session-state").dataset };
  if (now.state === state) return;
  if (link) {
    // The end was not loaded: what is new comes when one gets there.
    const more = Number(now.rows) - knownRows;
    knownRows = Number(now.rows);
    state = now.state;
    if (more > 0) tellNews(more);
    return;
  }
  const last = pages.lastElementChild;
  const wasAtTheEnd = isAtTheEnd();
  const fresh = merge(last, await fetchPage(last.dataset.href));
  // Not before: what could not be fetched is asked for with the next change.
  state = now.state;
  knownRows = Number(now.rows);
  watch();
  if (!fresh) return;
  document.getElementById("timeline-empty")?.remove();
  said.textContent = fresh === 1 ? "One new row" : `${fresh} new rows`;
  if (wasAtTheEnd) goToTheEnd();
  else tellNews(fresh);
}

// Puts what changed in the place of what was, and what is new where it belongs; counts the new.
function merge(before, after) {
  let count = 0;
  let previous = null;
  for (const row of after.querySelectorAll(".tl-row")) {
    const known = document.getElementById(row.id);
    if (known?.outerHTML === row.outerHTML || known?.hasAttribute("tabindex")) {
      previous = known;
      continue;
    }
    if (known) {
      known.replaceWith(row);
    } else {
      row.classList.add("fresh");
      row.addEventListener("animationend", () => row.classList.remove("fresh"), { once: true });
      put(row, previous, before);
      count += 1;
    }
    previous = row;
  }
  const more = after.querySelector(".tl-more");
  if (more && !before.querySelector(".tl-more")) before.append(more);
  return count;
}

function put(row, previous, page) {
  if (previous) {
    previous.after(row);
    return;
  }
  let chunk = page.querySelector(".tl-chunk");
  if (!chunk) {
    chunk = document.createElement("ol");
    chunk.className = "tl-chunk";
    page.append(chunk);
  }
  chunk.prepend(row);
}

function tellNews(count) {
  arrived += count;
  news.querySelector("span").textContent = `${arrived} new`;
  news.hidden = false;
}

function forgetNews() {
  arrived = 0;
  news.hidden = true;
}

function goToNews() {
  if (link) {
    location.assign(document.getElementById("session-state").dataset.latest + "#timeline");
    return;
  }
  forgetNews();
  goToTheEnd();
}

// -- from failure to failure --------------------------------------------------------------------------

let isJumping = false;

async function jump(direction) {
  if (isJumping) return;
  isJumping = true;
  try {
    let row = nextFailure(direction);
    while (!row && direction > 0 && link) {
      said.textContent = "Looking further down";
      await loadMore();
      row = nextFailure(direction);
    }
    if (row) show(row);
    else said.textContent = direction > 0 ? "No failure below" : "No failure above";
  } catch {
    said.textContent = "The rows below could not be loaded";
  } finally {
    isJumping = false;
  }
}

function nextFailure(direction) {
  const failures = [...pages.querySelectorAll(".is-failed")];
  const here = pages.querySelector(".tl-row[tabindex]");
  if (!here) return direction > 0 ? failures[0] : undefined;
  const side = direction > 0 ? Node.DOCUMENT_POSITION_FOLLOWING : Node.DOCUMENT_POSITION_PRECEDING;
  const beyond = failures.filter((row) => here.compareDocumentPosition(row) & side);
  return direction > 0 ? beyond[0] : beyond.at(-1);
}

function show(row) {
  choose(row);
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
}

// The row that one is at; what is written in it is shown in full.
function choose(row) {
  pages.querySelector(".tl-row[tabindex]")?.removeAttribute("tabindex");
  row.tabIndex = -1;
}

function onKey(event) {
  if (event.target.closest(TYPING) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "n") jump(1);
  else if (event.key === "p") jump(-1);
}

if (pages) {
  document.getElementById("timeline-help").hidden = false;
  document.addEventListener("keydown", onKey);
  pages.addEventListener("click", (event) => {
    const row = event.target.closest(".tl-row");
    if (row && getSelection().isCollapsed) choose(row);
    const clicked = event.target.closest("[data-more]");
    if (!clicked || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    loadMore().catch(() => {});
  });
  news.querySelector("button").addEventListener("click", goToNews);
  addEventListener("scroll", () => { if (!link && arrived && isAtTheEnd()) forgetNews(); }, { passive: true });
  document.addEventListener("page:refreshed", () => refreshEnd().catch(() => {}));
  watch();
}
