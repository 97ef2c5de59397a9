// The section on the cost of pruning: accuracy or R², loss and sizes by step, and accuracy by class.

import { unpack } from "./decoding.js";
import { byId, fitted, make } from "./dom.js";
import { chart, scale } from "./lines.js";
import { className, lastStep, page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { brief, bytes, count, percent } from "./words.js";

const SHOWN = 60; // classes shown at most
const BESIDE = 12; // classes that fit beside the charts

export function startCost() {
  if (!page.isRun) return;
  byId("cost").hidden = false;
  const redraw = fitted(byId("tradeoff"), tradeoff);
  follow(["step"], redraw);
  follow(["step"], sizeBars);
  sizeBars();
  if (page.byClass) {
    byId("classes-head").hidden = false;
    if (page.byClass.total.length > BESIDE) byId("gains").before(byId("classes-head"), byId("classes"));
    const right = unpack(page.byClass.right);
    const draw = () => byClass(right);
    follow(["step"], draw);
    draw();
  }
  byId("gains").textContent = gains();
}

function tradeoff(width) {
  const { accuracy, loss, metrics } = page.steps;
  const [x, xLabel] = axis();
  const shared = { x, xLabel, width, here: x[state.step], reverse: true, onPick: (step) => choose({ step }) };
  const on = page.measuredOn ? ` on ${page.measuredOn}` : "";
  const charts = [];
  if (accuracy[0] !== null) {
    const title = `accuracy${on} (%)`;
    const values = accuracy.map((value) => 100 * value);
    const label = `Accuracy from ${percent(accuracy[0])} to ${percent(accuracy[lastStep])} over ${lastStep} steps`;
    charts.push(chart({ ...shared, title, label, height: 240, series: [{ values, look: "blue" }] }));
  }
  for (const [title, values] of metrics) {
    if (values.includes(null)) continue; // not measured at every step
    const label = `${title} from ${brief(values[0])} to ${brief(values[lastStep])} over ${lastStep} steps`;
    charts.push(chart({ ...shared, title, label, height: 170, series: [{ values, look: "blue" }] }));
  }
  const label = `Loss from ${brief(loss[0])} to ${brief(loss[lastStep])} over ${lastStep} steps`;
  charts.push(chart({ ...shared, title: `loss${on}`, label, height: 170, series: [{ values: loss, look: "ink thin" }] }));
  const box = byId("tradeoff");
  const focused = [...box.children].indexOf(document.activeElement);
  box.replaceChildren(...charts);
  charts[focused]?.focus();
}

// The horizontal axis of the charts: units left, or synapses left if they can be removed.
function axis() {
  const { units, synapses } = page.steps;
  if (units[0] !== units[lastStep] && !page.groups.some((group) => group.kind === "synapse")) return [units, "units left"];
  if (synapses[0] !== synapses[lastStep]) return [synapses, "synapses left"];
  return [units, "units left"];
}

function sizeBars() {
  const rows = [
    ["units", page.steps.units, count],
    ["synapses", page.steps.synapses, count],
    ["parameters", page.steps.parameters, count],
    ["file", page.steps.bytes, bytes],
  ];
  const box = make("div", { class: "bars" });
  for (const [name, values, words] of rows) {
    if (!values[0]) continue; // no units: only synapses can be removed
    const part = values[state.step] / values[0];
    box.append(...bar(name, part, `${words(values[state.step])} · ${percent(part, 0)}`));
  }
  byId("sizes").replaceChildren(box);
}

function byClass(right) {
  const totals = page.byClass.total;
  const at = (step, number) => right[step * totals.length + number] / (totals[number] || 1);
  const box = make("div", { class: totals.length > BESIDE ? "bars many" : "bars" });
  const shown = totals.slice(0, SHOWN).flatMap((total, number) => (total ? [number] : []));
  const low = lowest(right, totals, shown);
  const place = scale([low, 1], [0, 100]);
  for (const number of shown) {
    const [now, start] = [at(state.step, number), at(0, number)];
    const change = 100 * (now - start);
    const words = Math.abs(change) < 0.05 ? "" : ` (${change > 0 ? "+" : "−"}${Math.abs(change).toFixed(1)})`;
    box.append(...moved(className(number), place(start), place(now), `${percent(now, 1)}${words}`));
  }
  const left = totals.length - SHOWN;
  const parts = [box, make("p", { class: "note" }, `The scale goes from ${percent(low, 0)} to 100%. The mark is the untouched network, the dot this step, both on ${page.measuredOn || "the same samples"}.`)];
  if (left > 0) parts.push(make("p", { class: "note" }, `${count(left)} more classes are not shown.`));
  byId("classes").replaceChildren(...parts);
}

// The accuracy at which the scale of classes starts: below the lowest one at any step, a whole 10 %.
function lowest(right, totals, shown) {
  const parts = page.steps.loss.flatMap((_, step) => shown.map((number) => right[step * totals.length + number] / totals[number]));
  return Math.max(Math.floor(10 * Math.min(...parts) - 1e-9) / 10, 0);
}

function bar(name, part, words) {
  const filled = make("i");
  filled.style.width = `${Math.min(100 * part, 100)}%`;
  return row(name, words, filled);
}

// A value that moved from one place of a scale to another, both in per cent.
function moved(name, from, to, words) {
  const line = make("i", { class: to < from ? "way minus" : "way" });
  Object.assign(line.style, { left: `${Math.min(from, to)}%`, width: `${Math.abs(to - from)}%` });
  const mark = make("b");
  mark.style.left = `calc(${from}% - 1px)`;
  const dot = make("s", { class: to < from ? "minus" : "" });
  dot.style.left = `calc(${to}% - .33rem)`;
  return row(name, words, line, mark, dot);
}

function row(name, words, ...marks) {
  const track = make("div", { class: "track", "aria-hidden": "true" }, ...marks);
  return [make("span", { class: "name", title: name }, name), track, make("span", { class: "value" }, words)];
}

// Name the classes whose loss would fall most if one removed unit were restored.
function gains() {
  if (!page.gains.length) return "";
  const top = [...page.gains].sort((a, b) => b.fall - a.fall).slice(0, 3);
  const parts = top.map(({ class: number, unit, group, fall, loss }) => `${className(number)} from unit ${unit} of ${page.groups[group].name} (its loss would fall from ${brief(loss)} to ${brief(loss - fall)})`);
  return `If one removed unit were restored in the last network, these classes would gain most, measured on ${page.scoredOn}: ${parts.join("; ")}.`;
}
