// The data of the page, parsed once.

import { unpack } from "./decoding.js";

export const page = JSON.parse(document.getElementById("data").textContent);

export const lastStep = page.steps.loss.length - 1;

for (const group of page.groups) {
  group.death = unpack(group.death);
  group.name = layerName(group.name);
}

// Layers of an nn.Sequential may have numbers for names.
export function layerName(name) {
  return /^[\d.]+$/.test(name) ? `layer ${name}` : name;
}

// The samples that the page offers, in the form that the network reads.
export const samples = page.samples && readSamples(page.samples);

function readSamples(held) {
  const [rows, width] = [held.inputs.n[0], held.inputs.n.slice(1).reduce((a, b) => a * b, 1)];
  const flat = Float32Array.from(unpack(held.inputs), (value) => value / held.over);
  return {
    rows,
    of: held.of,
    input: (row) => flat.slice(row * width, (row + 1) * width),
    target: (row) => (held.targets.length ? held.targets[row] : null),
  };
}

export function className(number) {
  return page.classes[number] ?? `output ${number}`;
}

export function isDead(group, unit, step) {
  const died = group.death[unit];
  return died >= 0 && died <= step;
}
