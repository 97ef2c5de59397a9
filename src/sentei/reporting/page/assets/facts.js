// The section on the run: sizes before and after, sentences, and settings.

import { byId, make } from "./dom.js";
import { page } from "./page-data.js";
import { count, decimal, percent, points } from "./words.js";

const WORDS = { count, time: (value) => decimal(value, value < 100 ? 1 : 0), part: percent, loss: (value) => decimal(value, 4), metric: (value) => decimal(value, 4) };

export function startFacts() {
  byId("title").textContent = page.title;
  const [first, ...others] = page.lead;
  byId("lead").append(make("p", { class: "lead" }, first), make("p", { class: "note" }, others.join(" ")));
  if (!page.isRun) {
    byId("facts-head").textContent = "Sizes and times";
    byId("network-head").textContent = "The network";
    byId("why-head").textContent = "What criteria say";
  }
  if (page.unrunnable) {
    byId("unrunnable").hidden = false;
    byId("unrunnable").textContent = page.unrunnable;
  }
  const parts = [sizeTable()];
  for (const sentence of page.sentences) parts.push(make("p", { class: "note" }, sentence));
  const list = make("dl", { class: "facts" });
  for (const [name, value] of page.run) list.append(make("dt", {}, name), make("dd", {}, value));
  parts.push(list);
  if (page.notes.length) parts.push(make("h3", {}, "What is not on this page"), ...page.notes.map((note) => make("p", { class: "note" }, note)));
  byId("run").append(...parts);
}

function sizeTable() {
  const names = page.isRun ? ["of the network", "before", "after", "after / before"] : ["of the network", "measured"];
  const head = make("tr", {}, ...names.map((name, at) => make("th", { scope: "col", class: at ? "number" : "" }, name)));
  const body = make("tbody");
  for (const [name, before, after, kind] of page.sizes) {
    const words = WORDS[kind];
    const change = kind === "part" ? points(after - before) : before && kind !== "loss" && kind !== "metric" ? percent(after / before, 1) : "";
    const cells = page.isRun ? [words(before), words(after), change] : [words(after)];
    body.append(make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", { class: "number" }, cell))));
  }
  return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Sizes" }, make("table", {}, make("thead", {}, head), body));
}
