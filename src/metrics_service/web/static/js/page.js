// On every page: whose clock it is, light or dark, how long ago things were, and what the keyboard does.

import { drawCharts } from "./charts.js";
import { startRefreshing } from "./refresh.js";

const YEAR_S = 365 * 24 * 3600;

function remember(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=${value ? YEAR_S : 0}; samesite=lax`;
}

// The server writes times for this zone from the next page on.
function tellZone() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && /^[A-Za-z0-9_+\-/]{1,64}$/.test(zone) && document.body.dataset.zone !== zone) {
    const isNew = !document.cookie.split("; ").includes(`tz=${zone}`);
    remember("tz", zone);
    // Once: where the server does not know the zone, it stays with its own.
    if (isNew && document.body.dataset.user) location.reload();
  }
}

const THEMES = ["system", "light", "dark"];

function offerThemes() {
  const button = document.getElementById("theme");
  if (!button) return;
  const label = button.querySelector("span");
  const show = () => {
    label.textContent = `Theme: ${document.documentElement.dataset.theme ?? "system"}`;
  };
  button.hidden = false;
  show();
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    remember("theme", next === "system" ? "" : next);
    show();
  });
}

const STEPS = [[60, "s"], [60, "min"], [24, "h"]];

// With the units of all other figures. What is older than a day is clearer by its date: null.
export function ago(moment, now = Date.now()) {
  let value = Math.abs(moment - now) / 1000;
  if (value < 10) return "just now";
  for (const [size, unit] of STEPS) {
    if (value < size) return `${moment > now ? "in " : ""}${Math.trunc(value)}\u00a0${unit}${moment > now ? "" : " ago"}`;
    value /= size;
  }
  return null;
}

const DATE = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

function dateOf(moment) {
  const isThisYear = new Date(moment).getFullYear() === new Date().getFullYear();
  const zone = { timeZone: document.body.dataset.zone };
  return new Intl.DateTimeFormat("en-GB", { ...DATE, ...zone, ...(isThisYear ? {} : { year: "numeric" }) }).format(moment);
}

export function showAges(root = document) {
  for (const element of root.querySelectorAll("time[data-ago]")) {
    const moment = Date.parse(element.dateTime);
    const text = ago(moment) ?? dateOf(moment);
    if (element.textContent !== text) element.textContent = text;
  }
}

// Menus that are open close with Escape, and when something else is clicked.
function closePopovers(event) {
  for (const open of document.querySelectorAll("details.popover[open]")) {
    const isEscape = event.type === "keydown";
    if (isEscape ? event.key !== "Escape" : open.contains(event.target)) continue;
    open.open = false;
    if (isEscape) open.querySelector("summary").focus();
  }
}

function focusSearch(event) {
  const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = document.querySelector("input[type=search]");
  if (!field) return;
  event.preventDefault();
  field.focus();
}

// Arrow keys pass by what is not meant.
const AFTER_KEYS_MS = 900;

// A filter that was chosen holds at once, and keeps the focus; without scripts there is a button.
function submitChoices() {
  for (const select of document.querySelectorAll("form[data-auto] select")) {
    let isByKey = false;
    let waiting = 0;
    const submit = () => {
      clearTimeout(waiting);
      waiting = 0;
      sessionStorage.setItem("chosen", `${location.pathname} ${select.name}`);
      select.form.requestSubmit();
    };
    select.addEventListener("pointerdown", () => { isByKey = false; });
    select.addEventListener("keydown", (event) => {
      isByKey = true;
      if (event.key === "Enter" && waiting) submit();
    });
    select.addEventListener("blur", () => { if (waiting) submit(); });
    select.addEventListener("change", () => {
      clearTimeout(waiting);
      if (isByKey) waiting = setTimeout(submit, AFTER_KEYS_MS);
      else submit();
    });
  }
  const [path, name] = (sessionStorage.getItem("chosen") ?? "").split(" ");
  sessionStorage.removeItem("chosen");
  if (path === location.pathname) {
    document.querySelector(`form[data-auto] select[name="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
  }
  for (const form of document.querySelectorAll("form[method=get]")) {
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
    });
  }
}

// Who looks at a month looks at the same month on the next page.
const TIMED = new Set(["/", "/sessions", "/tools", "/models", "/people"]);

function keepPeriod() {
  if (!TIMED.has(location.pathname)) return;
  const here = new URLSearchParams(location.search);
  const kept = new URLSearchParams();
  for (const name of ["last", "from", "to"]) if (here.has(name)) kept.set(name, here.get(name));
  if (!kept.size) return;
  for (const link of document.querySelectorAll(".side nav a")) {
    if (TIMED.has(link.pathname)) link.search = kept;
  }
}

// On a phone the pages stand in a row that scrolls: the one that is open is in it.
function showPlace() {
  const here = document.querySelector(".side nav a[aria-current]");
  if (here) here.closest("nav").scrollLeft = here.offsetLeft - here.closest("nav").clientWidth / 2 + here.offsetWidth / 2;
}

tellZone();
showPlace();
offerThemes();
showAges();
submitChoices();
keepPeriod();
setInterval(showAges, 20_000);
document.addEventListener("keydown", closePopovers);
document.addEventListener("keydown", focusSearch);
document.addEventListener("click", closePopovers);
document.addEventListener("page:refreshed", () => showAges());
drawCharts(document);
startRefreshing();
