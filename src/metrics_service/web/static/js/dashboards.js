// The list of dashboards, and what a new one begins with.

import { api, Problem, signInAgain } from "./api.js";
import { confirmDialog, toast } from "./dialog.js";

const ROUTE = "/api/v1/dashboards";

for (const button of document.querySelectorAll("[data-copy], [data-delete], .template button")) {
  button.hidden = false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { dashboard, name } = button.closest("tr")?.dataset ?? {};
  if (button.matches("[data-copy]")) copyDashboard(dashboard, name, button);
  else if (button.matches("[data-delete]")) deleteDashboard(dashboard, name);
  else if (button.closest(".template")) {
    const { template } = button.closest(".template").dataset;
    make(button, () => api("POST", `/api/v1/dashboard-templates/${encodeURIComponent(template)}/copy`));
  }
});

const empty = document.getElementById("new-empty");
empty?.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = empty.elements.name.value.trim();
  if (name) make(empty, () => api("POST", ROUTE, { name, visibility: "private" }));
});

const file = document.getElementById("new-file");
file?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const chosen = file.elements.file.files[0];
  const isJson = chosen.name.toLowerCase().endsWith(".json");
  const text = await chosen.text();
  const type = isJson ? "application/json" : "application/yaml";
  make(file, () => send(`${ROUTE}/import`, text, type));
});

// As `api`, of a body that is text already.
async function send(path, body, type) {
  const headers = { Accept: "application/json", "Content-Type": type };
  const ask = () => fetch(path, { method: "POST", headers, body });
  let response = await ask();
  if (response.status === 401 && (await signInAgain())) response = await ask();
  const told = await response.json().catch(() => ({ detail: `the service answered ${response.status}` }));
  if (!response.ok) throw new Problem(response.status, told);
  return told;
}

// Makes a dashboard and opens it; says beside the form, or in passing, why that did not work.
async function make(place, create) {
  const button = place.matches("button") ? place : place.querySelector("button[type=submit]");
  const wrong = place.querySelector?.("[role=alert]");
  button.disabled = true;
  try {
    const made = await create();
    location.assign(made.widgets.length ? `/dashboards/${made.id}` : `/dashboards/${made.id}/edit`);
  } catch (problem) {
    button.disabled = false;
    if (!wrong) {
      toast(problem.text ?? String(problem), "error");
      return;
    }
    wrong.textContent = problem.text ?? String(problem);
    wrong.hidden = false;
  }
}

export async function copyDashboard(id, name, button) {
  await make(button, () => api("POST", `${ROUTE}/${id}/copy`, { name: `Copy of ${name}`.slice(0, 255) }));
}

export async function deleteDashboard(id, name) {
  const text = `“${name}” goes with all its versions, shares and links. This cannot be taken back.`;
  if (!(await confirmDialog("Delete this dashboard?", text))) return;
  try {
    await api("DELETE", `${ROUTE}/${id}`);
  } catch (problem) {
    // Somebody else was faster.
    if (problem.status !== 404) {
      toast(problem.text, "error");
      return;
    }
  }
  location.assign("/dashboards");
}
