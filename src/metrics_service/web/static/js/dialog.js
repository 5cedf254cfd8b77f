// Dialogs and short messages.

import { make } from "./elements.js";

export function toast(text, kind = "info") {
  const shown = make("div", `toast toast-${kind}`, {}, text);
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), kind === "error" ? 10_000 : 4_000);
}

let count = 0;

// Opens a modal dialog around `content`; resolves with its return value when it is closed.
export function openDialog(title, content, { wide = false } = {}) {
  const heading = make("h2", "", { id: `dialog-title-${++count}` }, title);
  const dialog = make("dialog", wide ? "dialog dialog-wide" : "dialog", { "aria-labelledby": heading.id },
    make("div", "dialog-body", {}, heading, content));
  document.body.append(dialog);
  const closed = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    }, { once: true });
  });
  dialog.showModal();
  return { dialog, closed };
}

export function button(label, kind = "", attributes = {}) {
  return make("button", `button ${kind}`.trim(), { type: "button", ...attributes }, label);
}

// Asks before something that cannot be taken back; resolves with whether it is wanted.
export async function confirmDialog(title, text, { action = "Delete", danger = true } = {}) {
  const no = button("Cancel", "", { value: "no", type: "submit" });
  const yes = button(action, danger ? "button-danger" : "button-primary", { value: "yes", type: "submit" });
  const form = make("form", "", { method: "dialog" },
    make("p", "", {}, text), make("div", "dialog-actions", {}, no, yes));
  const { closed } = openDialog(title, form);
  return (await closed) === "yes";
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not let this page copy; select the text instead", "error");
  }
}
