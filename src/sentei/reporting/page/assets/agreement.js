// Plots of criteria against exact ablation, a dot for each unit.

import { unpack } from "./decoding.js";
import { byId, make, shape } from "./dom.js";
import { limits, scale, slider } from "./lines.js";
import { ofGroup } from "./network.js";
import { isDead, lastStep, page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { brief } from "./words.js";

const [WIDTH, HEIGHT] = [230, 170];
const BEST = 5; // criteria of a group that are shown without a click

export function startAgreement() {
  const entries = Object.entries(page.agreements);
  if (!entries.length) return;
  byId("why").hidden = false;
  const box = byId("agreement");
  const [which, gone] = page.isRun ? [" of the untouched network", " The run removed the units with open dots."] : ["", ""];
  box.append(make("p", { class: "note" }, `Each dot is a unit${which}. Horizontal: the rise in loss if it is removed, by exact ablation. Vertical: the score of the criterion. Both are measured on ${page.scoredOn}. A criterion that ranks the units as ablation does has a rank correlation of 1.${gone}`));
  const removed = ([position]) => page.removed.filter((row) => row.group === Number(position)).length;
  entries.sort((one, other) => removed(other) - removed(one));
  entries.forEach(([position, { exact, criteria }], turn) => {
    const group = page.groups[position];
    const costs = unpack(exact);
    const figures = criteria.map((criterion) => plot(Number(position), costs, criterion));
    const plots = (some, words) => make("div", { class: "plots", role: "group", "aria-label": `${words} for ${group.name}` }, ...some);
    const head = make("summary", {}, `${group.name}: ${group.size} units, ${criteria.length} criteria, the best ranking first`);
    const others = figures.slice(BEST);
    const more = others.length ? make("details", {}, make("summary", {}, `${others.length} more criteria`), plots(others, "More criteria")) : null;
    box.append(make("details", { open: turn === 0 }, head, plots(figures.slice(0, BEST), "Criteria"), more));
  });
  follow(["unit"], () => markDots(box));
  markDots(box);
}

function plot(position, costs, { name, scores, spearman, used }) {
  const group = page.groups[position];
  const values = unpack(scores);
  const across = scale(limits([...costs]), [10, WIDTH - 8]);
  const up = scale(limits([...values]), [HEIGHT - 16, 8]);
  const compared = spearman === null ? "all scores are equal" : `rank correlation ${spearman.toFixed(2)}`;
  // Exact ablation itself would rank otherwise on other samples: a correlation would say that, not how right it was.
  const agree = used ? "measured on the run's own samples, which this page does not have, so no rank correlation is given" : compared;
  const svg = shape("svg", { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "data-group": position });
  svg.append(shape("line", { class: "axis", x1: 10, x2: WIDTH - 8, y1: HEIGHT - 12, y2: HEIGHT - 12 }));
  if (Math.min(...costs) < 0) svg.append(shape("line", { class: "grid", x1: across(0), x2: across(0), y1: 6, y2: HEIGHT - 12 }));
  svg.append(shape("text", { x: WIDTH - 8, y: HEIGHT - 2, "text-anchor": "end" }, "cost by ablation"));
  const words = (unit) => `unit ${unit}: ablation ${brief(costs[unit])}, ${name} ${brief(values[unit])}`;
  costs.forEach((cost, unit) => {
    const gone = isDead(group, unit, lastStep);
    const dot = shape("circle", { cx: across(cost), cy: up(values[unit]), r: 3.2, class: gone ? "dot gone" : "dot", "data-unit": unit });
    dot.append(shape("title", {}, words(unit)));
    dot.addEventListener("click", () => choose({ unit: ofGroup(position, unit) }));
    svg.append(dot);
  });
  walked(svg, position, costs, words, `${name} against exact ablation: ${agree}; units by their cost`);
  return make("figure", {}, svg, make("figcaption", {}, make("strong", {}, name), make("span", {}, `: ${agree}`)));
}

// Let arrow keys go through the units of a plot, in the order of their cost by ablation.
function walked(svg, position, costs, words, label) {
  const order = [...costs.keys()].sort((a, b) => costs[a] - costs[b]);
  slider(svg, { at: 0, last: order.length - 1, label, told: words(order[0]) }, (place) => choose({ unit: ofGroup(position, order[place]) }));
  follow(["unit"], () => {
    if (state.unit?.group !== position) return;
    svg.setAttribute("aria-valuenow", order.indexOf(state.unit.unit));
    svg.setAttribute("aria-valuetext", words(state.unit.unit));
  });
}

function markDots(box) {
  for (const dot of box.querySelectorAll("circle.chosen")) shown(dot, false);
  if (!state.unit) return;
  const { group, unit } = state.unit;
  for (const dot of box.querySelectorAll(`[data-group="${group}"] [data-unit="${unit}"]`)) shown(dot, true);
}

function shown(dot, chosen) {
  dot.classList.toggle("chosen", chosen);
  dot.setAttribute("r", chosen ? 6 : 3.2);
}
