// The outputs of the network for an input, beside those of the untouched network.

import { byId, make } from "./dom.js";
import { forward, networkAt } from "./network.js";
import { softmax } from "./operations.js";
import { className, page } from "./page-data.js";
import { choose, state } from "./state.js";
import { brief, percent } from "./words.js";

export function outputNode(unit) {
  return make(
    "button",
    {
      type: "button",
      class: "output",
      title: className(unit),
      "aria-label": `${className(unit)}: show its paths`,
      onclick: () => choose({ class: state.class === unit ? null : unit }),
    },
    make("span", { class: "name" }, className(unit)),
    make("span", { class: "track", "aria-hidden": "true" }, make("i"), make("b")),
  );
}

const LISTED = 4; // outputs that are values, in a sentence at most

// Run both networks on an input; return their outputs, and the parts of a bar that show them:
// probabilities of classes, or the sizes of values beside the largest.
export function answers(input) {
  const now = forward(networkAt(state.step), input).output;
  const before = page.isRun && page.network.hasStart ? forward(networkAt(0), input).output : null;
  const reach = Math.max(...[...now, ...(before ?? [])].map(Math.abs)) || 1;
  const parts = (output) => (page.predictsClasses ? chances(output) : output.map((value) => Math.abs(value) / reach));
  return { now, before, chances: parts(now), chancesBefore: before && parts(before) };
}

export function showAnswer(network, result, buttons) {
  const line = byId("answer");
  const found = result && state.input ? answers(state.input) : null;
  for (const [unit, button] of buttons) {
    const [bar, mark] = button.querySelectorAll("i, b");
    bar.style.width = found ? `${100 * found.chances[unit]}%` : "0";
    mark.hidden = !found?.before;
    if (found?.before) mark.style.left = `calc(${100 * found.chancesBefore[unit]}% - 1px)`;
    button.classList.toggle("top", Boolean(found) && page.predictsClasses && unit === best(found.chances));
  }
  if (!line) return;
  line.dataset.outputs = found ? JSON.stringify([...found.now]) : "";
  line.dataset.before = found?.before ? JSON.stringify([...found.before]) : "";
  line.replaceChildren(...(found ? sentence(found) : ["Draw something, or choose a sample."]));
}

function sentence({ now, before, chances: parts, chancesBefore }) {
  if (now.length === 1 || !page.predictsClasses) return [`The network outputs ${values(now)}`, before ? `; the untouched one outputs ${values(before)}.` : "."];
  const top = best(parts);
  const said = [page.isRun && state.step > 0 ? "The pruned network predicts " : "The network predicts ", make("strong", {}, className(top)), ` (${percent(parts[top], 1)})`];
  if (!before || state.step === 0) return [...said, "."];
  const then = best(chancesBefore);
  return [...said, then === top ? ", and so does the untouched one" : `; the untouched one predicts ${className(then)}`, ` (${percent(chancesBefore[then], 1)}).`];
}

function values(output) {
  const listed = [...output].slice(0, LISTED).map((value) => brief(value)).join(", ");
  return output.length > LISTED ? `${listed} and ${output.length - LISTED} more` : listed;
}

function best(values) {
  return values.reduce((top, value, at) => (value > values[top] ? at : top), 0);
}

// Convert outputs to probabilities by softmax, unless they already are probabilities.
function chances(output) {
  const sum = output.reduce((a, b) => a + b, 0);
  const parts = output.every((value) => value >= 0) && Math.abs(sum - 1) < 1e-3;
  return parts ? output : softmax(output);
}
