// The drawing of the network: inputs, units with pictures of their weights, outputs, and synapses.

import { arrow, byId, fitted, make } from "./dom.js";
import { onTheme } from "./colours.js";
import { layout } from "./layout.js";
import { forward, layers, networkAt, ofLayer, runnable } from "./network.js";
import { outputNode, showAnswer } from "./outputs.js";
import { counted, energy, pathsTo } from "./paths.js";
import { drawAmounts, drawWeights, largest } from "./pictures.js";
import { className, page } from "./page-data.js";
import { choose, follow, state } from "./state.js";
import { drawSynapses, strongest } from "./synapses.js";
import { portrait } from "./portraits.js";
import { count, plural, signed } from "./words.js";

let nodes = []; // for each layer, a Map from unit to button
let places = null;
const portraits = new Map();

export function startGraph() {
  if (!runnable) return;
  const box = byId("graph");
  box.hidden = false;
  byId("controls").hidden = false;
  controls();
  const redraw = fitted(box, (width) => build(box, width));
  follow(["step"], () => redraw());
  follow(["class", "unit", "mode", "cap", "input"], () => refresh(box));
  onTheme(() => {
    portraits.clear();
    redraw();
  });
  box.addEventListener("keydown", walk);
}

function controls() {
  const cap = make("input", { type: "range", min: 1, max: 100, value: 45, id: "cap" });
  const said = make("output", { for: "cap", id: "cap-said" });
  const change = () => choose({ cap: Math.round(10 ** (1 + (cap.value / 100) * 4)) });
  cap.addEventListener("input", change);
  const modes = make("fieldset", {}, make("legend", { class: "hidden-text" }, "What lines show"));
  for (const [mode, words] of [["weights", "Weights"], ["sent", "What this input sends"]]) {
    const button = make("button", { type: "button", "data-mode": mode, onclick: () => choose({ mode }) }, words);
    modes.append(button);
  }
  const classes = make("select", { id: "class", onchange: (event) => choose({ class: event.target.value === "" ? null : Number(event.target.value) }) });
  classes.append(make("option", { value: "" }, "all"));
  const outputs = layers[layers.length - 1].size;
  for (let unit = 0; unit < outputs; unit++) classes.append(make("option", { value: unit }, className(unit)));
  byId("controls").append(
    make("label", {}, "Paths to", classes),
    modes,
    make("label", {}, "Synapses", cap, said),
    make("span", { class: "key" }, "raises"),
    make("span", { class: "key minus" }, "lowers"),
  );
  change();
}

function build(box, width) {
  const network = networkAt(state.step);
  const focus = document.activeElement?.dataset?.node;
  places = layout(width, networkAt(0));
  box.replaceChildren();
  box.style.height = `${places.height}px`;
  box.append(make("canvas", { id: "synapses", role: "img" }));
  layers.forEach((layer, at) => box.append(caption(network, layer, at)));
  nodes = layers.map((layer, at) => laid(box, network, layer, at));
  refresh(box);
  if (focus) box.querySelector(`[data-node="${focus}"]`)?.focus();
}

// A caption above a layer with its number of alive units, no wider than its part of the drawing.
function caption(network, layer, at) {
  const { x, width, shown } = places.layers[at];
  const alive = count(network.alive[at].reduce((a, b) => a + b, 0));
  const size = count(layer.size);
  const room = layer.isOutput ? width : at === 0 ? width : places.slot - 8;
  const tight = room < 90;
  const more = shown && shown.length < layer.size ? `, ${count(shown.length)} drawn` : "";
  const told = at === 0 ? (layer.size === 1 ? "the input" : `${alive} of ${size} inputs`) : `${layer.name}: ${alive} of ${size}${more}`;
  const short = layer.size === 1 ? told : `${alive}/${size}`;
  const words = layer.isOutput ? `outputs${more}` : tight ? short : told;
  const found = make("span", { class: "caption", title: told }, words);
  const centre = x + width / 2;
  const left = layer.isOutput || at === 0 ? x : centre - room / 2;
  Object.assign(found.style, { left: `${left}px`, width: `${room}px`, top: "8px", textAlign: layer.isOutput || at === 0 ? "left" : "center" });
  return found;
}

function laid(box, network, layer, at) {
  const found = new Map();
  const { shown, place } = places.layers[at];
  if (!shown) {
    const map = make("canvas", { id: "inputs", role: "img", class: "node" });
    const { x, y, width, height } = places.layers[0];
    Object.assign(map.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    box.append(map);
    return found;
  }
  for (const unit of shown) {
    const button = layer.isOutput ? outputNode(unit) : hiddenNode(network, layer, at, unit, place(unit));
    const spot = place(unit);
    button.dataset.node = `${at}:${unit}`;
    const wide = spot.left !== undefined;
    Object.assign(button.style, {
      left: `${wide ? spot.left : spot.x - spot.size / 2}px`,
      top: `${spot.y - spot.size / 2}px`,
      width: `${wide ? spot.width : spot.size}px`,
      height: `${spot.size}px`,
    });
    box.append(button);
    found.set(unit, button);
  }
  return found;
}

function hiddenNode(network, layer, at, unit, spot) {
  const alive = network.alive[at][unit];
  const name = at === 0 ? page.input.features[unit] ?? `input ${unit}` : `${layer.name} unit ${unit}`;
  const button = make("button", {
    type: "button",
    class: alive ? "node" : "node dead",
    tabindex: -1,
    title: name,
    "aria-label": `${name}, ${alive ? "alive" : "removed"}`,
    onclick: () => choose({ unit: ofLayer(at, unit) }),
  });
  if (spot.left !== undefined) {
    button.classList.add("label");
    button.append(name);
  } else if (spot.size >= 7) {
    button.append(kept(alive ? network : networkAt(0), at, unit)); // dead units as they were at the start
  }
  return button;
}

// Return the picture of a unit's weights; steps that share weights share the picture.
function kept(network, at, unit) {
  const changing = page.groups.some((group) => group.kind === "synapse" || group.kind === "input");
  const key = [changing ? `s${network.step}` : page.network.frameOf[network.step], at, unit].join();
  if (layers[at].channels || !portraits.has(key)) {
    const picture = make("canvas", { "aria-hidden": "true" });
    portrait(picture, network, at, unit, null);
    portraits.set(key, picture);
  }
  return portraits.get(key);
}

function refresh(box) {
  if (!places) return;
  const network = networkAt(state.step);
  const result = state.input ? forward(network, state.input) : null;
  const paths = state.class === null ? null : pathsTo(network, state.class);
  const mode = state.input ? state.mode : "weights";
  for (const button of byId("controls").querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-pressed", button.dataset.mode === mode);
    button.disabled = button.dataset.mode === "sent" && !state.input;
  }
  const { drawn, total } = strongest(network, { cap: state.cap, mode, result, paths, target: state.class, places: places.layers });
  byId("cap-said").value = drawn.length < total ? `${count(drawn.length)} strongest of ${count(total)}` : `all ${count(total)}`;
  byId("class").value = state.class ?? "";
  lines(box, drawn, total);
  drawInputs(network, paths);
  layers.forEach((layer, at) => markUnits(network, layer, at, result, paths));
  showAnswer(network, result, nodes[nodes.length - 1]);
  byId("paths").textContent = paths ? aboutPaths(network, paths) : aboutNetwork(network);
  tabStop(box);
}

function lines(box, drawn, total) {
  const canvas = byId("synapses");
  const sharp = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: places.width * sharp, height: places.height * sharp });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  drawSynapses(context, drawn, places.layers);
  canvas.setAttribute("aria-label", `${plural(drawn.length, "synapse")} of ${count(total)} drawn as lines`);
  box.dataset.drawn = drawn.length;
}

// Draw the input picture: how much each pixel is used, its paths to the chosen class, or the input.
function drawInputs(network, paths) {
  const map = byId("inputs");
  if (!map) return;
  const [channels, rows, columns] = page.input.picture;
  if (layers[0].size !== rows * columns * channels) {
    const shown = state.input ?? new Float32Array(rows * columns);
    drawAmounts(map, shown, rows, columns);
    map.setAttribute("aria-label", state.input ? "the input" : "no input yet");
    return;
  }
  if (paths) {
    drawWeights(map, overChannels(paths.strength[0], channels), rows, columns);
    map.setAttribute("aria-label", `pixels by the strength of their paths to ${className(state.class)}`);
    return;
  }
  if (state.input && state.mode === "sent" && channels === 1) {
    drawAmounts(map, state.input.map((value, pixel) => (network.alive[0][pixel] ? value : value / 4)), rows, columns);
    map.setAttribute("aria-label", "the input; pixels that no unit reads are faint");
    return;
  }
  const used = overChannels(energy(network), channels);
  drawAmounts(map, used.map((value) => (value > 0 ? 0.12 * largest(used) + value : 0)), rows, columns, "blue");
  const alive = network.alive[0].reduce((a, b) => a + b, 0);
  map.setAttribute("aria-label", `${alive} of ${layers[0].size} pixels are read; brighter ones matter more`);
}

function overChannels(values, channels) {
  if (channels === 1) return values;
  const each = values.length / channels;
  return Float32Array.from({ length: each }, (_, i) => values[i] + values[i + each] + values[i + 2 * each]);
}

function markUnits(network, layer, at, result, paths) {
  const reach = result ? largest(result.amounts[at]) : 1;
  for (const [unit, button] of nodes[at]) {
    const lit = !paths || (layer.isOutput ? unit === state.class : paths.reaches[at][unit]);
    button.classList.toggle("dim", !lit && Boolean(network.alive[at][unit]));
    if (layer.isOutput) {
      button.setAttribute("aria-pressed", state.class === unit);
      continue;
    }
    button.setAttribute("aria-pressed", state.unit?.layer === at && state.unit?.unit === unit);
    const fire = result && network.alive[at][unit] ? Math.abs(result.amounts[at][unit]) / reach : 0;
    button.classList.toggle("fired", fire > 0.05);
    button.style.setProperty("--fire", fire.toFixed(3));
    const picture = button.querySelector("canvas");
    if (picture && layer.channels && result?.maps[at]) portrait(picture, network, at, unit, result);
  }
}

function aboutPaths(network, paths) {
  const reached = counted(network, paths);
  const parts = layers.slice(0, -1).map((layer, at) => {
    const what = at === 0 ? "inputs" : layer.name;
    return `${count(reached[at])} of ${count(layer.size)} ${at === 0 ? what : `units of ${what}`}`;
  });
  const last = layers.length - 2;
  const strongestUnits = [...paths.strength[last].entries()]
    .filter(([unit]) => network.alive[last][unit])
    .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))
    .slice(0, 4)
    .map(([unit, value]) => `${unit} (${signed(value)})`);
  return `${className(state.class)} is reached from ${parts.join(" and ")}. Its strongest inputs: unit ${strongestUnits.join(", ")}. The strength of a path is the product of its weights, with activation functions taken as linear (our own definition).`;
}

function aboutNetwork(network) {
  const faint = layers.some((_, at) => network.alive[at].includes(0));
  const gone = !faint ? "" : page.isRun ? " Faint units were removed." : " No unit reads the faint ones.";
  const small = `Each small picture shows what a unit reads, in the two colours of the key: what raises its output and what lowers it.${gone} Choose a unit for details, or an output to see the paths that reach it.`;
  return network.exact ? small : `${small} The page does not store the weights of this step; it shows those of the nearest stored step before it.`;
}

// Make one unit of the drawing reachable by the Tab key; arrow keys move on from there.
function tabStop(box) {
  const wanted = state.unit && nodes[state.unit.layer]?.get(state.unit.unit);
  const first = nodes.slice(0, -1).flatMap((map) => [...map.values()])[0];
  for (const each of box.querySelectorAll('.node[tabindex="0"]')) each.tabIndex = -1;
  const stop = wanted ?? first;
  if (stop) stop.tabIndex = 0;
}

function walk(event) {
  const step = arrow(event);
  const [layer] = (event.target.dataset?.node ?? "").split(":").map(Number);
  if (!step || Number.isNaN(layer) || !nodes[layer]) return;
  const row = [...nodes[layer].values()];
  const next = row[row.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.tabIndex = 0;
  next.focus();
}
