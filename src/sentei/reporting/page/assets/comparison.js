// The page of a comparison: the curve of each way to prune, which the reader switches on and off.

import { byId, fitted, make, shape } from "./dom.js";
import { limits, scale, ticks } from "./lines.js";
import { brief, count, decimal, percent, plural, signed } from "./words.js";

const data = JSON.parse(byId("data").textContent);
const SHOWN = 5; // curves that are drawn at first
const LOOKS = 8; // colours; ways after these have dashes
const words = (value) => (data.percent ? percent(value) : decimal(value, 4));
const shown = new Set(data.ways.slice(0, SHOWN));

byId("title").textContent = data.title;
byId("lead").textContent = data.ways.length
  ? `Copies of the network lost their units step by step. Over all sizes, ${data.ways[0].name} kept the most ${data.metric}: ${words(data.ways[0].area)} on average, measured on ${data.samples}.`
  : "No way could prune this network.";
byId("about").textContent = `The area is that under the curve: the mean ${data.metric} over all sizes. Values are means over ${plural(data.seeds, "seed")}. Agreement is the rank correlation of the first scores with exact ablation.`;
const draw = fitted(byId("curves"), drawCurves);
byId("ways").append(table());
byId("wrong").append(...mistakes());
requestAnimationFrame(() => requestAnimationFrame(() => (document.documentElement.dataset.ready = "yes")));

function look(way) {
  const at = data.ways.indexOf(way);
  return `way-${at % LOOKS}${at >= LOOKS ? " dash" : ""}`;
}

function drawCurves(width) {
  const height = Math.min(420, Math.max(260, width * 0.45));
  const box = { left: 52, right: width - 14, top: 24, bottom: height - 36 };
  const some = data.ways.filter((way) => shown.has(way));
  const drawn = some.length ? some : data.ways;
  const left = drawn.flatMap((way) => way.left);
  const across = scale([Math.max(...left), Math.min(...left)], [box.left, box.right]);
  const times = data.percent ? 100 : 1;
  const [low, high] = limits(drawn.flatMap((way) => way.values.map((value) => times * value)));
  const up = scale([low, high], [box.bottom, box.top]);
  const label = `${data.metric} against units left, for ${plural(some.length, "way")}: ${some.map((way) => `${way.name} ${words(way.half)} at half`).join("; ")}`;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  svg.append(shape("text", { x: box.left, y: 13, class: "strong" }, `${data.metric}${data.percent ? " (%)" : ""} on ${data.samples}`));
  for (const tick of ticks(low, high, 5)) {
    svg.append(shape("line", { class: "grid", x1: box.left, x2: box.right, y1: up(tick), y2: up(tick) }));
    svg.append(shape("text", { x: box.left - 6, y: up(tick) + 4, "text-anchor": "end" }, brief(tick)));
  }
  for (const tick of ticks(Math.min(...left), Math.max(...left), Math.max(Math.floor(width / 90), 2))) {
    svg.append(shape("text", { x: across(tick), y: box.bottom + 15, "text-anchor": "middle" }, brief(tick)));
  }
  svg.append(shape("text", { x: box.right, y: height - 4, "text-anchor": "end" }, "units left"));
  for (const way of [...some].reverse()) {
    const points = way.left.map((at, i) => `${across(at).toFixed(1)},${up(times * way.values[i]).toFixed(1)}`).join(" ");
    const line = shape("polyline", { class: `line ${look(way)}`, points });
    line.append(shape("title", {}, way.name));
    svg.append(line);
  }
  byId("curves").replaceChildren(svg);
}

function table() {
  const heads = ["shown", "way", "area", "at half", "agreement"];
  const head = make("tr", {}, ...heads.map((name, at) => make("th", { scope: "col", class: at > 1 ? "number" : "" }, name)));
  const body = make("tbody", {}, ...data.ways.map((way) => make("tr", {}, ...cells(way))));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ways" }, make("table", {}, make("thead", {}, head), body));
}

function cells(way) {
  const box = make("input", { type: "checkbox", checked: shown.has(way), "aria-label": `show ${way.name}` });
  box.addEventListener("change", () => {
    if (box.checked) shown.add(way);
    else shown.delete(way);
    draw();
  });
  const key = shape("svg", { width: 26, height: 10, "aria-hidden": "true" }, shape("line", { class: `line ${look(way)}`, x1: 1, x2: 25, y1: 5, y2: 5 }));
  const spread = data.seeds > 1 ? ` ± ${data.percent ? (100 * way.deviation).toFixed(2) : decimal(way.deviation, 4)}` : "";
  const numbers = [`${words(way.area)}${spread}`, words(way.half), way.agreement === null ? "–" : `${way.agreement < 0 ? "−" : "+"}${Math.abs(way.agreement).toFixed(2)}`];
  return [make("td", {}, make("span", { class: "switch" }, box, key)), make("th", { scope: "row" }, way.name), ...numbers.map((value) => make("td", { class: "number" }, value))];
}

// For each criterion the units that its first scores would remove, beside those of exact ablation.
function mistakes() {
  const seen = new Set();
  const rows = data.ways.filter(({ choice, criterion }) => choice && !seen.has(criterion) && seen.add(criterion));
  if (!rows.length) return [make("p", { class: "note" }, "Nothing was compared with exact ablation.")];
  rows.sort((a, b) => b.choice.common - a.choice.common);
  const { removed, size } = rows[0].choice;
  const intro = `Each criterion scores the ${count(size)} units of the untouched network once, with the samples of the first seed. The table takes the ${count(removed)} units with its lowest scores, the half that it would remove, and asks exact ablation about them.`;
  const heads = ["criterion", "as ablation would", "", "its costliest choice", "rise in loss without it", "its rank by cost"];
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name || make("span", { class: "hidden-text" }, "as a bar"))));
  const body = rows.map(({ criterion, choice }) => {
    const bar = make("i");
    bar.style.width = `${(100 * choice.common) / removed}%`;
    const rank = choice.rank === 1 ? "the costliest of all" : `${count(choice.rank)} of ${count(size)}`;
    return make("tr", {}, make("th", { scope: "row" }, criterion), make("td", { class: "number" }, `${count(choice.common)} of ${count(removed)}`), make("td", { class: "bar" }, make("div", { class: "track", "aria-hidden": "true" }, bar)), make("td", {}, choice.worst), make("td", { class: "number" }, signed(choice.cost)), make("td", {}, rank));
  });
  return [make("p", { class: "note" }, intro), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Choices of each criterion" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)))];
}
