// Saves settings, changes the password, and signs out elsewhere.

import { api, Problem } from "./api.js";
import { confirmDialog, toast } from "./dialog.js";
import { asProblem, clear, refuse } from "./forms.js";

// Does it with the button locked; answers whether it was done.
async function submit(form, act) {
  const pressed = form.querySelector("[type=submit]");
  pressed.disabled = true;
  form.setAttribute("aria-busy", "true");
  let problem = null;
  try {
    await act();
  } catch (error) {
    problem = asProblem(error);
  }
  pressed.disabled = false;
  form.removeAttribute("aria-busy");
  if (problem) refuse(form, problem);
  return !problem;
}

function said(form, text) {
  form.querySelector(".saved").textContent = text;
  toast(text);
}

// -- the organisation's -----------------------------------------------------------------------------

function changesOf(form) {
  const { hide_people: hide, keep_content: keep, raw_hours: hours } = form.elements;
  const changes = {};
  for (const box of [hide, keep]) if (box.checked !== box.defaultChecked) changes[box.name] = box.checked;
  if (hours.value !== hours.defaultValue) changes.raw_hours = Number(hours.value);
  return changes;
}

async function savePrivacy(form) {
  clear(form);
  form.querySelector(".saved").textContent = "";
  const hours = form.elements.raw_hours;
  if (!/^\d+$/.test(hours.value) || Number(hours.value) > 168) {
    refuse(form, new Problem(0, { errors: [{ field: "raw_hours", reason: "give a whole number from 0 to 168" }] }));
    return;
  }
  const changes = changesOf(form);
  if (!Object.keys(changes).length) {
    said(form, "Nothing has changed");
    return;
  }
  const before = Number(hours.defaultValue);
  if (changes.raw_hours < before && !(await confirmLess(changes.raw_hours))) {
    hours.focus();
    return;
  }
  if (!(await submit(form, () => api("PATCH", "/api/v1/settings", changes)))) return;
  hours.defaultValue = hours.value;
  for (const box of form.querySelectorAll("[type=checkbox]")) box.defaultChecked = box.checked;
  said(form, "Saved; it holds everywhere within two seconds");
}

function confirmLess(hours) {
  const what = hours ? `all requests that are older than ${hours} ${hours === 1 ? "hour" : "hours"}` : "all requests that are kept as they came";
  return confirmDialog("Delete what is kept for longer?", `This deletes ${what} at once. That cannot be taken back.`, { action: "Save and delete" });
}

// -- one's own --------------------------------------------------------------------------------------

async function changePassword(form) {
  clear(form);
  form.querySelector(".saved").textContent = "";
  const missing = ["current", "new"].filter((name) => !form.elements[name].value);
  if (missing.length) {
    refuse(form, new Problem(0, { errors: missing.map((field) => ({ field, reason: "is required" })) }));
    return;
  }
  const body = { current: form.elements.current.value, new: form.elements.new.value };
  if (!(await submit(form, () => api("POST", "/api/v1/me/password", body)))) return;
  form.reset();
  for (const row of document.querySelectorAll("tr[data-other]")) row.remove();
  said(form, "Changed; you are signed out everywhere else");
}

async function endSignIn(pressed) {
  pressed.disabled = true;
  try {
    await api("DELETE", `/api/v1/me/sign-ins/${pressed.dataset.end}`);
  } catch (error) {
    // It has ended by itself meanwhile: that is what was wanted.
    if (error.status !== 404) {
      pressed.disabled = false;
      toast(error.text ?? String(error), "error");
      pressed.focus();
      return;
    }
  }
  const row = pressed.closest("tr");
  const next = row.nextElementSibling?.querySelector("button") ?? document.getElementById("sign-ins");
  row.remove();
  next.focus();
  toast("Signed out there");
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "privacy-form" && event.target.id !== "password-form") return;
  event.preventDefault();
  if (event.target.id === "privacy-form") savePrivacy(event.target);
  else changePassword(event.target);
});
document.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-end]");
  if (pressed) endSignIn(pressed);
});
for (const one of document.querySelectorAll("[data-end]")) one.hidden = false;
