// One dashboard: sharing, copying, deleting; and what to do when somebody else changed it meanwhile.

import { copyDashboard, deleteDashboard } from "./dashboards.js";
import { openSharing } from "./share.js";

const dashboard = JSON.parse(document.getElementById("dashboard").textContent);

offer("share", () => openSharing(dashboard));
offer("copy", (button) => copyDashboard(dashboard.id, dashboard.name, button));
offer("delete", () => deleteDashboard(dashboard.id, dashboard.name));

function offer(id, act) {
  const button = document.getElementById(id);
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const menu = button.closest("details");
    if (menu) menu.open = false;
    act(button);
  });
}

// Other widgets, or other places, are another page: this one brings figures up to date alone.
document.addEventListener("page:refreshed", () => {
  const { version } = document.getElementById("board-version").dataset;
  if (Number(version) !== dashboard.version) location.reload();
});
