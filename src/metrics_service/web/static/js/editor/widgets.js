// What a widget may be made of: by the catalogue that the server gives, so that it takes what is made.

const WORDS = { hour: "hour", day: "day", week: "week", month: "month" };

export class Catalogue {
  constructor(given) {
    Object.assign(this, given);
    this.byName = new Map(given.sources.map((source) => [source.name, source]));
  }

  source(widget) {
    return this.byName.get(widget.query.source) ?? this.sources[0];
  }

  measure(widget, name) {
    return this.source(widget).measures.find((one) => one.name === name)?.label ?? name;
  }

  column(widget, name) {
    return this.source(widget).dimensions.find((one) => one.name === name)?.label
      ?? WORDS[name] ?? this.measure(widget, name);
  }

  isTime(name) {
    return this.times.includes(name);
  }

  fresh(kind) {
    const source = "tool_metrics";
    const queries = {
      number: { source, measures: ["count"], compare: "previous_period" },
      chart: { source, measures: ["count"], group_by: ["day", "agent"] },
      table: { source, measures: ["count", "error_rate", "p95_ms"], group_by: ["tool_name"], order_by: "-count", limit: 20 },
    };
    const widget = { id: newId(), kind, title: "", query: queries[kind] };
    return { ...widget, title: this.titleOf(widget) };
  }

  // What a widget is called as long as nobody calls it otherwise.
  titleOf(widget) {
    const { query } = widget;
    const source = this.source(widget);
    const first = this.measure(widget, query.measures[0]);
    const what = query.measures[0] === "count" ? source.label : `${upper(first)} of ${source.label.toLowerCase()}`;
    const by = (query.group_by ?? []).map((name) => this.column(widget, name));
    return by.length && widget.kind !== "number" ? `${what} by ${by.join(" and ")}` : what;
  }

  // The same, without what does not go together with what was changed.
  fitted(widget) {
    const source = this.source(widget);
    const names = new Set(source.dimensions.map(({ name }) => name));
    const measures = widget.query.measures.filter((name) => source.measures.some((one) => one.name === name));
    let groups = (widget.query.group_by ?? []).filter((name) => names.has(name) || this.isTime(name));
    if (widget.kind === "number") groups = groups.filter((name) => this.isTime(name)).slice(0, 1);
    const query = {
      ...widget.query,
      measures: measures.length ? measures : [source.measures[0].name],
      group_by: groups,
      filters: Object.fromEntries(Object.entries(widget.query.filters ?? {}).filter(([name]) => names.has(name))),
    };
    const columns = new Set([...query.group_by, ...query.measures]);
    if (query.order_by && !columns.has(query.order_by.replace(/^-/, ""))) delete query.order_by;
    const fitted = { ...widget, query: bare(query) };
    if (widget.kind !== "chart") {
      delete fitted.mark;
      delete fitted.encoding;
    } else if (JSON.stringify([...columns]) !== JSON.stringify([...(widget.query.group_by ?? []), ...widget.query.measures])) {
      delete fitted.encoding;
    }
    return fitted;
  }
}

// As it is stored: what is usual is left out.
function bare(query) {
  const kept = { ...query };
  if (!kept.group_by.length) delete kept.group_by;
  if (!Object.keys(kept.filters).length) delete kept.filters;
  for (const name of ["range", "compare", "order_by", "limit"]) {
    if (kept[name] === undefined || kept[name] === null || kept[name] === "") delete kept[name];
  }
  return kept;
}

export function upper(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `w${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
