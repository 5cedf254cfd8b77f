// Saving, and what to do when somebody else saved first, or deleted the dashboard.

import { api } from "../api.js";
import { button, openDialog } from "../dialog.js";
import { field, make, select } from "../elements.js";
import { collisions, documentOf, isSame, merged } from "./merge.js";

const ROUTE = "/api/v1/dashboards";
const CALLED = { name: "The name", description: "The description", visibility: "Who sees it", tags: "The tags" };
const when = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

// A document as the API takes it; places that nobody touched stay as they were stored.
export function bodyOf(document_, stored) {
  const { name, description, visibility, tags, widgets, places } = document_;
  const asStored = documentOf(stored);
  const layout = isSame(places, asStored.places) ? stored.layout : places;
  return { name, description, visibility, tags, widgets, layout };
}

export async function save(id, body, version, note, { mayPublish }) {
  const { visibility, ...rest } = body;
  return api("PUT", `${ROUTE}/${id}`, { ...rest, ...(mayPublish ? { visibility } : {}), version, note });
}

export async function saveCopy(body) {
  const name = `${body.name.slice(0, 240)} (my copy)`;
  return api("POST", ROUTE, { ...body, name, visibility: "private" });
}

// Of the errors of the API: those of each widget, those of the dashboard.
export function sorted(problem, widgets) {
  const ofWidgets = new Map();
  const ofDashboard = [];
  for (const { field: path = "", reason } of problem.errors) {
    const found = /^(?:widgets\[(\d+)\]\.?(.*)|layout\.([^.]+).*)$/.exec(path);
    const id = found?.[1] !== undefined ? widgets[Number(found[1])]?.id : found?.[3];
    if (id === undefined) {
      ofDashboard.push({ field: path, reason });
      continue;
    }
    if (!ofWidgets.has(id)) ofWidgets.set(id, []);
    ofWidgets.get(id).push({ field: found[2] ?? "", reason });
  }
  return { ofWidgets, ofDashboard };
}

// Asks what is to become of two versions; answers null when nothing was decided.
export async function resolveConflict(id, base, mine, { seesPeople }) {
  const theirs = await api("GET", `${ROUTE}/${id}`);
  const [saved, changes] = await Promise.all([
    api("GET", `${ROUTE}/${id}/versions/${theirs.version}`),
    changesIn(id, base.version, theirs.version),
  ]);
  const [was, their] = [documentOf(base), documentOf(theirs)];
  const both = collisions(was, mine, their);
  const body = make("form", "", { method: "dialog" });
  const who = (seesPeople && (saved.author?.name || saved.author?.email)) || "Somebody";
  body.append(make("p", "", {}, make("bdi", "", {}, who),
    ` saved version ${theirs.version} of this dashboard on ${when.format(new Date(saved.created_at))}; you began with version ${base.version}.`));
  if (saved.note) body.append(make("p", "muted", {}, `“${saved.note}”`));
  body.append(make("h3", "small", {}, "What they changed"), changes);
  const picks = both.map((one) => pick(one));
  if (picks.length) {
    body.append(make("h3", "small", {}, "What you both changed"), ...picks.map(({ line }) => line));
  } else {
    body.append(make("p", "muted", {}, "You changed other things: both can be kept."));
  }
  const actions = make("div", "dialog-actions", {},
    button("Discard mine", "button-danger", { value: "theirs", type: "submit" }),
    button("Save mine as a copy", "", { value: "copy", type: "submit" }),
    button("Keep editing on top of theirs", "button-primary", { value: "merge", type: "submit" }));
  body.append(actions);
  const { closed } = openDialog("Somebody else saved this dashboard", body, { wide: true });
  const what = await closed;
  if (!what) return null;
  const chosen = Object.fromEntries(picks.map(({ key, control }) => [key, control.value]));
  return { what, theirs, document: merged(was, mine, their, chosen) };
}

function pick({ kind, id, title, isMineGone, isTheirsGone }) {
  const control = select([
    ["mine", isMineGone ? "Mine: it is removed" : "Mine"],
    ["theirs", isTheirsGone ? "Theirs: it is removed" : "Theirs"],
  ], "mine");
  return { key: `${kind} ${id}`, control, line: field(kind === "field" ? CALLED[id] : `Widget “${title || id}”`, control) };
}

// As the page of versions says it.
async function changesIn(id, from, to) {
  const response = await fetch(`/dashboards/${id}/versions?from=${from}&to=${to}`, { headers: { "X-Refresh": "main" } });
  const shown = response.ok
    ? new DOMParser().parseFromString(await response.text(), "text/html").querySelector("#changes > :last-child")
    : null;
  return shown ? document.adoptNode(shown) : make("p", "muted", {}, "Their changes cannot be shown now.");
}

// The dashboard is gone: answers whether it is to be made again.
export async function offerToMakeAgain() {
  const form = make("form", "", { method: "dialog" });
  form.append(
    make("p", "", {}, "Somebody deleted this dashboard, or you may not see it any more. What you have made can be saved as a new one."),
    make("div", "dialog-actions", {},
      button("Cancel", "", { value: "", type: "submit" }),
      button("Save as a new dashboard", "button-primary", { value: "copy", type: "submit" })));
  return (await openDialog("This dashboard is gone", form).closed) === "copy";
}
