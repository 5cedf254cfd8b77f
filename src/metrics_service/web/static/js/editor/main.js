// The editor of a dashboard: what is on the page is one document, which every part shows and changes.

import { Problem } from "../api.js";
import { button, confirmDialog, toast } from "../dialog.js";
import { Draft } from "./draft.js";
import { field, icon, iconButton, make } from "../elements.js";
import { dashboardForm, plainly, widgetForm } from "./form.js";
import { History } from "./history.js";
import { freePlace, inWords, settled } from "./layout.js";
import { documentOf, isSame } from "./merge.js";
import { Previews } from "./preview.js";
import { bodyOf, offerToMakeAgain, resolveConflict, save, saveCopy, sorted } from "./save.js";
import { Tiles } from "./tiles.js";
import { Catalogue, newId } from "./widgets.js";

const SIZES = { number: { w: 3, h: 2 }, chart: { w: 6, h: 4 }, table: { w: 6, h: 4 } };
const KINDS = { number: "Number", chart: "Chart", table: "Table" };

const given = JSON.parse(document.getElementById("editor-data").textContent);
const catalogue = new Catalogue(given.catalogue);
const draft = new Draft({ tenant: given.tenant, user: given.user, dashboard: given.dashboard.id });
const left = draft.find();

// What was read, and is changed: another one after somebody else's version was taken over.
let base = given.dashboard;
let chosen = null;
let isLeaving = false;
let widgetErrors = new Map();
let dashboardErrors = [];
// The widget that the panel shows, as it shows it: its own changes need not be shown again.
let shownInPanel = null;

const history = new History(documentOf(base));
const isChanged = () => !isSame(history.now, documentOf(base));

// -- the parts of the page --------------------------------------------------------------------------

const name = make("input", "editor-name", { type: "text", maxLength: 255, autocomplete: "off", "aria-label": "Name of the dashboard" });
const nameError = make("p", "error", { hidden: true });
const note = make("input", "", { type: "text", maxLength: 1000, autocomplete: "off", placeholder: "What you changed (optional)", "aria-label": "What you changed" });
const undo = iconButton("undo", "Undo", "button button-icon");
const redo = iconButton("redo", "Do again", "button button-icon");
const saving = make("button", "button button-primary", { type: "button" }, "Save");
const close = make("a", "button", { href: `/dashboards/${base.id}` }, "Close");
const settings = button("Details");
const add = make("div", "row", { role: "group", "aria-label": "Add a widget" });
for (const [kind, label] of Object.entries(KINDS)) {
  const one = make("button", "button", { type: "button", "aria-label": `Add a ${label.toLowerCase()}` }, icon("plus"), label);
  one.addEventListener("click", () => addWidget(kind));
  add.append(one);
}
const state = make("span", "muted small", { role: "status" });
const restoring = make("div", "notice", { hidden: true });
const grid = make("div", "egrid");
const empty = make("p", "empty", { hidden: true }, "Nothing on it yet. Add a number, a chart or a table with the buttons above.");
const live = make("p", "visually-hidden", { "aria-live": "polite" });
const keys = make("p", "visually-hidden", { id: "editor-keys" }, "Arrow keys move the widget, with Shift they resize it; Enter edits it, Delete removes it.");
const panel = make("aside", "editor-panel card", { "aria-label": "What is edited" });

const root = document.getElementById("editor");
root.append(
  make("div", "editor-bar", {},
    make("div", "editor-title", {}, name, nameError),
    make("div", "row", {}, state, undo, redo, settings, close),
    make("div", "editor-add", {}, add, make("div", "editor-save", {}, note, saving))),
  restoring, make("div", "editor-body", {}, make("div", "editor-board", {}, grid, empty), panel), live, keys);

const tiles = new Tiles(grid, {
  place: (places, key = null) => change({ places }, key),
  choose: (id, { quietly = false } = {}) => choose(id, quietly),
  duplicate, remove,
}, say);
const previews = new Previews((id) => tiles.find(id), (ids, wrong) => {
  for (const id of ids) {
    if (wrong.has(id)) widgetErrors.set(id, wrong.get(id));
    else widgetErrors.delete(id);
  }
  if (ids.includes(chosen)) showPanel();
  markTiles();
});

function say(text) {
  live.textContent = "";
  // Said again also when it is the same.
  requestAnimationFrame(() => { live.textContent = text; });
}

// -- changes ----------------------------------------------------------------------------------------

function change(parts, key = null) {
  history.set({ ...history.now, ...parts }, key);
}

function changeWidget(next, key = null) {
  shownInPanel = key === null ? null : next;
  change({ widgets: history.now.widgets.map((one) => (one.id === next.id ? next : one)) }, key && `${next.id} ${key}`);
}

function addWidget(kind, like = null) {
  if (history.now.widgets.length >= catalogue.max_widgets) {
    toast(`A dashboard has ${catalogue.max_widgets} widgets at most`, "error");
    return;
  }
  const widget = like ? { ...structuredClone(like), id: newId() } : catalogue.fresh(kind);
  const size = like ? history.now.places[like.id] : SIZES[kind];
  const place = freePlace(history.now.places, size);
  chosen = widget.id;
  change({
    widgets: [...history.now.widgets, widget],
    places: settled({ ...history.now.places, [widget.id]: place }, widget.id),
  });
  say(`${KINDS[widget.kind]} added: ${inWords(history.now.places[widget.id])}`);
  const tile = tiles.find(widget.id);
  tile.scrollIntoView({ block: "nearest" });
  (panel.querySelector("input") ?? tile).focus({ preventScroll: true });
}

function duplicate(id) {
  const widget = history.now.widgets.find((one) => one.id === id);
  addWidget(widget.kind, widget);
}

function remove(id) {
  const widget = history.now.widgets.find((one) => one.id === id);
  const order = [...grid.children];
  const at = order.findIndex((tile) => tile.dataset.id === id);
  const next = (order[at + 1] ?? order[at - 1])?.dataset.id;
  if (chosen === id) chosen = null;
  const { [id]: _, ...places } = history.now.places;
  change({ widgets: history.now.widgets.filter((one) => one.id !== id), places: settled(places) });
  say(`${widget.title || widget.kind} removed`);
  (tiles.find(next)?.querySelector(".etile-handle") ?? add.firstElementChild).focus({ preventScroll: true });
}

function choose(id, quietly = false) {
  const isOther = chosen !== id;
  chosen = id;
  if (isOther || !quietly) {
    shownInPanel = null;
    show();
  }
  if (quietly) return;
  panel.querySelector("input, select, textarea")?.focus();
}

// -- showing ----------------------------------------------------------------------------------------

function show() {
  const now = history.now;
  if (chosen !== null && !now.places[chosen]) chosen = null;
  if (document.activeElement !== name) name.value = now.name;
  undo.disabled = !history.canUndo;
  redo.disabled = !history.canRedo;
  state.textContent = isChanged() ? "Not saved yet" : "";
  empty.hidden = now.widgets.length > 0;
  tiles.show(now, chosen);
  markTiles();
  const widget = now.widgets.find(({ id }) => id === chosen);
  if (!widget ? shownInPanel !== now : shownInPanel !== widget) showPanel();
  if (widget) Previews.retitle(tiles.find(widget.id), widget.title, widget.kind);
  previews.update(now);
}

function showPanel() {
  const widget = history.now.widgets.find(({ id }) => id === chosen);
  const active = panel.contains(document.activeElement) ? document.activeElement : null;
  const where = active && pathOf(active);
  const selection = active?.selectionStart === undefined ? null : [active.selectionStart, active.selectionEnd];
  const form = widget
    ? widgetForm(widget, widgetErrors.get(widget.id) ?? [], {
      catalogue, choices: given.choices, people: given.people, change: changeWidget,
    })
    : dashboardForm(history.now, dashboardErrors, { mayPublish: given.may_publish, changeDashboard });
  const done = iconButton("cross", widget ? "Done with this widget" : "Close the details");
  done.addEventListener("click", () => {
    const tile = tiles.find(chosen);
    panel.classList.remove("is-open");
    if (!widget) {
      settings.focus();
      return;
    }
    chosen = null;
    shownInPanel = null;
    show();
    tile?.querySelector("[data-act=choose]").focus();
  });
  panel.replaceChildren(make("div", "spread", {},
    make("h2", "card-title", {}, widget ? `${KINDS[widget.kind]}` : "Dashboard"), done), form);
  panel.classList.toggle("is-open", Boolean(widget) || panel.classList.contains("is-open"));
  panel.classList.toggle("is-of-widget", Boolean(widget));
  shownInPanel = widget ?? history.now;
  const again = where && elementAt(where);
  if (again) {
    again.focus({ preventScroll: true });
    try {
      if (selection?.[0] !== null && selection) again.setSelectionRange(...selection);
    } catch {
      // A control without a cursor.
    }
  }
}

function changeDashboard(parts, key = null) {
  change(parts, key);
}

// Where a control is in the form, so that the same has the focus when the form was made anew.
function pathOf(control) {
  if (control.dataset.focus) return { focus: control.dataset.focus };
  const place = control.closest("[data-field]");
  if (!place) return null;
  const all = [...place.querySelectorAll("input, select, textarea, button")];
  return { field: place.dataset.field, at: all.indexOf(control) };
}

function elementAt({ focus, field: path, at }) {
  if (focus) return panel.querySelector(`[data-focus="${CSS.escape(focus)}"]`);
  const place = panel.querySelector(`[data-field="${CSS.escape(path)}"]`);
  const all = place ? [...place.querySelectorAll("input, select, textarea, button")] : [];
  return all[Math.min(at, all.length - 1)];
}

function markTiles() {
  for (const tile of grid.children) tile.classList.toggle("is-wrong", widgetErrors.has(tile.dataset.id));
}

// -- saving -----------------------------------------------------------------------------------------

async function saveNow() {
  if (saving.disabled) return;
  saving.disabled = true;
  draft.flush();
  const now = history.now;
  try {
    await save(base.id, bodyOf(now, base), base.version, note.value.trim(), { mayPublish: given.may_publish });
    leave(`/dashboards/${base.id}`);
  } catch (problem) {
    // What was tried instead may fail as well, and is said too.
    await failed(problem, now).catch((other) => toast(other.text ?? String(other), "error"));
  } finally {
    saving.disabled = false;
  }
}

async function failed(problem, now) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.status === 409) await conflict();
  else if (problem.status === 404) await gone();
  else if (problem.errors.length) showErrors(sorted(problem, now.widgets));
  else toast(problem.text, "error");
}

function showErrors({ ofWidgets, ofDashboard }) {
  widgetErrors = ofWidgets;
  dashboardErrors = ofDashboard;
  const ofName = ofDashboard.find(({ field: path }) => path === "name");
  nameError.textContent = ofName ? `The name ${plainly(ofName.reason)}` : "";
  nameError.hidden = !ofName;
  name.setAttribute("aria-invalid", String(Boolean(ofName)));
  const [first] = ofWidgets.keys();
  chosen = first ?? null;
  shownInPanel = null;
  if (first === undefined) panel.classList.add("is-open");
  show();
  const count = ofDashboard.length + [...ofWidgets.values()].flat().length;
  toast(`Not saved: ${count === 1 ? "one thing is" : `${count} things are`} not right; see what is marked`, "error");
  tiles.find(first)?.scrollIntoView({ block: "nearest" });
  (ofName ? name : panel.querySelector("[aria-invalid=true]"))?.focus();
}

async function conflict() {
  const decided = await resolveConflict(base.id, base, history.now, { seesPeople: given.sees_people });
  if (!decided) return;
  if (decided.what === "copy") await copyMine();
  else if (decided.what === "theirs") leave(`/dashboards/${base.id}`);
  else {
    base = decided.theirs;
    history.set(decided.document);
    keepDraft();
    toast(`You now edit on top of version ${base.version}; save when it is as you want it`);
  }
}

async function gone() {
  if (await offerToMakeAgain()) await copyMine();
}

async function copyMine() {
  const made = await saveCopy(bodyOf(history.now, base));
  leave(`/dashboards/${made.id}`);
}

function leave(address) {
  isLeaving = true;
  draft.drop();
  location.assign(address);
}

function keepDraft() {
  if (isLeaving) return;
  if (isChanged()) draft.keep({ base, document: history.now, note: note.value });
  else draft.drop();
}

// -- what was left the last time ----------------------------------------------------------------------

function offerDraft() {
  if (!left || isSame(left.document, history.now)) {
    draft.drop();
    return;
  }
  const at = new Date(left.at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const take = button("Restore my unsaved changes", "button-primary");
  const drop = button("Forget them");
  take.addEventListener("click", () => {
    base = left.base;
    note.value = left.note ?? "";
    restoring.hidden = true;
    history.set(left.document);
  });
  drop.addEventListener("click", () => {
    restoring.hidden = true;
    draft.drop();
  });
  restoring.replaceChildren(make("span", "", {}, `You left changes here on ${at} that were not saved.`), take, drop);
  restoring.hidden = false;
}

// -- the beginning ----------------------------------------------------------------------------------

name.addEventListener("input", () => change({ name: name.value }, "name"));
note.addEventListener("input", keepDraft);
undo.addEventListener("click", () => history.undo());
redo.addEventListener("click", () => history.redo());
saving.addEventListener("click", saveNow);
settings.addEventListener("click", () => {
  chosen = null;
  shownInPanel = null;
  panel.classList.add("is-open");
  show();
  panel.querySelector("textarea")?.focus();
});
panel.addEventListener("keydown", (event) => {
  if (event.key === "Escape") panel.querySelector(".spread > button").click();
});
history.addEventListener("change", () => {
  show();
  keepDraft();
});
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || document.querySelector("dialog[open]")) return;
  const pressed = event.key.toLowerCase();
  if (pressed === "s") {
    event.preventDefault();
    saveNow();
    return;
  }
  // In a field the browser undoes what was typed there.
  if (event.target.matches("input:not([type=checkbox]), textarea")) return;
  if (pressed === "z" || pressed === "y") {
    event.preventDefault();
    const isRedo = pressed === "y" || event.shiftKey;
    if (isRedo) history.redo();
    else history.undo();
    say(isRedo ? "Done again" : "Undone");
  }
});
close.addEventListener("click", async (event) => {
  if (!isChanged()) return;
  event.preventDefault();
  const isSure = await confirmDialog("Leave without saving?", "Your changes are kept in this browser, and offered when you come back.", { action: "Leave", danger: false });
  if (!isSure) return;
  draft.flush();
  isLeaving = true;
  location.assign(close.href);
});
window.addEventListener("beforeunload", (event) => {
  if (isLeaving || !isChanged()) return;
  draft.flush();
  event.preventDefault();
});
window.addEventListener("pagehide", () => { if (!isLeaving) draft.flush(); });

// The figures that came with the page go into their tiles.
tiles.show(history.now, chosen);
for (const widget of history.now.widgets) {
  const figure = document.getElementById(`figure-${widget.id}`);
  if (!figure) continue;
  tiles.find(widget.id).querySelector(".etile-figure").append(figure);
  previews.adopt(widget.id, widget, history.now.places[widget.id]);
}
document.getElementById("board-as-it-is").remove();
root.hidden = false;
show();
offerDraft();
