// Details of one unit: its weights, the units that read it, and the loss against its gain.

import { onTheme } from "./colours.js";
import { unpack } from "./decoding.js";
import { byId, fitted, make } from "./dom.js";
import { chart, limits } from "./lines.js";
import { forward, layers, networkAt, runnable } from "./network.js";
import { className, page } from "./page-data.js";
import { portrait } from "./portraits.js";
import { heirs } from "./removed.js";
import { choose, follow, state } from "./state.js";
import { brief, signed } from "./words.js";

const LISTENERS = 8;

export function startUnit() {
  if (!runnable) return;
  byId("unit").hidden = false;
  const body = byId("unit-body");
  const show = () => body.replaceChildren(...(state.unit && layers[state.unit.layer].operation >= 0 ? closely(state.unit) : other()));
  follow(["unit", "step"], show);
  onTheme(show);
  show();
}

function other() {
  const places = page.isRun ? "in the drawing above, in the list of removed units, or among the dots below" : "in the drawing above, or among the dots below";
  const words = state.unit ? inputWords(state.unit.unit) : `Choose a unit ${places}.`;
  return [make("p", { class: "note" }, words)];
}

function inputWords(unit) {
  const network = networkAt(state.step);
  const heard = network.strength[0];
  const size = layers[0].size;
  const listeners = Array.from({ length: heard.length / size }, (_, row) => heard[row * size + unit]).filter(Boolean).length;
  return `${page.input.features[unit] ?? `Input ${unit}`} is ${network.alive[0][unit] ? `read by ${listeners} units` : "not read by any unit"}.`;
}

function closely({ layer, unit }) {
  const network = networkAt(state.step);
  const shown = networkAt(network.alive[layer][unit] ? state.step : 0); // a dead unit as it was at the start
  const canvas = make("canvas", { class: "big", role: "img" });
  const result = state.input && layers[layer].channels ? forward(shown, state.input) : null;
  const what = portrait(canvas, shown, layer, unit, result);
  canvas.setAttribute("aria-label", what);
  const facts = make("div", {}, make("p", {}, make("strong", {}, `Unit ${unit} of ${layers[layer].name}`)), make("p", { class: "history" }, history(layer, unit, network)), make("p", { class: "note" }, `Picture: ${what}.`), speaksTo(shown, layer, unit));
  const plot = make("div", { id: "surface" });
  requestAnimationFrame(() => surface(plot, layer, unit));
  return [make("div", { class: "unit" }, canvas, facts, plot)];
}

function history(layer, unit, network) {
  const row = page.removed.find((each) => page.groups[each.group].operation === layers[layer].operation && each.unit === unit);
  if (!row && page.isRun && network.alive[layer][unit]) return page.live ? "It has not been removed." : "It was not removed.";
  if (!row) return network.alive[layer][unit] ? "" : "No unit reads it.";
  const score = row.score === null ? "It had no score" : `Its score was ${brief(row.score)}, among the lowest at that step`;
  return `It was removed in step ${row.step}. ${score}. Its work was taken over by ${heirs(row, false)}.`;
}

function speaksTo(network, layer, unit) {
  const size = layers[layer].size;
  const strength = network.strength[layer];
  const rows = Array.from({ length: strength.length / size }, (_, to) => [to, strength[to * size + unit]]);
  const loud = rows.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, LISTENERS).filter(([, value]) => value !== 0);
  const reach = Math.abs(loud[0]?.[1] ?? 1);
  const box = make("div", { class: "bars" });
  for (const [to, value] of loud) {
    const bar = make("i", { class: value < 0 ? "minus" : "" });
    bar.style.width = `${(100 * Math.abs(value)) / reach}%`;
    const name = layers[layer + 1].isOutput ? className(to) : `unit ${to}`;
    box.append(make("span", { class: "name", title: name }, name), make("div", { class: "track", "aria-hidden": "true" }, bar), make("span", { class: "value" }, signed(value)));
  }
  return make("div", {}, make("h3", {}, "Read most strongly by"), box);
}

let far = false; // draw the surface up to gain 10, not 2.5

function surface(box, layer, unit) {
  const group = page.groups.findIndex((each) => each.operation === layers[layer].operation && each.kind !== "synapse");
  const held = page.surfaces[group];
  if (!held) return box.replaceChildren();
  const grid = held.grid;
  const curves = unpack(held.curves);
  if ((unit + 1) * grid.length > curves.length) return box.replaceChildren(make("p", { class: "note" }, "Its error surface was left out, to keep the page small."));
  const curve = [...curves.subarray(unit * grid.length, (unit + 1) * grid.length)];
  const slope = unpack(held.slopes)[unit];
  const bend = held.curvatures ? unpack(held.curvatures)[unit] : null;
  const draw = (width) => {
    const count = far ? grid.length : grid.filter((gain) => gain <= 2.5).length;
    const x = grid.slice(0, count);
    const values = curve.slice(0, count).map((loss) => loss - page.baseline); // other samples have other losses
    const tangent = x.map((gain) => slope * (gain - 1));
    const parabola = bend === null ? [] : [{ values: x.map((gain, i) => tangent[i] + (bend / 2) * (gain - 1) ** 2), look: "earth thin" }];
    const [low, high] = limits(values);
    const room = (high - low) * 0.35;
    const label = `Rise in loss if the unit's output is multiplied: ${brief(values[0])} without it, 0 unchanged`;
    const svg = chart({ x, width, height: 220, title: "rise in loss by the unit's gain", xLabel: "gain: 0 removed, 1 unchanged", label, here: 1, range: [low - room, high + room], series: [{ values: tangent, look: "ink thin dots" }, ...parabola, { values, look: "leaf" }] });
    const button = make("button", { type: "button" }, far ? "gains up to 2.5" : "gains up to 10");
    button.addEventListener("click", () => {
      far = !far;
      draw(width);
    });
    const words = `Removing it alone changes the loss by ${signed(values[0])}; the first-order estimate (dotted) is ${signed(-slope)}${bend === null ? "" : `, the second-order one (thin line) ${signed(-slope + bend / 2)}`}. Measured on ${page.scoredOn}${page.isRun ? ", with the untouched network" : ""}.`;
    box.replaceChildren(svg, make("p", { class: "note" }, words), button);
  };
  draw(Math.max(box.clientWidth, 240));
}
