// Follow a run that goes on: ask the server for the newest step, and load the page again for it.

import { byId, make } from "./dom.js";
import { lastStep, page } from "./page-data.js";

const EVERY = 2000; // ms between two questions
const HELD = "sentei-held"; // remembered while the tab is open: whether the page stays as it is

export function startLive() {
  if (!page.live) return;
  const said = make("span", {}, `The run goes on. This page shows step ${lastStep}.`);
  const held = make("input", { type: "checkbox", id: "held" });
  held.checked = sessionStorage.getItem(HELD) === "yes";
  held.addEventListener("change", () => sessionStorage.setItem(HELD, held.checked ? "yes" : "no"));
  byId("live").hidden = false;
  byId("live").append(said, make("label", {}, held, " stay at this step"));
  const timer = setInterval(async () => {
    const steps = await newest();
    if (steps === null) {
      clearInterval(timer);
      said.textContent = `The run has ended, or was stopped. This page shows step ${lastStep}.`;
    } else if (steps > lastStep + 1) {
      if (!held.checked) location.reload();
      else said.textContent = `The run goes on: it has finished step ${steps - 1}. This page shows step ${lastStep}.`;
    }
  }, EVERY);
}

// The number of complete steps; null if the server is gone.
async function newest() {
  try {
    return await (await fetch("steps")).json();
  } catch {
    return null;
  }
}
