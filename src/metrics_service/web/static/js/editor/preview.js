// The figures of widgets that are not saved: asked for with the real data, and put into their tiles.

import { drawCharts } from "../charts.js";
import { isSame } from "./merge.js";

const PAUSE_MS = 350;
const AGAIN_MS = 5_000;
// So many at once: the first of a long list is there sooner, and one request never takes long.
const AT_ONCE = 12;

export class Previews {
  #shown = new Map();
  #timer = null;
  #asking = false;

  // `tileOf` finds the element that a widget's figure goes into, `onErrors` is told what is wrong.
  constructor(tileOf, onErrors) {
    this.tileOf = tileOf;
    this.onErrors = onErrors;
  }

  // What the server has drawn with the page.
  adopt(id, widget, { w, h }) {
    this.#shown.set(id, { widget, w, h });
  }

  update(document) {
    this.document = document;
    for (const id of this.#shown.keys()) if (!document.places[id]) this.#shown.delete(id);
    if (!this.#wanted().length) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), PAUSE_MS);
  }

  #wanted() {
    return this.document.widgets.filter((widget) => {
      const shown = this.#shown.get(widget.id);
      const { w, h } = this.document.places[widget.id];
      // A number or a table is as it is, however large its tile.
      const isSized = widget.kind !== "chart" || (shown?.w === w && shown?.h === h);
      return !(shown && isSized && isSame(shown.widget, widget));
    });
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      let wanted;
      while ((wanted = this.#wanted().slice(0, AT_ONCE)).length) await this.#fetch(wanted);
    } catch {
      this.#timer = setTimeout(() => this.#ask(), AGAIN_MS);
    } finally {
      this.#asking = false;
    }
  }

  async #fetch(widgets) {
    const layout = {};
    const sizes = new Map();
    let y = 0;
    for (const { id } of widgets) {
      const { w, h } = this.document.places[id];
      sizes.set(id, { w, h });
      layout[id] = { x: 0, y, w, h };
      y += h;
      this.tileOf(id)?.setAttribute("aria-busy", "true");
    }
    const response = await fetch(`/dashboards/preview${location.search}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-Refresh": "main" },
      body: JSON.stringify({ widgets, layout }),
    });
    for (const { id } of widgets) this.tileOf(id)?.removeAttribute("aria-busy");
    if (response.status === 422) {
      this.#refuse(widgets, sizes, (await response.json()).errors ?? []);
      return;
    }
    if (response.status === 401) {
      for (const { id } of widgets) this.#say(id, "Your sign-in has ended. You are asked to sign in when you save.");
      this.#remember(widgets, sizes);
      return;
    }
    if (!response.ok) throw new Error(`the preview was answered ${response.status}`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    this.#remember(widgets, sizes);
    for (const { id } of widgets) {
      const figure = fresh.getElementById(`figure-${id}`);
      if (figure) this.#put(id, figure);
    }
    this.onErrors(widgets.map(({ id }) => id), new Map());
  }

  // Also of what is wrong: it is not asked for again before it is another one.
  #remember(widgets, sizes) {
    for (const widget of widgets) this.#shown.set(widget.id, { widget, ...sizes.get(widget.id) });
  }

  // One that is wrong does not keep the others from being shown: they are asked for by themselves.
  #refuse(widgets, sizes, errors) {
    const wrong = new Map();
    for (const { field = "", reason } of errors) {
      const found = /^widgets\[(\d+)\]\.?(.*)$/.exec(field);
      const id = found ? widgets[Number(found[1])]?.id : field.split(".")[1];
      if (id === undefined) continue;
      if (!wrong.has(id)) wrong.set(id, []);
      wrong.get(id).push({ field: found ? found[2] : "", reason });
    }
    const refused = wrong.size ? widgets.filter(({ id }) => wrong.has(id)) : widgets;
    this.#remember(refused, sizes);
    for (const { id } of refused) this.#say(id, "This widget cannot be shown yet; what is missing is marked beside it.");
    this.onErrors(refused.map(({ id }) => id), wrong);
  }

  #put(id, figure) {
    const holder = this.tileOf(id)?.querySelector(".etile-figure");
    if (!holder) return;
    holder.replaceChildren(document.adoptNode(figure));
    drawCharts(document);
  }

  #say(id, text) {
    const said = document.createElement("p");
    said.className = "etile-said muted";
    said.textContent = text;
    this.tileOf(id)?.querySelector(".etile-figure")?.replaceChildren(said);
  }

  // What somebody types is seen at once.
  static retitle(tile, title, kind) {
    const shown = tile?.querySelector(".card-title");
    if (!shown) return;
    const name = document.createElement("bdi");
    name.textContent = title || kind[0].toUpperCase() + kind.slice(1);
    shown.replaceChildren(name);
  }
}
