// The form of one widget, and that of the dashboard itself: each change holds at once.

import { button } from "../dialog.js";
import { field, iconButton, make, select } from "../elements.js";
import { upper } from "./widgets.js";

const LASTS = [["24h", "Latest 24 hours"], ["7d", "Latest 7 days"], ["14d", "Latest 14 days"], ["30d", "Latest 30 days"],
  ["90d", "Latest 90 days"], ["26w", "Latest 26 weeks"], ["52w", "Latest 52 weeks"]];
const MARKS = { line: "Lines", bar: "Bars", area: "Areas", point: "Points", arc: "Ring", rect: "Heat map" };
const KINDS = [["number", "Number"], ["chart", "Chart"], ["table", "Table"]];
const MAX_MEASURES = 8;
const MAX_GROUPS = 4;

// What stands in the panel. `context` has the catalogue, what can be chosen, and `change(next, key)`.
export function widgetForm(widget, errors, context) {
  const { catalogue } = context;
  const { query } = widget;
  const source = catalogue.source(widget);
  const form = make("form", "stack", { noValidate: true });
  form.addEventListener("submit", (event) => event.preventDefault());

  // Another query of the same widget; its title follows as long as nobody has chosen one.
  const ask = (changes, whole = {}) => {
    const next = catalogue.fitted({ ...widget, ...whole, query: { ...query, ...changes } });
    if (widget.title === catalogue.titleOf(widget)) next.title = catalogue.titleOf(next);
    context.change(next);
  };

  form.append(
    named("title", field("Title", typed("input", widget.title, { maxLength: 255 }, (title) => context.change({ ...widget, title }, "title")))),
    make("div", "form-pair", {},
      named("kind", field("Shown as", chosen(KINDS, widget.kind, (kind) => ask({}, { kind })))),
      named("query.source", field("Source", chosen(catalogue.sources.map((one) => [one.name, one.label]), query.source, (name) => ask({ source: name }))))),
    named("query.measures", list("Measures", query.measures, source.measures.map((one) => [one.name, upper(one.label)]), {
      most: MAX_MEASURES, least: 1, add: "Add a measure", one: "Measure", set: (measures) => ask({ measures }),
    })),
    named("query.group_by", groups()),
    named("query.filters", filters()),
    named("query.range", range()),
    named("query.compare", check("Compare with the period before", query.compare === "previous_period",
      (on) => ask({ compare: on ? "previous_period" : undefined }))),
  );
  if (widget.kind !== "number") form.append(make("div", "form-pair", {}, named("query.order_by", order()), named("query.limit", limit())));
  if (widget.kind === "chart") {
    form.append(named("mark", field("Drawn as", chosen([["", "As is usual"], ...catalogue.marks.map((mark) => [mark, MARKS[mark] ?? mark])],
      widget.mark ?? "", (mark) => {
        const next = { ...widget, mark };
        if (!mark) delete next.mark;
        context.change(next);
      }))));
    if (widget.encoding) form.append(named("encoding", encoding()));
  }
  form.append(named("description", field("Description", typed("textarea", widget.description ?? "", { maxLength: 8192, rows: 2 },
    (description) => context.change({ ...widget, description }, "description")), "Stands below the title.")));
  mark(form, errors);
  return form;

  function groups() {
    const times = catalogue.times.map((time) => [time, upper(time)]);
    if (widget.kind === "number") {
      return field("Line below it", chosen([["", "None"], ...times.map(([time, label]) => [time, `By ${label.toLowerCase()}`])],
        query.group_by?.[0] ?? "", (time) => ask({ group_by: time ? [time] : [] })));
    }
    const dimensions = source.dimensions.map((one) => [one.name, upper(one.label)]);
    const given = query.group_by ?? [];
    const hasTime = given.some((name) => catalogue.isTime(name));
    return list("Group by", given, [...times, ...dimensions], {
      most: MAX_GROUPS, least: 0, add: "Add a group", one: "Group",
      // There may be one time alone.
      bars: (name, own) => catalogue.isTime(name) && hasTime && !catalogue.isTime(own),
      set: (group_by) => ask({ group_by }),
    });
  }

  function filters() {
    const box = make("fieldset", "form-list", {}, make("legend", "", {}, "Only where"));
    const given = query.filters ?? {};
    for (const [name, value] of Object.entries(given)) {
      const values = Array.isArray(value) ? value : [value];
      const control = name === "user_id" ? persons(values, (next) => change(name, next)) : values_(name, values);
      const remove = iconButton("cross", `Remove the filter by ${catalogue.column(widget, name)}`);
      remove.addEventListener("click", () => {
        const { [name]: _, ...rest } = given;
        ask({ filters: rest });
      });
      box.append(named(`query.filters.${name}`, make("div", "form-line", {}, field(`${upper(catalogue.column(widget, name))} is`, control), remove)));
    }
    const free = source.dimensions.filter(({ name }) => !(name in given) && (name !== "user_id" || context.people.length));
    if (free.length) {
      const add = chosen([["", "Add a filter"], ...free.map((one) => [one.name, upper(one.label)])], "", (name) => {
        if (!name) return;
        const first = name === "user_id" ? context.people[0].id : context.choices[name]?.[0] ?? "";
        ask({ filters: { ...given, [name]: [first] } });
      });
      add.setAttribute("aria-label", "Add a filter");
      add.dataset.focus = "add-filter";
      box.append(add);
    }
    return box;

    function change(name, values, key) {
      const next = catalogue.fitted({ ...widget, query: { ...query, filters: { ...given, [name]: values } } });
      context.change(next, key);
    }

    function values_(name, values) {
      const control = typed("textarea", values.join("\n"), { rows: Math.min(4, values.length + 1), spellcheck: false },
        (text) => change(name, text.split("\n").map((line) => line.trim()).filter(Boolean), `filter ${name}`));
      const known = context.choices[name];
      control.placeholder = known?.length ? `One per line, such as ${known[0]}` : "One per line";
      return control;
    }
  }

  function persons(values, set) {
    const control = make("select", "", { multiple: true, size: 5 });
    const known = new Map(context.people.map(({ id, label }) => [id, label]));
    for (const id of new Set([...values, ...known.keys()])) {
      control.append(new Option(known.get(id) ?? "somebody", id, false, values.includes(id)));
    }
    control.addEventListener("change", () => set([...control.selectedOptions].map((one) => one.value)));
    return control;
  }

  function range() {
    const { range: given } = query;
    const isFixed = given?.from !== undefined;
    const own = given?.last && !LASTS.some(([last]) => last === given.last) ? [[given.last, `Latest ${given.last}`]] : [];
    const box = make("div", "stack");
    box.append(field("Time", chosen([["", "As the dashboard"], ...LASTS, ...own, ["fixed", "From and to"]],
      isFixed ? "fixed" : given?.last ?? "", (value) => {
        if (value === "fixed") {
          const to = new Date();
          to.setHours(0, 0, 0, 0);
          ask({ range: { from: new Date(to - 7 * 24 * 3600 * 1000).toISOString(), to: to.toISOString() } });
        } else ask({ range: value ? { last: value } : undefined });
      })));
    if (isFixed) {
      const moment = (name) => {
        const control = make("input", "", { type: "datetime-local", value: local(given[name]) });
        control.addEventListener("change", () => {
          if (control.value) ask({ range: { ...given, [name]: new Date(control.value).toISOString() } });
        });
        return named(`query.range.${name}`, field(upper(name), control));
      };
      box.append(make("div", "form-pair", {}, moment("from"), moment("to")));
    }
    return box;
  }

  function order() {
    const columns = [...(query.group_by ?? []), ...query.measures];
    const options = columns.flatMap((name) => {
      const label = upper(catalogue.column(widget, name));
      return [[`-${name}`, `${label}, greatest first`], [name, `${label}, smallest first`]];
    });
    return field("Order", chosen([["", "As is usual"], ...options], query.order_by ?? "", (order_by) => ask({ order_by: order_by || undefined })));
  }

  function limit() {
    const control = typed("input", query.limit ?? "", { type: "number", min: 1, max: 1000 },
      (text) => {
        const next = catalogue.fitted({ ...widget, query: { ...query, limit: text === "" ? undefined : Number(text) } });
        context.change(next, "limit");
      });
    return field("Rows at most", control);
  }

  function encoding() {
    const drop = button("Draw it as is usual");
    drop.addEventListener("click", () => {
      const { encoding: _, ...rest } = widget;
      context.change(rest);
    });
    return make("div", "notice", {}, make("span", "", {}, "This chart says itself how it is drawn. "), drop);
  }
}

export function dashboardForm(document_, errors, context) {
  const form = make("form", "stack", { noValidate: true });
  form.addEventListener("submit", (event) => event.preventDefault());
  const change = (name, key) => (value) => context.changeDashboard({ [name]: value }, key ? name : null);
  const visibility = chosen([["private", "Only its owner"], ["team", "Its owner's team"], ["tenant", "Everybody"]],
    document_.visibility, change("visibility"));
  visibility.disabled = !context.mayPublish;
  form.append(
    named("description", field("Description", typed("textarea", document_.description, { maxLength: 8192, rows: 3 }, change("description", true)))),
    named("visibility", field("Seen by", visibility, context.mayPublish ? "And by whomever it is shared with." : "Its owner decides that.")),
    named("tags", field("Tags", typed("input", document_.tags.join(", "), { autocomplete: "off" },
      (text) => context.changeDashboard({ tags: [...new Set(text.split(",").map((tag) => tag.trim()).filter(Boolean))] }, "tags")),
    "Separated by commas.")),
  );
  mark(form, errors);
  return form;
}

// -- controls ---------------------------------------------------------------------------------------

function named(name, element) {
  element.dataset.field = name;
  return element;
}

function typed(tag, value, attributes, set) {
  const control = make(tag, "", { ...attributes, value });
  control.addEventListener("input", () => set(control.value));
  return control;
}

function chosen(options, value, set) {
  const control = select(options, value);
  control.addEventListener("change", () => set(control.value));
  return control;
}

function check(label, isOn, set) {
  const control = make("input", "", { type: "checkbox", checked: isOn });
  control.addEventListener("change", () => set(control.checked));
  return make("label", "check", {}, control, make("span", "", {}, label));
}

// Several of the same kind, in an order: each can be another one, or go.
function list(title, given, options, { most, least, add, one, bars = () => false, set }) {
  const box = make("fieldset", "form-list", {}, make("legend", "", {}, title));
  given.forEach((name, at) => {
    const free = options.filter(([option]) => option === name || (!given.includes(option) && !bars(option, name)));
    const isKnown = free.some(([option]) => option === name);
    const control = chosen(isKnown ? free : [[name, name], ...free], name, (next) => set(given.with(at, next)));
    control.setAttribute("aria-label", `${one} ${at + 1}`);
    const line = make("div", "form-line", {}, control);
    line.dataset.at = String(at);
    if (given.length > least) {
      const remove = iconButton("cross", `Remove ${one.toLowerCase()} ${at + 1}`);
      remove.addEventListener("click", () => set(given.toSpliced(at, 1)));
      line.append(remove);
    }
    box.append(line);
  });
  const free = options.filter(([option]) => !given.includes(option) && !bars(option, ""));
  if (given.length < most && free.length) {
    const more = chosen([["", add], ...free], "", (name) => { if (name) set([...given, name]); });
    more.setAttribute("aria-label", add);
    more.dataset.focus = add;
    box.append(more);
  }
  return box;
}

function local(instant) {
  const moment = new Date(instant);
  return new Date(moment - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

// -- what is wrong ----------------------------------------------------------------------------------

// As people say what a type says.
export function plainly(reason) {
  const least = /^expected `\w+` of length >= 1$/.test(reason);
  const most = /^expected `(\w+)` of length <= (\d+)$/.exec(reason);
  if (least) return "must not be empty";
  if (most) return `must not have more than ${most[2]} ${most[1] === "str" ? "characters" : "entries"}`;
  return reason;
}

// Each error stands at its field; at the top where there is none of it.
function mark(form, errors) {
  for (const { field: path, reason } of errors) {
    const place = nearest(form, path);
    const said = make("p", "error", {}, `${path && !place ? `${path}: ` : ""}${plainly(reason)}`);
    said.id = `error-${Math.random().toString(36).slice(2)}`;
    if (!place) {
      said.classList.add("notice", "notice-error");
      form.prepend(said);
      continue;
    }
    place.append(said);
    const at = /\[(\d+)\]/.exec(path)?.[1];
    const line = at === undefined ? null : place.querySelector(`[data-at="${at}"]`);
    for (const control of (line ?? place).querySelectorAll("input, select, textarea")) {
      control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", said.id);
    }
  }
}

function nearest(form, path) {
  for (let name = path.replace(/\[\d+\].*$/, ""); name; name = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : "") {
    const found = form.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (found) return found;
  }
  return null;
}
