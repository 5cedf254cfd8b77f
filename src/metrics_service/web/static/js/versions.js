// Going back to an old version of a dashboard.

import { api } from "./api.js";
import { button, openDialog } from "./dialog.js";
import { field, make } from "./elements.js";

const dashboard = JSON.parse(document.getElementById("dashboard").textContent);

for (const restore of document.querySelectorAll("[data-restore]")) {
  restore.hidden = false;
  restore.addEventListener("click", () => ask(restore.dataset.restore));
}

function ask(version) {
  const form = make("form");
  const note = make("input", "", { name: "note", maxLength: 1000, autocomplete: "off" });
  const wrong = make("p", "notice notice-error", { role: "alert", hidden: true });
  const cancel = button("Cancel");
  const go = button("Restore", "button-primary", { type: "submit" });
  form.append(
    make("p", "", {}, `The dashboard becomes what it was in version ${version}. What came after stays in the list.`),
    wrong, field("Why (optional)", note), make("div", "dialog-actions", {}, cancel, go));
  const { dialog } = openDialog(`Restore version ${version}?`, form);
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      await api("POST", `/api/v1/dashboards/${dashboard.id}/versions/${version}/restore`, {
        note: note.value.trim(), version: dashboard.newest,
      });
      location.assign(`/dashboards/${dashboard.id}`);
    } catch (problem) {
      go.disabled = false;
      wrong.textContent = problem.status === 409
        ? "Somebody saved the dashboard meanwhile. Load this page again to see what they changed."
        : problem.text;
      wrong.hidden = false;
    }
  });
}
