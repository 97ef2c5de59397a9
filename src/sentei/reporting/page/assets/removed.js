// The table of removed units: in order of removal or sorted, all or those that are searched for.

import { byId, make } from "./dom.js";
import { ofGroup } from "./network.js";
import { page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { column, count, signed } from "./words.js";

const AT_FIRST = 300; // rows in the table before the reader asks for all
const scores = page.removed.map((row) => row.score ?? 0);
const scoreWords = column(scores);
const reach = Math.max(...scores.map(Math.abs)) || 1;
const repaired = page.removed.some((row) => row.heirs.length);

// The columns: name, the value that they sort by, and what a cell shows.
const COLUMNS = [
  { name: "step", key: (row) => row.step, cell: (row) => [String(row.step)], number: true },
  { name: "unit", key: (row) => row.unit, cell: (row) => [picker(row)], number: true },
  { name: "of", key: (row) => row.group, cell: (row) => [page.groups[row.group].name], shown: () => new Set(page.removed.map((row) => row.group)).size > 1 },
  { name: "score", key: (row) => row.score ?? Infinity, cell: (row) => [row.score === null ? "swept" : scoreWords(row.score)], number: true },
  { name: "score as a bar", cell: (row) => [scoreBar(row.score ?? 0)], bare: true },
  { name: "replaced by", cell: (row) => [heirs(row, repaired)], shown: () => repaired || page.removed.some((row) => row.score === null) },
];

export function startRemoved() {
  if (!page.removed.length) return;
  byId("gone").hidden = false;
  const columns = COLUMNS.filter(({ shown }) => !shown || shown());
  const view = { by: columns[0], down: false, words: "", all: false };
  const body = make("tbody");
  const said = make("p", { class: "note", role: "status" });
  const more = make("button", { type: "button" }, "Show all rows");
  const fill = () => {
    const found = chosenRows(view);
    const some = view.all ? found : found.slice(0, AT_FIRST);
    body.replaceChildren(...some.map((row) => line(row, columns)));
    more.hidden = some.length === found.length;
    said.textContent = some.length < page.removed.length ? `${count(some.length)} of ${count(page.removed.length)} removed units are listed.` : "";
    matched(body);
  };
  more.addEventListener("click", () => {
    view.all = true;
    fill();
  });
  const table = make("table", {}, make("thead", {}, head(columns, view, fill)), body);
  byId("removed").append(make("p", { class: "note" }, about()), search(view, fill), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Removed units" }, table), said, make("p", {}, more));
  follow(["step", "unit"], () => matched(body));
  fill();
}

function about() {
  const scored = page.criterion === "ablation" ? "the rise in loss if the unit is removed (exact ablation)" : page.criterion ? `that of the criterion ${page.criterion}` : "that of the run's criterion";
  const replaced = COLUMNS.at(-1).shown() ? "" : " No remaining unit replaces them: the weights that read them were set to zero.";
  return `The score is ${scored}, measured just before the unit was removed on the samples that the run scored; the lowest scores are removed first.${replaced}`;
}

function search(view, fill) {
  const field = make("input", { type: "search", id: "find" });
  field.addEventListener("input", () => {
    view.words = field.value.trim().toLowerCase();
    fill();
  });
  return make("p", { class: "controls" }, make("label", {}, "Find a unit or a layer", field));
}

// The row of headings; one with a key sorts the table, and sorts it the other way the next time.
function head(columns, view, fill) {
  const cells = columns.map((each) => {
    const cell = make("th", { scope: "col", class: each.number ? "number" : "" });
    if (each.bare) cell.append(make("span", { class: "hidden-text" }, each.name));
    else if (!each.key) cell.append(each.name);
    else cell.append(make("button", { type: "button", onclick: () => sort(each) }, each.name));
    return cell;
  });
  const show = () => columns.forEach((each, at) => (each === view.by ? cells[at].setAttribute("aria-sort", view.down ? "descending" : "ascending") : cells[at].removeAttribute("aria-sort")));
  const sort = (each) => {
    view.down = each === view.by && !view.down;
    view.by = each;
    show();
    fill();
  };
  show();
  return make("tr", {}, ...cells);
}

function chosenRows({ by, down, words }) {
  const matches = (row) => !words || `${unitName(row)} ${page.groups[row.group].name}`.toLowerCase().split(" ").some((part) => part.startsWith(words)) || page.groups[row.group].name.toLowerCase().includes(words);
  return page.removed.filter(matches).sort((one, other) => (by.key(one) - by.key(other)) * (down ? -1 : 1));
}

function line(row, columns) {
  const element = make("tr", {}, ...columns.map((each) => make("td", { class: each.number ? "number" : each.bare ? "bar" : "" }, ...each.cell(row))));
  element.row = row;
  return element;
}

function unitName(row) {
  return page.groups[row.group].kind === "input" ? page.input?.features[row.unit] ?? `input ${row.unit}` : String(row.unit);
}

function picker(row) {
  return make("button", { type: "button", onclick: () => choose({ unit: ofGroup(row.group, row.unit) }) }, unitName(row));
}

function scoreBar(score) {
  const filled = make("i", { class: score < 0 ? "minus" : "" });
  filled.style.width = `${(100 * Math.abs(score)) / reach}%`;
  return make("div", { class: "track", "aria-hidden": "true" }, filled);
}

function matched(body) {
  for (const element of body.children) {
    element.classList.toggle("later", element.row.step > state.step);
    element.classList.toggle("chosen", element.row.group === state.unit?.group && element.row.unit === state.unit.unit);
  }
}

export function heirs(row, anyRepaired) {
  if (row.heirs.length) return row.heirs.map(([unit, part]) => (unit < 0 ? `the biases (${signed(part)})` : `unit ${unit} (${signed(part)})`)).join(", ");
  if (row.score === null) return "no unit: it was swept as unread or constant";
  return anyRepaired ? "no unit" : "no unit: the weights that read it were cut";
}
