// Two people changed one dashboard: what each did is kept, and only what both did is asked about.

import { placesOf, settled } from "./layout.js";

export const FIELDS = ["name", "description", "visibility", "tags"];

// The database puts the keys of an object in an order of its own.
export function written(value) {
  return JSON.stringify(value, (_, inner) => (
    inner && typeof inner === "object" && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([one], [other]) => (one < other ? -1 : 1)))
      : inner));
}

export const isSame = (one, other) => written(one ?? null) === written(other ?? null);

// What an editor works on, of a dashboard as the API tells it.
export function documentOf(dashboard) {
  const { name, description, visibility, tags, widgets, layout } = dashboard;
  const known = new Set(widgets.map(({ id }) => id));
  const places = placesOf([...known], layout);
  return { name, description, visibility, tags, widgets, places: settled(places) };
}

const byId = (document) => new Map(document.widgets.map((widget) => [widget.id, widget]));

// What both changed, each in another way: fields by name, widgets by id.
export function collisions(base, mine, theirs) {
  const found = [];
  for (const name of FIELDS) {
    if (!isSame(mine[name], base[name]) && !isSame(theirs[name], base[name]) && !isSame(mine[name], theirs[name])) {
      found.push({ kind: "field", id: name });
    }
  }
  const [was, my, their] = [base, mine, theirs].map(byId);
  for (const id of new Set([...was.keys(), ...my.keys(), ...their.keys()])) {
    const [before, one, other] = [was, my, their].map((widgets) => widgets.get(id));
    if (!isSame(one, before) && !isSame(other, before) && !isSame(one, other)) {
      found.push({ kind: "widget", id, title: (one ?? other ?? before).title, isMineGone: !one, isTheirsGone: !other });
    }
  }
  return found;
}

// `chosen` tells of each collision, as `kind id`, whether it is to be as "mine" or "theirs".
export function merged(base, mine, theirs, chosen = {}) {
  const pick = (kind, id, before, one, other) => {
    if (isSame(one, before)) return other;
    if (isSame(other, before) || isSame(one, other)) return one;
    return chosen[`${kind} ${id}`] === "theirs" ? other : one;
  };
  const result = {};
  for (const name of FIELDS) result[name] = pick("field", name, base[name], mine[name], theirs[name]);
  const [was, my, their] = [base, mine, theirs].map(byId);
  const ids = new Set([...their.keys(), ...my.keys(), ...was.keys()]);
  result.widgets = [...ids]
    .map((id) => pick("widget", id, was.get(id), my.get(id), their.get(id)))
    .filter(Boolean);
  const layout = {};
  for (const { id } of result.widgets) {
    const place = isSame(mine.places[id], base.places[id]) ? theirs.places[id] : mine.places[id];
    layout[id] = place ?? mine.places[id] ?? theirs.places[id] ?? base.places[id];
  }
  const ours = result.widgets.find(({ id }) => !isSame(mine.places[id], base.places[id]) && mine.places[id]);
  result.places = settled(layout, ours ? ours.id : null);
  return result;
}
