// The tiles on their grid: moved and resized with a pointer, a finger or the arrow keys.

import { iconButton, make } from "../elements.js";
import { inOrder, inWords, moved, resized, stepped } from "./layout.js";

// As the stylesheet has them, in pixels.
const ROW = 64;
const GAP = 16;
const EDGE = 60;
const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

export class Tiles {
  #tiles = new Map();
  #drag = null;

  // `act` does what is asked for: place, choose, duplicate, remove; `say` tells who does not see it.
  constructor(grid, act, say) {
    this.grid = grid;
    this.act = act;
    this.say = say;
    grid.addEventListener("pointermove", (event) => this.#follow(event));
    grid.addEventListener("pointerup", () => this.#drop());
    grid.addEventListener("pointercancel", () => this.#cancel());
    grid.addEventListener("keydown", (event) => this.#key(event));
    grid.addEventListener("click", (event) => this.#click(event));
  }

  find(id) {
    return this.#tiles.get(id) ?? null;
  }

  show(document_, chosen) {
    this.document = document_;
    const widgets = new Map(document_.widgets.map((widget) => [widget.id, widget]));
    for (const [id, tile] of this.#tiles) {
      if (widgets.has(id)) continue;
      tile.remove();
      this.#tiles.delete(id);
    }
    for (const [id, widget] of widgets) {
      if (!this.#tiles.has(id)) this.#tiles.set(id, this.#make(id));
      this.#name(this.#tiles.get(id), widget, id === chosen);
    }
    this.#put(document_.places);
    if (!this.#drag) this.#order(document_.places);
  }

  #make(id) {
    const tile = make("section", "etile", { role: "group" });
    tile.dataset.id = id;
    const handle = iconButton("move", "", "button button-icon etile-handle");
    handle.setAttribute("aria-describedby", "editor-keys");
    handle.addEventListener("pointerdown", (event) => this.#grab(event, tile, "move"));
    const tools = make("div", "etile-tools", {}, handle,
      this.#tool("edit", "choose"), this.#tool("copy", "duplicate"), this.#tool("bin", "remove"));
    const grip = make("span", "etile-grip", { "aria-hidden": "true", title: "Drag to resize" });
    grip.addEventListener("pointerdown", (event) => this.#grab(event, tile, "size"));
    const figure = make("div", "etile-figure");
    figure.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.target.closest("figcaption")) this.#grab(event, tile, "move");
    });
    tile.append(tools, figure, grip);
    return tile;
  }

  #tool(name, act) {
    const made = iconButton(name, "", "button button-icon");
    made.dataset.act = act;
    return made;
  }

  #name(tile, widget, isChosen) {
    const title = widget.title || widget.kind;
    tile.setAttribute("aria-label", title);
    tile.classList.toggle("is-chosen", isChosen);
    const names = { choose: `Edit ${title}`, duplicate: `Duplicate ${title}`, remove: `Remove ${title}` };
    for (const one of tile.querySelectorAll("[data-act]")) {
      one.title = one.dataset.act === "choose" ? "Edit" : one.dataset.act === "remove" ? "Remove" : "Duplicate";
      one.setAttribute("aria-label", names[one.dataset.act]);
      if (one.dataset.act === "choose") one.setAttribute("aria-pressed", String(isChosen));
    }
    const handle = tile.querySelector(".etile-handle");
    handle.title = "Drag to move; arrow keys move, with Shift they resize";
    handle.setAttribute("aria-label", `Move ${title}: ${inWords(this.document.places[widget.id])}`);
  }

  #put(places) {
    for (const [id, { x, y, w, h }] of Object.entries(places)) {
      const tile = this.#tiles.get(id);
      if (!tile) continue;
      tile.style.gridColumn = `${x + 1} / span ${w}`;
      tile.style.gridRow = `${y + 1} / span ${h}`;
      tile.style.setProperty("--tile-height", `${h * ROW + (h - 1) * GAP}px`);
    }
  }

  // As they are read, so that Tab goes the same way; what has the focus keeps it.
  #order(places) {
    const wanted = inOrder(places).map((id) => this.#tiles.get(id)).filter(Boolean);
    if (wanted.every((tile, at) => this.grid.children[at] === tile)) return;
    const active = document.activeElement;
    this.grid.replaceChildren(...wanted);
    if (active && active !== document.activeElement && this.grid.contains(active)) active.focus({ preventScroll: true });
  }

  #click(event) {
    const tile = event.target.closest(".etile");
    if (!tile || event.target.closest("summary, a")) return;
    const act = event.target.closest("[data-act]")?.dataset.act;
    if (act) this.act[act](tile.dataset.id);
    else if (!event.target.closest(".etile-handle")) this.act.choose(tile.dataset.id, { quietly: true });
  }

  #key(event) {
    if (event.key === "Escape" && this.#drag) {
      this.#cancel();
      return;
    }
    if (!event.target.closest(".etile-handle")) return;
    const { id } = event.target.closest(".etile").dataset;
    if (event.key === "Delete") {
      event.preventDefault();
      this.act.remove(id);
      return;
    }
    if (event.key === "Enter") {
      event.preventDefault();
      this.act.choose(id);
      return;
    }
    const direction = ARROWS[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { places } = this.document;
    const { w, h } = places[id];
    const next = event.shiftKey
      ? resized(places, id, w + ({ left: -1, right: 1 }[direction] ?? 0), h + ({ up: -1, down: 1 }[direction] ?? 0))
      : stepped(places, id, direction);
    const isSame = ["x", "y", "w", "h"].every((key) => next[id][key] === places[id][key]);
    if (!isSame) this.act.place(next, `${event.shiftKey ? "size" : "move"} ${id}`);
    this.say(isSame ? "No further that way" : inWords(next[id]));
    this.#tiles.get(id).scrollIntoView({ block: "nearest" });
  }

  // -- with a pointer -------------------------------------------------------------------------------

  #grab(event, tile, kind) {
    if (event.button !== 0 || this.#drag) return;
    event.preventDefault();
    // What is dragged is focused, so that the arrow keys go on with it.
    tile.querySelector(".etile-handle").focus({ preventScroll: true });
    const { id } = tile.dataset;
    this.#drag = {
      id, kind, tile, from: this.document.places, places: this.document.places,
      pageX: event.pageX, pageY: event.pageY, hasMoved: false,
    };
    this.grid.setPointerCapture(event.pointerId);
    this.grid.classList.add("is-dragging");
    tile.classList.add("is-dragged");
  }

  #follow(event) {
    const drag = this.#drag;
    if (!drag) return;
    const dx = event.pageX - drag.pageX;
    const dy = event.pageY - drag.pageY;
    if (!drag.hasMoved && Math.hypot(dx, dy) < 4) return;
    drag.hasMoved = true;
    const columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const step = (this.grid.clientWidth + GAP) / columns;
    // One below the other there is nothing to the side.
    const across = columns === 1 ? 0 : Math.round(dx / step);
    const down = Math.round(dy / (ROW + GAP));
    const { x, y, w, h } = drag.from[drag.id];
    drag.places = drag.kind === "move"
      ? moved(drag.from, drag.id, x + across, y + down)
      : resized(drag.from, drag.id, w + across, h + down);
    this.#put(drag.places);
    if (event.clientY < EDGE) window.scrollBy(0, -12);
    else if (event.clientY > window.innerHeight - EDGE) window.scrollBy(0, 12);
  }

  #drop() {
    const drag = this.#end();
    if (!drag?.hasMoved) return;
    this.act.place(drag.places);
    this.say(inWords(drag.places[drag.id]));
  }

  #cancel() {
    const drag = this.#end();
    if (drag) this.#put(drag.from);
  }

  #end() {
    const drag = this.#drag;
    this.#drag = null;
    this.grid.classList.remove("is-dragging");
    drag?.tile.classList.remove("is-dragged");
    return drag;
  }
}
