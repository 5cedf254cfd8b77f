// Short words for what forms are made of. Text is always set as text, never as HTML.

// `attributes` are properties where there is one of the name, else attributes.
export function make(tag, className = "", attributes = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

let count = 0;

// A control under its label, with room for what is wrong with it.
export function field(label, control, hint = "") {
  control.id ||= `field-${++count}`;
  const whole = make("div", "field", {}, make("label", "", { htmlFor: control.id }, label), control);
  if (hint) {
    const said = make("span", "hint", { id: `${control.id}-hint` }, hint);
    control.setAttribute("aria-describedby", said.id);
    whole.append(said);
  }
  return whole;
}

export function select(options, value, attributes = {}) {
  const made = make("select", "", attributes);
  for (const [one, label] of options) made.append(new Option(label, one, false, one === value));
  return made;
}

// A picture of the sprite's kind: paths on a grid of 20.
const SHAPES = {
  move: "M10 3v14M3 10h14M10 3 8 5M10 3l2 2M10 17l-2-2M10 17l2-2M3 10l2-2M3 10l2 2M17 10l-2-2M17 10l-2 2",
  edit: "M4 16l.8-3.500L13 4.300l2.700 2.700-8.200 8.200zM11.500 5.800l2.700 2.700",
  copy: "M7 7h10v10H7zM13 4.500V3H3v10h1.500",
  bin: "M4 6h12M8 6V4h4v2M6 6l.7 10.500h6.600L14 6",
  undo: "M8 5 4 9l4 4M4 9h7.500a4 4 0 0 1 0 8H9",
  redo: "M12 5l4 4-4 4M16 9H8.500a4 4 0 0 0 0 8H11",
  plus: "M10 4v12M4 10h12",
  cross: "m5 5 10 10M15 5 5 15",
  size: "M17 9v8H9M17 17 9 9",
};
const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const drawn = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true" })) {
    drawn.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[name]);
  drawn.append(path);
  return drawn;
}

// A button with a picture alone; its name is for whoever does not see that.
export function iconButton(name, label, className = "button button-quiet button-icon") {
  return make("button", className, { type: "button", title: label, "aria-label": label }, icon(name));
}
