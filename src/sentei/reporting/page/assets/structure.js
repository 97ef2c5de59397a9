// Layer by layer: how many units of each group are left, what they cost, and which layers they tie.

import { onTheme } from "./colours.js";
import { unpack } from "./decoding.js";
import { byId, make, shape } from "./dom.js";
import { isDead, page } from "./page-data.js";
import { drawAmounts } from "./pictures.js";
import { follow, state } from "./state.js";
import { column, count, percent, plural } from "./words.js";

const ROLES = [["computed", "computed by"], ["passed", "passed on by"], ["read", "read by"]];
const [LONG, HIGH] = [340, 22]; // of the drawing of one group's layers
const NAMED = 6; // layers of a role that are named without a click

export function startStructure() {
  const plan = page.structure;
  if (!plan || (plan.rows.length < 2 && page.network)) return;
  byId("layers").hidden = false;
  const means = new Map(plan.rows.map((row) => [row, meanScore(row)]));
  const known = [...means.values()].filter((mean) => mean !== null);
  const words = column(known);
  const most = Math.max(...plan.rows.map((row) => row.parameters)) || 1;
  const reach = Math.max(...known.map(Math.abs)) || 1;
  const lines = plan.rows.map((row) => {
    const left = make("i");
    const told = make("span", { class: "told" });
    const mean = means.get(row);
    const cells = [
      make("th", { scope: "row" }, make("button", { type: "button", onclick: () => about(row) }, page.groups[row.group].name)),
      make("td", { class: "bar" }, make("div", { class: "track units", "aria-hidden": "true" }, left), told),
      make("td", { class: "bar" }, amount(row.parameters / most), make("span", { class: "told" }, `${count(row.parameters)} (${percent(row.parameters / (plan.parameters || 1), 1)})`)),
      known.length ? make("td", { class: "bar" }, mean === null ? "–" : amount(Math.abs(mean) / reach, mean < 0), mean === null ? null : make("span", { class: "told" }, words(mean))) : null,
      make("td", { class: "rail" }, rail(row, plan.layers)),
    ];
    return { row, left, told, element: make("tr", {}, ...cells) };
  });
  const heads = ["layer", page.isRun ? "units left" : "units", "parameters", ...(known.length ? [`mean score${page.criterion && page.isRun ? ` (${page.criterion})` : ""}`] : []), "layers that its units tie"];
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
  const table = make("table", { class: "layers" }, make("thead", {}, head), make("tbody", {}, ...lines.map(({ element }) => element)));
  byId("structure").append(intro(known.length), key(), make("div", { class: "scroll wide-table", tabindex: 0, role: "region", "aria-label": "Layers" }, table), make("p", { id: "tied", class: "note", role: "status" }, "Choose a layer to read which layers its units tie."));
  const show = () => lines.forEach((line) => fillLine(line));
  const about = (row) => {
    byId("tied").textContent = described(row, plan.layers);
    lines.forEach((line) => line.element.classList.toggle("chosen", line.row === row));
  };
  follow(["step"], show);
  show();
  attention(plan);
}

function intro(scored) {
  const run = page.isRun ? `The blue part of a bar is what is left at this step.` : "";
  const cost = "The parameters are those that go if a layer alone keeps as few units as it can; a weight between two layers counts for both.";
  const score = scored && page.isRun ? " The score is the mean over a layer's units in the first step, by the run's own criterion: a high one means that the layer is sensitive." : scored ? " The score is the mean rise in loss if one unit is removed, by exact ablation." : "";
  return make("p", { class: "note" }, `${run} ${cost}${score}`.trim());
}

function key() {
  const words = "A unit is removed from all layers of its line at once. On the right, the network runs from left to right; a full dot computes the units, a bar passes them on (a norm), an open dot reads them.";
  return make("p", { class: "note" }, words);
}

function fillLine({ row, left, told }) {
  const group = page.groups[row.group];
  let alive = 0;
  for (let unit = 0; unit < group.size; unit++) alive += isDead(group, unit, state.step) ? 0 : 1;
  left.style.width = `${(100 * alive) / group.size}%`;
  told.textContent = page.isRun ? `${count(alive)} of ${count(group.size)}` : count(group.size);
}

function amount(part, minus = false) {
  const filled = make("i", { class: minus ? "minus" : "" });
  filled.style.width = `${100 * part}%`;
  return make("div", { class: "track", "aria-hidden": "true" }, filled);
}

function meanScore(row) {
  const exact = page.agreements[row.group]?.exact;
  const scores = page.isRun ? row.scores : exact;
  if (!scores) return null;
  const values = unpack(scores);
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// The layers of a group as marks on a line: what computes its units, passes them on, and reads them.
function rail(row, layers) {
  const across = (at) => 6 + (at * (LONG - 12)) / Math.max(layers.length - 1, 1);
  const all = ROLES.flatMap(([role]) => row[role]);
  const svg = shape("svg", { width: LONG, height: HIGH, viewBox: `0 0 ${LONG} ${HIGH}`, role: "img", "aria-label": described(row, layers) });
  if (!all.length) return svg;
  const [y, high] = [HIGH / 2, 5];
  svg.append(shape("line", { class: "axis", x1: across(0), x2: across(layers.length - 1), y1: y, y2: y }));
  svg.append(shape("line", { class: "line blue", x1: across(Math.min(...all)), x2: across(Math.max(...all)), y1: y, y2: y }));
  for (const at of row.passed) svg.append(titled(shape("line", { class: "line blue", x1: across(at), x2: across(at), y1: y - high, y2: y + high }), layers[at]));
  for (const at of row.read) svg.append(titled(shape("circle", { class: "reads", cx: across(at), cy: y, r: 4 }), layers[at]));
  for (const at of row.computed) svg.append(titled(shape("circle", { class: "fill-blue", cx: across(at), cy: y, r: row.read.includes(at) ? 2 : 4 }), layers[at]));
  return svg;
}

function titled(element, name) {
  element.append(shape("title", {}, name || "the network itself"));
  return element;
}

function described(row, layers) {
  const group = page.groups[row.group];
  const parts = ROLES.filter(([role]) => row[role].length).map(([role, words]) => `${words} ${named(row[role].map((at) => layers[at] || "the network itself"))}`);
  return `${group.name}, ${plural(group.size, group.kind)}${parts.length ? `: ${parts.join("; ")}` : ""}.`;
}

function named(names) {
  const more = names.length - NAMED;
  return more > 0 ? `${names.slice(0, NAMED).join(", ")} and ${plural(more, "more layer")}` : names.join(", ");
}

// A small picture of the attention weights of each head, faint if the head was removed.
function attention(plan) {
  const entries = Object.entries(plan.attention);
  if (!entries.length) return;
  const box = byId("attention");
  box.hidden = false;
  box.append(make("h3", {}, "Attention heads"), make("p", { class: "note" }, `Where each head${page.isRun ? " of the untouched network" : ""} looks: row by row the position that asks, across the position that is looked at, darker for more. A mean over 16 samples; large pictures are reduced.${page.isRun ? " Faint heads were removed." : ""}`));
  const drawn = entries.flatMap(([position, held]) => {
    const group = page.groups[position];
    const maps = unpack(held);
    const [heads, rows, columns] = held.n;
    const line = make("div", { class: "heads" }, make("span", { class: "name" }, group.name));
    box.append(line);
    return Array.from({ length: heads }, (_, head) => {
      const canvas = make("canvas", { role: "img" });
      line.append(canvas);
      return { canvas, group, head, rows, columns, values: maps.subarray(head * rows * columns, (head + 1) * rows * columns) };
    });
  });
  const paint = () => drawn.forEach(({ canvas, values, rows, columns }) => drawAmounts(canvas, values, rows, columns, "ink", 255));
  const show = () =>
    drawn.forEach(({ canvas, group, head }) => {
      const gone = isDead(group, head, state.step);
      canvas.classList.toggle("dead", gone);
      canvas.setAttribute("aria-label", `head ${head} of ${group.name}${gone ? ", removed" : ""}`);
      canvas.title = canvas.getAttribute("aria-label");
    });
  paint();
  show();
  onTheme(paint);
  follow(["step"], show);
}
