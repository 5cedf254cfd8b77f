// The dialog by which a dashboard is shared: with people, and by links.

import { api } from "./api.js";
import { button, confirmDialog, copy, openDialog, toast } from "./dialog.js";
import { field, make, select } from "./elements.js";

const DAYS = { 1: "1 day", 7: "7 days", 30: "30 days", 90: "90 days", 365: "1 year" };
const DAY_MS = 24 * 3600 * 1000;

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export function openSharing(dashboard) {
  const route = `/api/v1/dashboards/${dashboard.id}/shares`;
  const body = make("div", "dialog-body");
  const wrong = make("p", "notice notice-error", { role: "alert", hidden: true });
  const list = make("ul", "shares", { "aria-live": "polite" });
  const done = button("Done");
  const actions = make("div", "dialog-actions", {}, done);
  body.append(wrong, withPeople(), byLink(), make("section", "share-part", {},
    make("h3", "", {}, "Shared now"), list), actions);
  const { dialog } = openDialog(`Share “${dashboard.name}”`, body, { wide: true });
  done.addEventListener("click", () => dialog.close());
  show();

  // Answers undefined when it did not work, and has said why.
  async function ask(method, path, what) {
    wrong.hidden = true;
    try {
      return await api(method, path, what);
    } catch (problem) {
      wrong.textContent = problem.text;
      wrong.hidden = false;
      return undefined;
    }
  }

  function withPeople() {
    const part = make("section", "share-part", {}, make("h3", "", {}, "With a person"));
    if (!dashboard.people.length) {
      part.append(make("p", "muted", {}, dashboard.sees_people
        ? "There is nobody else to share it with yet."
        : "This organisation shows no individuals; share it by a link."));
      return part;
    }
    const form = make("form", "share-form");
    const who = select(dashboard.people.map(({ id, label }) => [id, label]), "", { name: "user_id", required: true });
    who.prepend(new Option("Choose a person", "", true, true));
    const role = select([["viewer", "may look"], ["editor", "may change it"]], "viewer", { name: "role" });
    const until = select([["", "without end"], ...Object.entries(DAYS)], "", { name: "days" });
    form.append(field("Person", who), field("They", role), field("For", until),
      button("Share", "button-primary", { type: "submit" }));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const made = await ask("POST", route, {
        kind: "user", user_id: who.value, role: role.value, ...(until.value ? { expires_at: after(until.value) } : {}),
      });
      if (!made) return;
      toast("Shared");
      form.reset();
      show();
    });
    part.append(form);
    return part;
  }

  function byLink() {
    const part = make("section", "share-part", {}, make("h3", "", {}, "By a link"),
      make("p", "muted small", {}, "Whoever has the link sees the dashboard without signing in, with labels in place of people, until the link ends or you take it back."));
    const form = make("form", "share-form share-form-link");
    const until = select(Object.entries(DAYS), "30", { name: "days" });
    form.append(field("The link holds for", until), button("Make a link", "button-primary", { type: "submit" }));
    const shown = make("div", "stack", { hidden: true });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const made = await ask("POST", route, { kind: "link", expires_at: after(until.value) });
      if (!made) return;
      const address = `${location.origin}/shared/${made.token}`;
      const box = make("input", "mono", { readOnly: true, value: address });
      box.addEventListener("focus", () => box.select());
      const take = button("Copy");
      take.addEventListener("click", () => copy(address));
      shown.replaceChildren(
        field("The link; it is shown this once", box),
        make("div", "row", {}, take, make("span", "muted small", {}, `It ends ${day.format(new Date(made.expires_at))}.`)));
      shown.hidden = false;
      box.focus();
      show();
    });
    part.append(form, shown);
    return part;
  }

  async function show() {
    const found = await ask("GET", `${route}?limit=500`);
    if (!found) return;
    list.replaceChildren(...found.data.map(line));
    if (!found.data.length) list.append(make("li", "muted", {}, "With nobody but those who see it anyway."));
  }

  function line(share) {
    const who = share.kind === "link" ? "A link" : nameOf(share.user);
    const what = share.kind === "link" ? "may look" : share.role === "editor" ? "may change it" : "may look";
    const end = share.expires_at ? `until ${day.format(new Date(share.expires_at))}` : "without end";
    const revoke = button("Take back", "", { "aria-label": `Take back: ${who}, ${what}, ${end}` });
    revoke.addEventListener("click", async () => {
      const text = `${who} opens this dashboard no longer, at once.`;
      if (!(await confirmDialog("Take this share back?", text, { action: "Take back" }))) return;
      await ask("DELETE", `${route}/${share.id}`);
      show();
    });
    return make("li", "", {}, make("span", "", {}, make("bdi", "", {}, who), ` ${what}, ${end}; shared ${day.format(new Date(share.created_at))}`), revoke);
  }

  function nameOf(user) {
    if (!dashboard.sees_people) return "A person";
    return user?.name || user?.email || "Somebody who is gone";
  }
}

function after(days) {
  return new Date(Date.now() + Number(days) * DAY_MS).toISOString();
}
