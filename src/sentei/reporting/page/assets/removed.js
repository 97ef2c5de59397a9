// The table of removed units, in order of removal.

import { byId, make } from "./dom.js";
import { layers } from "./network.js";
import { page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { column, count, signed } from "./words.js";

const AT_FIRST = 300;
const scoreWords = column(page.removed.map((row) => row.score ?? 0));

export function startRemoved() {
  if (!page.removed.length) return;
  byId("gone").hidden = false;
  const several = new Set(page.removed.map((row) => row.group)).size > 1;
  const repaired = page.removed.some((row) => row.heirs.length);
  const told = repaired || page.removed.some((row) => row.score === null);
  const names = ["step", "unit", ...(several ? ["of"] : []), "score", ...(told ? ["replaced by"] : [])];
  const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col", class: ["step", "unit", "score"].includes(name) ? "number" : "" }, name)));
  const body = make("tbody");
  const rows = [];
  const add = (some) => some.forEach((row) => rows.push({ row, element: line(row, several, told && { repaired }, body) }));
  add(page.removed.slice(0, AT_FIRST));
  const table = make("table", {}, make("thead", {}, head), body);
  const parts = [make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Removed units" }, table)];
  if (page.removed.length > AT_FIRST) {
    const more = make("button", { type: "button" }, `Show all ${count(page.removed.length)}`);
    more.addEventListener("click", () => {
      add(page.removed.slice(AT_FIRST));
      more.remove();
      show();
    });
    parts.push(make("p", {}, more));
  }
  const scored = page.criterion === "ablation" ? "the rise in loss if the unit is removed (exact ablation)" : page.criterion ? `that of the criterion ${page.criterion}` : "that of the run's criterion";
  const words = `The score is ${scored}, measured just before the unit was removed on the samples that the run scored; the lowest scores are removed first.${told ? "" : " No remaining unit replaces them: the weights that read them were set to zero."}`;
  byId("removed").append(make("p", { class: "note" }, words), ...parts);
  const show = () =>
    rows.forEach(({ row, element }) => {
      element.classList.toggle("later", row.step > state.step);
      element.classList.toggle("chosen", isChosen(row));
    });
  follow(["step", "unit"], show);
  show();
}

function line(row, several, told, body) {
  const group = page.groups[row.group];
  const at = layers.findIndex((layer) => layer.operation === group.operation);
  const name = group.kind === "input" ? page.input?.features[row.unit] ?? `input ${row.unit}` : String(row.unit);
  const pick = at >= 0 ? make("button", { type: "button", onclick: () => choose({ unit: { layer: at, unit: row.unit }, step: state.step }) }, name) : name;
  const element = make(
    "tr",
    {},
    make("td", { class: "number" }, String(row.step)),
    make("td", { class: "number" }, pick),
    several ? make("td", {}, group.name) : null,
    make("td", { class: "number" }, row.score === null ? "swept" : scoreWords(row.score)),
    told ? make("td", {}, heirs(row, told.repaired)) : null,
  );
  body.append(element);
  return element;
}

export function heirs(row, repaired) {
  if (row.heirs.length) return row.heirs.map(([unit, part]) => (unit < 0 ? `the biases (${signed(part)})` : `unit ${unit} (${signed(part)})`)).join(", ");
  if (row.score === null) return "no unit: it was swept as unread or constant";
  return repaired ? "no unit" : "no unit: the weights that read it were cut";
}

function isChosen(row) {
  const at = layers[state.unit?.layer];
  return Boolean(at) && page.groups[row.group].operation === at.operation && row.unit === state.unit.unit;
}
