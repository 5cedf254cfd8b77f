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

const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const STEPS = [[60, "second"], [60, "minute"], [24, "hour"], [7, "day"], [Infinity, "week"]];

export function ago(moment, now = Date.now()) {
  let value = (moment - now) / 1000;
  if (Math.abs(value) < 10) return "just now";
  for (const [size, unit] of STEPS) {
    if (Math.abs(value) < size) return words.format(Math.trunc(value), unit);
    value /= size;
  }
  return "";
}

// What is older is clearer by its date.
const RECENT_MS = 7 * 24 * 3600 * 1000;

export function showAges(root = document) {
  for (const element of root.querySelectorAll("time[data-ago]")) {
    const moment = Date.parse(element.dateTime);
    if (Date.now() - moment > RECENT_MS) continue;
    const text = ago(moment);
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

// A filter that was chosen holds at once; without scripts there is a button.
function submitChoices() {
  for (const select of document.querySelectorAll("form[data-auto] select")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }
  for (const form of document.querySelectorAll("form[method=get]")) {
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
    });
  }
}

tellZone();
offerThemes();
showAges();
submitChoices();
setInterval(showAges, 20_000);
document.addEventListener("keydown", closePopovers);
document.addEventListener("keydown", focusSearch);
document.addEventListener("click", closePopovers);
document.addEventListener("page:refreshed", () => showAges());
drawCharts(document);
startRefreshing();
