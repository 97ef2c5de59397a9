// Line charts: one or more series of values over a common axis, as wide as the box allows.

import { arrow, shape } from "./dom.js";
import { brief } from "./words.js";

const PAD = { left: 48, right: 14, top: 22, bottom: 34 };

// Draw a chart of `series` [{values, look, name}] over `x`. Options: width, height, label, xLabel,
// yLabel, here (an x to mark), range ([low, high]), reverse, onPick(index).
export function chart({ x, series, width, height = 190, label, title, xLabel, here, range, reverse = false, onPick, format = brief }) {
  const box = { left: PAD.left, right: width - PAD.right, top: PAD.top, bottom: height - PAD.bottom };
  const across = scale(reverse ? [Math.max(...x), Math.min(...x)] : [Math.min(...x), Math.max(...x)], [box.left, box.right]);
  const [low, high] = range ?? limits(series.flatMap((each) => each.values));
  const up = scale([low, high], [box.bottom, box.top]);
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  if (title) svg.append(shape("text", { x: box.left, y: 13, class: "strong" }, title));
  const levels = ticks(low, high, 4);
  const shown = apart(levels, format);
  levels.forEach((tick, i) => {
    svg.append(shape("line", { class: "grid", x1: box.left, x2: box.right, y1: up(tick), y2: up(tick) }));
    svg.append(shape("text", { x: box.left - 6, y: up(tick) + 4, "text-anchor": "end" }, shown[i]));
  });
  for (const tick of ticks(Math.min(...x), Math.max(...x), Math.max(Math.floor(width / 90), 2))) {
    svg.append(shape("text", { x: across(tick), y: box.bottom + 15, "text-anchor": "middle" }, brief(tick)));
  }
  svg.append(shape("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  if (xLabel) svg.append(shape("text", { x: box.right, y: height - 4, "text-anchor": "end" }, xLabel));
  for (const { values, look } of series) {
    const inside = (value) => Math.min(Math.max(up(value), box.top - 14), box.bottom + 14);
    const points = x.map((at, i) => (values[i] === null ? "" : `${across(at).toFixed(1)},${inside(values[i]).toFixed(1)}`));
    svg.append(shape("polyline", { class: `line ${look}`, points: points.filter(Boolean).join(" ") }));
  }
  if (here !== undefined) {
    svg.append(shape("line", { class: "here", x1: across(here), x2: across(here), y1: box.top, y2: box.bottom }));
    for (const { values, look } of series) {
      const value = values[x.indexOf(here)];
      if (value !== undefined && value !== null) svg.append(shape("circle", { cx: across(here), cy: up(value), r: 4, class: `fill-${look.split(" ")[0]}` }));
    }
  }
  if (onPick) pickable(svg, { x, here, across, onPick, width, label, series });
  return svg;
}

// Words for ticks; with all their digits where the format makes two of them alike.
function apart(found, format) {
  const words = found.map(format);
  return new Set(words).size < words.length ? found.map(String) : words;
}

export function limits(values) {
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

// Let the reader pick an index by a click, or by arrow keys as on a slider.
function pickable(svg, { x, here, across, onPick, width, label, series }) {
  const at = x.indexOf(here);
  const told = series.map(({ values }) => brief(values[at])).join(", ");
  slider(svg, { at, last: x.length - 1, label, told: `step ${at}: ${told}` }, onPick);
  svg.classList.add("pick");
  const pick = (event) => {
    const place = ((event.clientX - svg.getBoundingClientRect().left) * width) / svg.getBoundingClientRect().width;
    const apart = x.map((at) => Math.abs(across(at) - place));
    onPick(apart.indexOf(Math.min(...apart)));
  };
  svg.addEventListener("click", pick);
}

// Make a figure a slider for keyboards and screen readers.
export function slider(svg, { at, last, label, told }, onPick) {
  const said = { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": last, "aria-valuenow": at, "aria-valuetext": told };
  for (const [name, value] of Object.entries(said)) svg.setAttribute(name, value);
  svg.addEventListener("keydown", (event) => {
    const ends = { Home: 0, End: last };
    const next = ends[event.key] ?? Number(svg.getAttribute("aria-valuenow")) + arrow(event);
    if (!(event.key in ends || arrow(event)) || next < 0 || next > last) return;
    event.preventDefault();
    onPick(next);
  });
}

export function scale([from, to], [begin, end]) {
  return (value) => begin + ((value - from) / (to - from || 1)) * (end - begin);
}

export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + 1e-12; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}
