// Assigns what telemetry claims to people; the rest of the page works without it.

import { api } from "./api.js";
import { toast } from "./dialog.js";

function refuse(form, text) {
  const select = form.elements.user;
  const error = form.querySelector(".error");
  error.id ||= `who-error-${form.dataset.identity ?? form.dataset.key}`;
  error.textContent = text;
  error.hidden = false;
  select.setAttribute("aria-invalid", "true");
  select.setAttribute("aria-describedby", error.id);
  select.focus();
}

function clear(form) {
  form.querySelector(".error").hidden = true;
  form.elements.user.removeAttribute("aria-invalid");
}

function assign(form, userId) {
  if (form.dataset.identity) {
    return api("PATCH", `/api/v1/identities/${form.dataset.identity}`, { user_id: userId });
  }
  return api("POST", "/api/v1/identity-rules", { kind: "key", value: form.dataset.key, user_id: userId });
}

// The next row's choice, so that one assigns after another without searching for the place.
function leave(form) {
  const row = form.closest("tr");
  const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("select");
  row.remove();
  (next ?? document.getElementById("who-is-who")).focus();
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest(".who-form");
  if (!form) return;
  event.preventDefault();
  clear(form);
  const select = form.elements.user;
  if (!select.value) {
    refuse(form, "Choose a person");
    return;
  }
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const { past } = await assign(form, select.value);
    const moved = `${past.moved_sessions} ${past.moved_sessions === 1 ? "session" : "sessions"}`;
    toast(past.is_complete ? `Assigned; ${moved} moved` : `Assigned; ${moved} moved, the rest follows`);
    leave(form);
  } catch (error) {
    refuse(form, error.text ?? String(error));
  } finally {
    button.disabled = false;
  }
});
