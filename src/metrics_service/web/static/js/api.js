// Asks the JSON API as the person who has signed in. When that has ended, it asks them to sign in
// again and goes on, so that nothing typed is lost.

import { button, openDialog } from "./dialog.js";
import { field, make } from "./elements.js";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? "the service cannot be reached");
    this.status = status;
    this.errors = body.errors ?? [];
    this.retryAfter = body.retryAfter;
  }

  // One text for people: each wrong field, or else the whole.
  get text() {
    if (!this.errors.length) return this.message;
    return this.errors.map((error) => [error.field, error.reason].filter(Boolean).join(": ")).join("; ");
  }
}

async function send(method, path, body, headers) {
  try {
    return await fetch(path, {
      method,
      headers: {
        Accept: "application/json",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Problem(0, { detail: "the service cannot be reached; nothing was changed" });
  }
}

// Answers what the API says; throws a Problem.
export async function api(method, path, body, headers = {}) {
  let response = await send(method, path, body, headers);
  if (response.status === 401) {
    if (!(await signInAgain())) throw new Problem(401, { detail: "you are signed out" });
    response = await send(method, path, body, headers);
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({ detail: `the service answered ${response.status}` }));
    throw new Problem(response.status, { ...told, retryAfter: response.headers.get("Retry-After") });
  }
  return response.status === 204 ? null : response.json();
}

let asking = null;

// Resolves with whether somebody has signed in; several that wait share one dialog.
export function signInAgain() {
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

function asked(label, type, name, autocomplete) {
  return field(label, make("input", "", { type, name, autocomplete, required: true }));
}

async function ask() {
  const wrong = make("p", "notice notice-error", { role: "alert", hidden: true });
  const cancel = button("Not now");
  const enter = button("Sign in", "button-primary", { type: "submit" });
  const form = make("form", "", {},
    make("p", "", {}, "Your sign-in has ended. Sign in again to go on; what you have typed stays."), wrong,
    asked("Email", "email", "email", "username"),
    asked("Password", "password", "password", "current-password"),
    make("div", "dialog-actions", {}, cancel, enter));
  const { dialog, closed } = openDialog("Sign in again", form);
  cancel.addEventListener("click", () => dialog.close("no"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    enter.disabled = true;
    try {
      const response = await fetch("/sign-in", {
        method: "POST",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      if (response.ok) {
        document.dispatchEvent(new Event("page:signed-in"));
        dialog.close("yes");
        return;
      }
      const told = await response.json().catch(() => ({}));
      wrong.textContent = told.detail ?? "that did not work; try again";
    } catch {
      wrong.textContent = "the service cannot be reached; try again";
    } finally {
      enter.disabled = false;
    }
    wrong.hidden = false;
  });
  return (await closed) === "yes";
}
