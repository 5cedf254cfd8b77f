// Draws the charts of a page, each when it comes near the window. The table below a chart says the
// same, so that nothing is lost where none can be drawn.

const NEAR = "400px 0px";
const SETTLED_MS = 150;

const OPTIONS = {
  // Vega's own interpreter: the page allows no code that was not sent as a file.
  ast: true,
  actions: false,
  renderer: "svg",
  defaultStyle: false,
  // Nothing is loaded by a chart: errors alone are worth a line on the console.
  logLevel: 1,
  tooltip: showTip,
};

// Of each figure by its id: where it is drawn, from which text, and how to end that.
const drawings = new Map();
const waiting = [];
let library = null;
let isDrawing = false;

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    waiting.push(target);
  }
  drawWaiting();
}, { rootMargin: NEAR });

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const drawing = drawings.get(target.dataset.figure);
    if (!drawing || drawing.holder !== target || drawing.width === target.clientWidth) continue;
    clearTimeout(drawing.settling);
    drawing.settling = setTimeout(() => {
      const figure = target.closest("figure[data-chart]");
      if (figure && target.clientWidth && drawing.width !== target.clientWidth) near.observe(figure);
    }, SETTLED_MS);
  }
});

// Draws what is new or has changed within `root`, and ends what is no longer on the page.
export function drawCharts(root = document) {
  for (const figure of root.querySelectorAll("figure[data-chart]")) {
    const drawing = drawings.get(figure.id);
    const holder = figure.querySelector(".chart");
    if (drawing && drawing.holder !== holder) adopt(figure, holder, drawing);
    else reserve(holder, figure);
    if (drawing?.text !== textOf(figure)) near.observe(figure);
  }
  for (const [id, drawing] of drawings) {
    if (!drawing.holder.isConnected) end(id);
  }
}

function textOf(figure) {
  return figure.querySelector('script[type="application/json"]').textContent;
}

function reserve(holder, figure) {
  holder.setAttribute("aria-hidden", "true");
  holder.dataset.figure = figure.id;
  holder.style.minHeight = `${figure.dataset.height}px`;
}

// The figure was sent anew: what is drawn stays until there is something else to draw.
function adopt(figure, holder, drawing) {
  holder.replaceWith(drawing.holder);
  reserve(drawing.holder, figure);
}

function end(id) {
  const drawing = drawings.get(id);
  clearTimeout(drawing.settling);
  resized.unobserve(drawing.holder);
  drawing.embedded?.finalize();
  drawings.delete(id);
  hideTip();
}

// One after the other, so that the page answers in between.
async function drawWaiting() {
  if (isDrawing) return;
  isDrawing = true;
  try {
    while (waiting.length) {
      const figure = waiting.shift();
      if (figure.isConnected) await draw(figure);
      await new Promise((resolve) => setTimeout(resolve));
    }
  } finally {
    isDrawing = false;
  }
}

async function draw(figure) {
  const text = textOf(figure);
  const holder = figure.querySelector(".chart");
  const before = drawings.get(figure.id);
  const fresh = document.createElement("div");
  fresh.className = "chart-drawing chart-coming";
  holder.append(fresh);
  let embedded;
  try {
    const embed = await load();
    embedded = await embed(fresh, JSON.parse(text), OPTIONS);
  } catch (error) {
    console.warn(`the chart ${figure.id} was not drawn:`, error);
    fresh.remove();
    fail(figure, holder);
    return;
  }
  before?.embedded?.finalize();
  fresh.classList.remove("chart-coming");
  holder.replaceChildren(fresh);
  holder.dataset.drawn = "";
  figure.querySelector(".chart-failed")?.remove();
  if (!before) resized.observe(holder);
  drawings.set(figure.id, { text, holder, embedded, width: holder.clientWidth });
}

function fail(figure, holder) {
  if (holder.hasAttribute("data-drawn") || figure.querySelector(".chart-failed")) return;
  const said = document.createElement("p");
  said.className = "chart-failed muted small";
  said.textContent = "The chart could not be drawn; these are its figures.";
  holder.replaceChildren();
  holder.style.minHeight = "0";
  holder.after(said);
  const table = figure.querySelector("details");
  if (table) table.open = true;
}

function load() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.body.dataset.vega;
    script.addEventListener("load", () => resolve(window.vegaEmbed));
    script.addEventListener("error", () => {
      // The next refresh tries again.
      library = null;
      script.remove();
      reject(new Error("the charts' library was not loaded"));
    });
    document.head.append(script);
  });
  return library;
}

// -- what the pointer is over ---------------------------------------------------------------------

let tip = null;

// Vega calls this with what a mark tells: a title with lines, or any value of a client's own chart.
function showTip(handler, event, item, value) {
  if (value === null || value === undefined || value === "") {
    // A finger that is lifted has not left what it touched; a view that ends has no event.
    if (event?.pointerType !== "touch") hideTip();
    return;
  }
  if (!tip) {
    tip = document.createElement("div");
    tip.className = "chart-tip";
    tip.setAttribute("aria-hidden", "true");
    document.body.append(tip);
  }
  tip.replaceChildren(...told(value));
  tip.hidden = false;
  place(event);
}

function told(value) {
  if (typeof value !== "object") return [line("chart-tip-title", String(value))];
  const rows = document.createElement("dl");
  for (const [name, figure, colour] of value.rows) {
    const label = line("", name, "dt");
    if (colour) {
      const mark = document.createElement("span");
      mark.className = "chart-tip-mark";
      mark.style.backgroundColor = colour;
      label.prepend(mark);
    }
    rows.append(label, line("", figure, "dd"));
  }
  return value.title ? [line("chart-tip-title", value.title), rows] : [rows];
}

function line(kind, text, element = "p") {
  const made = document.createElement(element);
  if (kind) made.className = kind;
  const name = document.createElement("bdi");
  name.textContent = text;
  made.append(name);
  return made;
}

function place(event) {
  const gap = 14;
  const { width, height } = tip.getBoundingClientRect();
  const room = document.documentElement;
  const isRight = event.clientX + gap + width <= room.clientWidth - 4;
  const left = isRight ? event.clientX + gap : event.clientX - gap - width;
  const isBelow = event.clientY + gap + height <= window.innerHeight - 4;
  const top = isBelow ? event.clientY + gap : event.clientY - gap - height;
  tip.style.left = `${Math.max(4, Math.min(left, room.clientWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  if (tip) tip.hidden = true;
}

document.addEventListener("page:refreshed", () => drawCharts(document));
document.addEventListener("scroll", hideTip, { passive: true, capture: true });
document.addEventListener("pointerdown", hideTip, { capture: true });
