// Dialogs and short messages.

export function toast(text, kind = "info") {
  const shown = document.createElement("div");
  shown.className = `toast toast-${kind}`;
  shown.textContent = text;
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), kind === "error" ? 10_000 : 4_000);
}

let count = 0;

// Opens a modal dialog around `content`; resolves with its return value when it is closed.
export function openDialog(title, content, { wide = false } = {}) {
  const dialog = document.createElement("dialog");
  dialog.className = wide ? "dialog dialog-wide" : "dialog";
  const heading = document.createElement("h2");
  heading.id = `dialog-title-${++count}`;
  heading.textContent = title;
  dialog.setAttribute("aria-labelledby", heading.id);
  const body = document.createElement("div");
  body.className = "dialog-body";
  body.append(heading, content);
  dialog.append(body);
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
  const made = document.createElement("button");
  made.type = "button";
  made.className = `button ${kind}`.trim();
  made.textContent = label;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Asks before something that cannot be taken back; resolves with whether it is wanted.
export async function confirmDialog(title, text, { action = "Delete", danger = true } = {}) {
  const form = document.createElement("form");
  form.method = "dialog";
  const said = document.createElement("p");
  said.textContent = text;
  const actions = document.createElement("div");
  actions.className = "dialog-actions";
  const no = button("Cancel", "", { value: "no", type: "submit" });
  const yes = button(action, danger ? "button-danger" : "button-primary", { value: "yes", type: "submit" });
  actions.append(no, yes);
  form.append(said, actions);
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
