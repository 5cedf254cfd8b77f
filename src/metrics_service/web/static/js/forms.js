// What is wrong with a form, said beside each field: `data-error` names it, `data-error-whole` is for the rest.

import { Problem } from "./api.js";

export function asProblem(error) {
  return error instanceof Problem ? error : new Problem(0, { detail: String(error) });
}

export function clear(form) {
  for (const error of form.querySelectorAll("[data-error], [data-error-whole]")) error.hidden = true;
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

// Puts the focus on the first field that is wrong.
export function refuse(form, problem) {
  const errors = problem.errors?.length ? problem.errors : [{ reason: problem.message }];
  const rest = [];
  let first = null;
  for (const { field, reason } of errors) {
    // The last part of `key.name` or `scopes[0]` that is a name.
    const name = (field ?? "").split(".").pop().replace(/\[.*/, "");
    const shown = name && form.querySelector(`[data-error="${CSS.escape(name)}"]`);
    if (!shown) {
      rest.push([field, reason].filter(Boolean).join(": "));
      continue;
    }
    shown.textContent = reason;
    shown.hidden = false;
    const control = form.querySelector(`[name="${CSS.escape(name)}"]`);
    control.setAttribute("aria-invalid", "true");
    first ??= control;
  }
  const whole = form.querySelector("[data-error-whole]");
  whole.textContent = rest.join("; ");
  whole.hidden = !rest.length;
  (first ?? form.querySelector("input")).focus();
}
