// The network at a step of the run: its layers, alive units, connection strengths and forward pass.

import { unpack } from "./decoding.js";
import { MIXING, run } from "./operations.js";
import { isDead, layerName, page } from "./page-data.js";

const plan = page.network;
const inputShape = page.input?.shape ?? [];
const inputSize = inputShape.reduce((a, b) => a * b, 1);

// Layers of units from the inputs to the outputs, and the links between adjacent layers.
export const { layers, links } = plan ? surveyed() : { layers: [], links: [] };

export const runnable = plan !== null;

const cache = new Map();

// Return the arrays, alive units and connection strengths at a step of the run.
export function networkAt(step) {
  if (!cache.has(step)) {
    if (cache.size > 8) cache.delete([...cache.keys()].find((key) => key !== 0));
    cache.set(step, built(step));
  }
  return cache.get(step);
}

// Run the network on an input. `heard` has the values that the next layer reads, one array for each
// layer; `maps` has the feature maps of layers whose units are channels.
export function forward(network, input) {
  const heard = [];
  const maps = [];
  let layer = 0;
  const begin = { data: input, shape: inputShape };
  if (inputShape.length === 3) maps[0] = begin;
  let last = begin;
  const out = run(plan.operations, network.arrays, input, inputShape, (position, value) => {
    if (MIXING.has(plan.operations[position].kind)) {
      heard[layer] = last.data;
      layer += 1;
      maps[layer] = undefined;
    }
    if (value.shape.length === 3) maps[layer] = value;
    last = value;
  });
  heard[layer] = out.data;
  return { output: out.data, heard, maps, amounts: layers.map((_, at) => amounts(network, at, heard[at])) };
}

// Return what unit `from` of a link adds to unit `to` for an input: exact for dense layers; for
// convolutions, the sum of the kernel times the mean of the channel.
export function sent(network, link, result, to, from) {
  const { w, form } = network.arrays[link.operation];
  const heard = result.heard[link.from];
  if (form.length === 4) {
    const size = form[2] * form[3];
    let sum = 0;
    for (let i = 0; i < size; i++) sum += w[(to * form[1] + from) * size + i];
    return sum * result.amounts[link.from][from];
  }
  let sum = 0;
  for (let i = 0; i < link.each; i++) {
    const column = from * link.each + i;
    sum += w[to * form[1] + column] * heard[column];
  }
  return sum;
}

// Return the unit of the last hidden layer with the largest sum of absolute outgoing
// weights; null if there is no hidden layer.
export function loudest(network) {
  const layer = layers.length - 2;
  if (layer < 1) return null;
  const size = layers[layer].size;
  const sums = new Float32Array(size);
  network.strength[layer].forEach((value, at) => (sums[at % size] += Math.abs(value)));
  return ofLayer(layer, sums.indexOf(Math.max(...sums)));
}

// A unit by its place in the drawing, or by its group: {layer, group, unit}; -1 for what it has not.
export function ofLayer(layer, unit) {
  return { layer, group: layers[layer].group, unit };
}

export function ofGroup(group, unit) {
  return { layer: layers.findIndex((each) => each.group === group), group, unit };
}

function surveyed() {
  const found = [{ operation: -1, size: 0, name: "inputs" }];
  const between = [];
  let index = null;
  plan.operations.forEach((operation, position) => {
    if (operation.kind === "select") index = index ? operation.index.map((i) => index[i]) : operation.index;
    if (!MIXING.has(operation.kind)) return;
    const form = shapeOf(position);
    const before = found[found.length - 1];
    if (before.operation === -1) before.size = operation.kind === "conv" && !index ? form[1] : inputSize;
    const width = index ? index.length : before.size;
    between.push({ from: found.length - 1, to: found.length, operation: position, index, each: form[1] / width });
    found.push({ operation: position, size: form[0], name: layerName(operation.layer), channels: operation.kind === "conv" });
    index = null;
  });
  found.forEach((layer, at) => {
    const wanted = (group) => group.operation === layer.operation && group.kind !== "synapse";
    layer.group = page.groups.findIndex(wanted);
    layer.isOutput = at === found.length - 1;
  });
  return { layers: found, links: between };
}

function shapeOf(position) {
  return plan.frames[0][position].w.n;
}

function built(step) {
  const arrays = {};
  for (const [position, parts] of Object.entries(plan.frames[plan.frameOf[step]])) {
    arrays[position] = { w: unpack(parts.w), b: unpack(parts.b), form: parts.w.n };
  }
  for (const group of page.groups) silence(arrays, group, step);
  const network = { step, arrays, exact: plan.exact[step] };
  network.strength = links.map((link) => strengths(link, arrays[link.operation]));
  network.alive = layers.map((layer, at) => living(layer, at, network, step));
  return network;
}

// Zero the dead members of a group: synapses, or units' own weights and the weights that read them.
function silence(arrays, group, step) {
  if (group.operation === null) return;
  if (group.kind === "synapse") {
    const { w } = arrays[group.operation];
    for (let i = 0; i < w.length; i++) if (isDead(group, i, step)) w[i] = 0;
    return;
  }
  const link = links.find((each) => layers[each.from].operation === group.operation);
  for (let unit = 0; unit < group.size; unit++) {
    if (!isDead(group, unit, step)) continue;
    if (group.operation >= 0) silenceRow(arrays, group.operation, unit);
    if (link) silenceColumns(link, arrays[link.operation], unit);
  }
}

function silenceRow(arrays, operation, unit) {
  const { w, b } = arrays[operation];
  const width = w.length / b.length;
  w.fill(0, unit * width, (unit + 1) * width);
  b[unit] = 0;
}

function silenceColumns(link, { w, form }, unit) {
  const columns = columnsOf(link, unit);
  const size = form.length === 4 ? form[2] * form[3] : 1;
  for (let row = 0; row < form[0]; row++) {
    for (const column of columns) w.fill(0, (row * form[1] + column) * size, (row * form[1] + column + 1) * size);
  }
}

function columnsOf(link, unit) {
  const places = link.index ? link.index.flatMap((held, at) => (held === unit ? [at] : [])) : [unit];
  return places.flatMap((place) => Array.from({ length: link.each }, (_, i) => place * link.each + i));
}

// Return (to × from) strengths of the connections of a link: the weight, or, for a connection of
// several weights, their Euclidean norm with the sign of their sum.
function strengths(link, { w, form }) {
  const width = layers[link.from].size;
  const rows = form[0];
  const each = link.each * (form.length === 4 ? form[2] * form[3] : 1);
  if (each === 1 && !link.index) return w;
  const found = new Float32Array(rows * width);
  const places = w.length / rows / each;
  for (let row = 0; row < rows; row++) {
    for (let place = 0; place < places; place++) {
      const at = (row * places + place) * each;
      let sum = 0;
      let squares = 0;
      for (let i = 0; i < each; i++) {
        sum += w[at + i];
        squares += w[at + i] ** 2;
      }
      const unit = link.index ? link.index[place] : place;
      found[row * width + unit] = each === 1 ? sum : Math.sign(sum) * Math.sqrt(squares);
    }
  }
  return found;
}

function living(layer, at, network, step) {
  const alive = new Uint8Array(layer.size).fill(1);
  if (layer.isOutput) return alive;
  const group = page.groups[layer.group];
  const strength = network.strength[at];
  const rows = strength.length / layer.size;
  for (let unit = 0; unit < layer.size; unit++) {
    let heard = false;
    for (let row = 0; row < rows && !heard; row++) heard = strength[row * layer.size + unit] !== 0;
    if (!heard || (group && group.size === layer.size && isDead(group, unit, step))) alive[unit] = 0;
  }
  return alive;
}

// Return one number for each unit of a layer: the mean of its values that the next layer reads.
function amounts(network, at, heard) {
  const size = layers[at].size;
  const index = links[at] ? links[at].index : null;
  const found = new Float32Array(size);
  const places = index ? index.length : size;
  const each = heard.length / places;
  for (let i = 0; i < heard.length; i++) {
    const place = Math.floor(i / each);
    found[index ? index[place] : place] += heard[i] / each;
  }
  return found.map((value, unit) => (network.alive[at][unit] ? value : 0));
}
