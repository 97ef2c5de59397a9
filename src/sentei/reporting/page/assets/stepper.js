// The slider that chooses the step of the run that the whole page shows.

import { byId, make } from "./dom.js";
import { lastStep, page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { bytes, count, percent, brief } from "./words.js";

export function startStepper() {
  if (!page.isRun) return;
  const box = byId("stepper");
  box.hidden = false;
  const slider = make("input", { type: "range", id: "step", min: 0, max: lastStep, step: 1, value: state.step });
  const said = make("dl", { id: "step-said", "aria-live": "off" });
  slider.addEventListener("input", () => choose({ step: Number(slider.value) }));
  const label = make("label", { for: "step" });
  box.append(label, slider, said);
  const show = () => {
    const { accuracy, loss, metrics, units, synapses, bytes: size } = page.steps;
    slider.value = state.step;
    label.textContent = `Step ${state.step} of ${lastStep}`;
    const right = accuracy[state.step];
    const facts = [...(units[0] ? [["units", count(units[state.step])]] : []), ["synapses", count(synapses[state.step])], ["file", bytes(size[state.step])]];
    const measured = metrics.filter(([, values]) => values[state.step] !== null).map(([name, values]) => [name, brief(values[state.step])]);
    facts.push(...(right === null ? [...measured, ["loss", brief(loss[state.step])]] : [["accuracy", percent(right)]]));
    slider.setAttribute("aria-valuetext", `step ${state.step}: ${facts.map((pair) => pair.join(" ")).join(", ")}`);
    said.replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  };
  follow(["step"], show);
  show();
}
