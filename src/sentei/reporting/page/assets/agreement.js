// Plots of criteria against exact ablation, a dot for each unit.

import { unpack } from "./decoding.js";
import { byId, make, shape } from "./dom.js";
import { limits, scale } from "./lines.js";
import { layers } from "./network.js";
import { isDead, lastStep, page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { brief } from "./words.js";

const [WIDTH, HEIGHT] = [230, 170];

export function startAgreement() {
  const entries = Object.entries(page.agreements);
  if (!entries.length) return;
  byId("why").hidden = false;
  const box = byId("agreement");
  const [which, gone_] = page.isRun ? [" of the untouched network", " The run removed the units with open dots."] : ["", ""];
  box.append(make("p", { class: "note" }, `Each dot is a unit${which}. Horizontal: the rise in loss if it is removed, by exact ablation. Vertical: the score of the criterion. Both are measured on ${page.scoredOn}. A criterion that ranks the units as ablation does has a rank correlation of 1.${gone_}`));
  const gone = ([position]) => page.removed.filter((row) => row.group === Number(position)).length;
  entries.sort((one, other) => gone(other) - gone(one));
  entries.forEach(([position, { exact, criteria }], turn) => {
    const group = page.groups[position];
    const costs = unpack(exact);
    const plots = make("div", { class: "plots", tabindex: 0, role: "group", "aria-label": `Criteria for ${group.name}` });
    for (const criterion of criteria) plots.append(plot(group, costs, criterion));
    const head = make("summary", {}, `${group.name}: ${group.size} units, ${criteria.length} criteria, the best ranking first`);
    box.append(make("details", { open: turn === 0 }, head, plots));
  });
  follow(["unit"], () => markDots(box));
}

function plot(group, costs, { name, scores, spearman, used }) {
  const values = unpack(scores);
  const across = scale(limits([...costs]), [10, WIDTH - 8]);
  const up = scale(limits([...values]), [HEIGHT - 16, 8]);
  const compared = spearman === null ? "all scores are equal" : `rank correlation ${spearman.toFixed(2)}`;
  // Exact ablation itself would rank otherwise on other samples: a correlation would say that, not how right it was.
  const agree = used ? "measured on the run's own samples, which this page does not have, so no rank correlation is given" : compared;
  const svg = shape("svg", { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name} against exact ablation: ${agree}` });
  svg.append(shape("line", { class: "axis", x1: 10, x2: WIDTH - 8, y1: HEIGHT - 12, y2: HEIGHT - 12 }));
  if (Math.min(...costs) < 0) svg.append(shape("line", { class: "grid", x1: across(0), x2: across(0), y1: 6, y2: HEIGHT - 12 }));
  svg.append(shape("text", { x: WIDTH - 8, y: HEIGHT, "text-anchor": "end" }, "cost by ablation"));
  costs.forEach((cost, unit) => {
    const gone = isDead(group, unit, lastStep);
    const dot = shape("circle", { cx: across(cost), cy: up(values[unit]), r: 3.2, class: gone ? "dot gone" : "dot", "data-unit": unit, "data-operation": group.operation });
    dot.append(shape("title", {}, `unit ${unit}: ablation ${brief(cost)}, ${name} ${brief(values[unit])}`));
    dot.addEventListener("click", () => pick(group, unit));
    svg.append(dot);
  });
  return make("figure", {}, svg, make("figcaption", {}, make("strong", {}, name), make("span", {}, `: ${agree}`)));
}

function pick(group, unit) {
  const layer = layers.findIndex((each) => each.operation === group.operation);
  if (layer > 0) choose({ unit: { layer, unit } });
}

function markDots(box) {
  const operation = layers[state.unit?.layer]?.operation;
  for (const dot of box.querySelectorAll("circle")) {
    const chosen = Number(dot.dataset.unit) === state.unit?.unit && Number(dot.dataset.operation) === operation;
    dot.classList.toggle("chosen", chosen);
    dot.setAttribute("r", chosen ? 6 : 3.2);
  }
}
