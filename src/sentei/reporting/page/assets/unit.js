// Details of one unit: its weights, the units that read it, and the loss against its gain.

import { onTheme } from "./colours.js";
import { unpack } from "./decoding.js";
import { byId, make } from "./dom.js";
import { chart, limits } from "./lines.js";
import { forward, layers, networkAt } from "./network.js";
import { className, isDead, page } from "./page-data.js";
import { portrait } from "./portraits.js";
import { heirs } from "./removed.js";
import { follow, state } from "./state.js";
import { brief, signed } from "./words.js";

const LISTENERS = 8;

export function startUnit() {
  if (!layers.length && !page.removed.length && !Object.keys(page.surfaces).length) return;
  byId("unit").hidden = false;
  const body = byId("unit-body");
  const show = () => body.replaceChildren(...(state.unit ? closely(state.unit) : [note(`Choose a unit ${choosable()}.`)]));
  follow(["unit", "step"], show);
  onTheme(show);
  show();
}

function note(words) {
  return make("p", { class: "note" }, words);
}

// Where a unit can be chosen on this page.
function choosable() {
  const found = [layers.length && "in the drawing above", page.removed.length && "in the list of removed units", Object.keys(page.agreements).length && "among the dots below"];
  return found.filter(Boolean).join(", or ");
}

function closely(chosen) {
  const { layer, group, unit } = chosen;
  if (layer === 0) return [note(inputWords(unit))];
  const name = layer > 0 ? layers[layer].name : page.groups[group].name;
  const facts = make("div", {}, make("p", {}, make("strong", {}, `Unit ${unit} of ${name}`)), make("p", { class: "history" }, history(chosen)));
  const plot = make("div", { id: "surface" });
  const parts = [facts, plot];
  if (layer > 0) parts.unshift(pictured(chosen, facts));
  requestAnimationFrame(() => surface(plot, chosen));
  return [make("div", { class: layer > 0 ? "unit" : "unit plain" }, ...parts)];
}

function inputWords(unit) {
  const network = networkAt(state.step);
  const heard = network.strength[0];
  const size = layers[0].size;
  const listeners = Array.from({ length: heard.length / size }, (_, row) => heard[row * size + unit]).filter(Boolean).length;
  return `${page.input.features[unit] ?? `Input ${unit}`} is ${network.alive[0][unit] ? `read by ${listeners} units` : "not read by any unit"}.`;
}

// Return the picture of a unit that is drawn, and add to `facts` what it shows and what reads it.
function pictured({ layer, unit }, facts) {
  const network = networkAt(state.step);
  const shown = networkAt(network.alive[layer][unit] ? state.step : 0); // a dead unit as it was at the start
  const canvas = make("canvas", { class: "big", role: "img" });
  const result = state.input && layers[layer].channels ? forward(shown, state.input) : null;
  const what = portrait(canvas, shown, layer, unit, result);
  canvas.setAttribute("aria-label", what);
  facts.append(note(`Picture: ${what}.`), speaksTo(shown, layer, unit));
  return canvas;
}

function history({ layer, group, unit }) {
  const row = page.removed.find((each) => each.group === group && each.unit === unit);
  const read = layer > 0 ? networkAt(state.step).alive[layer][unit] : !isDead(page.groups[group], unit, state.step);
  if (!row && page.isRun && read) return page.live ? "It has not been removed." : "It was not removed.";
  if (!row) return read ? "" : "No unit reads it.";
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

function surface(box, { group, unit }) {
  const held = page.surfaces[group];
  if (!held) return box.replaceChildren();
  const grid = held.grid;
  const curves = unpack(held.curves);
  if ((unit + 1) * grid.length > curves.length) return box.replaceChildren(note("Its error surface was left out, to keep the page small."));
  const curve = [...curves.subarray(unit * grid.length, (unit + 1) * grid.length)];
  const slope = unpack(held.slopes)[unit];
  const bend = held.curvatures ? unpack(held.curvatures)[unit] : null;
  const draw = (width) => {
    const count = far ? grid.length : grid.filter((gain) => gain <= 2.5).length;
    const x = grid.slice(0, count);
    const values = curve.slice(0, count).map((loss) => loss - page.baseline); // other samples have other losses
    const tangent = x.map((gain) => slope * (gain - 1));
    const parabola = bend === null ? [] : [{ values: x.map((gain, i) => tangent[i] + (bend / 2) * (gain - 1) ** 2), look: "orange thin" }];
    const [low, high] = limits(values);
    const room = (high - low) * 0.35;
    const label = `Rise in loss if the unit's output is multiplied: ${brief(values[0])} without it, 0 unchanged`;
    const svg = chart({ x, width, height: 220, title: "rise in loss by the unit's gain", xLabel: "gain: 0 removed, 1 unchanged", label, here: 1, range: [low - room, high + room], series: [{ values: tangent, look: "ink thin dots" }, ...parabola, { values, look: "blue" }] });
    const button = make("button", { type: "button" }, far ? "gains up to 2.5" : "gains up to 10");
    button.addEventListener("click", () => {
      far = !far;
      draw(width);
    });
    const words = `Removing it alone changes the loss by ${signed(values[0])}; the first-order estimate (dotted) is ${signed(-slope)}${bend === null ? "" : `, the second-order one (thin line) ${signed(-slope + bend / 2)}`}. Measured on ${page.scoredOn}${page.isRun ? ", with the untouched network" : ""}.`;
    box.replaceChildren(svg, note(words), button);
  };
  draw(Math.max(box.clientWidth, 240));
}
