// Makes keys, shows each once, revokes them, and keeps the diary of what arrives up to date.

import { api, Problem } from "./api.js";
import { button, confirmDialog, copy, openDialog, toast } from "./dialog.js";
import { asProblem, clear, refuse } from "./forms.js";

const PLACEHOLDER = "msk_...";
// A refusal is told to nobody, so that this page asks for itself.
const ASK_EVERY_MS = 5_000;
const SAID_MS = 3_000;

function offer(root = document) {
  for (const one of root.querySelectorAll("[data-copy][hidden], [data-revoke][hidden], #other-key[hidden]")) {
    one.hidden = false;
  }
}

function wanted(form) {
  const key = { name: form.elements.name.value.trim() };
  const days = form.elements.expires_in_days.value;
  if (days) key.expires_in_days = Number(days);
  return key;
}

// -- a key for the client ---------------------------------------------------------------------------

async function makeKey(form) {
  clear(form);
  const key = wanted(form);
  if (!key.name) {
    refuse(form, new Problem(0, { errors: [{ field: "name", reason: "give it a name by which you know it again" }] }));
    return;
  }
  const { agent, protocol, team, repository } = form.dataset;
  const user = form.elements.user_id?.value;
  if (user) key.user_id = user;
  const submit = form.querySelector("[type=submit]");
  submit.disabled = true;
  try {
    const made = await api("POST", `/api/v1/setup/${encodeURIComponent(agent)}`, { key, protocol, team, repository });
    show(made);
    form.reset();
  } catch (error) {
    refuse(form, asProblem(error));
  } finally {
    submit.disabled = false;
  }
}

// Only in this page, and gone with it.
function show(made) {
  made.parts.forEach((part, place) => {
    const code = document.querySelector(`[data-part="${place}"]`);
    code.textContent = part.content;
    code.closest(".snippet").classList.toggle("has-key", part.content.includes(made.key.key));
  });
  for (const code of document.querySelectorAll("[data-check]")) {
    if (!code.textContent.startsWith("METRICS_INGEST_KEY=")) continue;
    code.textContent = code.textContent.replace(/^METRICS_INGEST_KEY=\S+/, `METRICS_INGEST_KEY=${made.key.key}`);
  }
  for (const note of document.querySelectorAll(".notes li")) {
    if (note.textContent.startsWith(PLACEHOLDER)) note.remove();
  }
  const said = document.getElementById("key-shown");
  said.textContent = "The key is in the configuration below. It is shown only now: copy it before you leave this page.";
  said.hidden = false;
  const place = document.getElementById("configuration");
  place.scrollIntoView({ block: "start" });
  (place.querySelector(".has-key")?.parentElement.querySelector("[data-copy]") ?? place).focus();
  ask();
}

// -- a key with other rights ------------------------------------------------------------------------

async function makeOther() {
  const form = document.getElementById("other-key-form").content.cloneNode(true).querySelector("form");
  const { dialog, closed } = openDialog("Make a key", form);
  form.querySelector("[data-cancel]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clear(form);
    const scopes = [...form.querySelectorAll("[name=scopes]:checked")].map((one) => one.value);
    const key = { ...wanted(form), scopes };
    const errors = [];
    if (!key.name) errors.push({ field: "name", reason: "give it a name by which you know it again" });
    if (!scopes.length) errors.push({ field: "scopes", reason: "choose at least one" });
    if (errors.length) {
      refuse(form, new Problem(0, { errors }));
      return;
    }
    const submit = form.querySelector("[type=submit]");
    submit.disabled = true;
    try {
      const made = await api("POST", "/api/v1/keys", key);
      const once = shownOnce(made.key, () => dialog.close());
      form.replaceWith(once);
      once.querySelector("button").focus();
    } catch (error) {
      refuse(form, asProblem(error));
    } finally {
      submit.disabled = false;
    }
  });
  form.elements.name.focus();
  await closed;
  document.getElementById("other-key").focus();
  ask();
}

function shownOnce(key, done) {
  const whole = document.createElement("div");
  whole.className = "key-once";
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  said.textContent = "This is the only time the key is shown. Copy it now.";
  const text = document.createElement("pre");
  text.textContent = key;
  const actions = document.createElement("div");
  actions.className = "dialog-actions";
  const copying = button("Copy", "button-primary");
  copying.addEventListener("click", () => copy(key));
  const closing = button("Done");
  closing.addEventListener("click", done);
  actions.append(copying, closing);
  whole.append(said, text, actions);
  return whole;
}

// -- revoking ---------------------------------------------------------------------------------------

async function revoke(pressed) {
  const { revoke: id, name } = pressed.dataset;
  const text = `Everything that sends with “${name}” is refused from then on. This cannot be taken back.`;
  if (!(await confirmDialog("Revoke this key?", text, { action: "Revoke" }))) {
    pressed.focus();
    return;
  }
  pressed.disabled = true;
  try {
    await api("DELETE", `/api/v1/keys/${id}`);
  } catch (error) {
    pressed.disabled = false;
    toast(asProblem(error).text, "error");
    pressed.focus();
    return;
  }
  toast(`Revoked ${name}`);
  pressed.closest("tr").querySelector(".badge").replaceWith(badge("revoked"));
  pressed.remove();
  document.getElementById("keys-title").focus();
  ask();
}

function badge(word) {
  const made = document.createElement("span");
  made.className = "badge";
  made.textContent = word;
  return made;
}

// -- what arrives -----------------------------------------------------------------------------------

function ask() {
  document.dispatchEvent(new CustomEvent("live:changed", { detail: { many: true } }));
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "make-key") return;
  event.preventDefault();
  makeKey(event.target);
});
document.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  if (pressed.dataset.copy) copy(document.getElementById(pressed.dataset.copy).textContent);
  else if (pressed.dataset.revoke) revoke(pressed);
  else if (pressed.id === "other-key") makeOther();
});
document.addEventListener("page:refreshed", () => {
  offer();
  const said = document.getElementById("arrival-said");
  // Said once: how long ago it was changes every minute, and is nobody's news.
  if (said.querySelector(".arrival-done")) setTimeout(() => said.removeAttribute("aria-live"), SAID_MS);
});
offer();
setInterval(ask, ASK_EVERY_MS);
