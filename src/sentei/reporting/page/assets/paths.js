// Paths from units to a class. Our definitions: the strength of a path is the product of the
// strengths of its connections; the strength of a unit is the sum over its paths to the class. The
// energy of a feature is the sum over the classes of the absolute values of its strengths, times
// the feature's standard deviation.

import { unpack } from "./decoding.js";
import { layers, links } from "./network.js";
import { page } from "./page-data.js";

const CLASSES = 64; // energy is summed over at most this many classes, the first ones

// Return, for each layer, the strength of each unit's paths to `target`, and whether a path exists.
export function pathsTo(network, target) {
  const strength = [];
  const reaches = [];
  const last = layers.length - 1;
  strength[last] = new Float32Array(layers[last].size);
  reaches[last] = new Uint8Array(layers[last].size);
  strength[last][target] = 1;
  reaches[last][target] = 1;
  for (let at = last - 1; at >= 0; at--) {
    const size = layers[at].size;
    strength[at] = new Float32Array(size);
    reaches[at] = new Uint8Array(size);
    const joined = network.strength[at];
    for (let to = 0; to < layers[at + 1].size; to++) {
      if (!reaches[at + 1][to] || !network.alive[at + 1][to]) continue;
      for (let from = 0; from < size; from++) {
        const weight = joined[to * size + from];
        if (weight === 0) continue;
        strength[at][from] += weight * strength[at + 1][to];
        reaches[at][from] = 1;
      }
    }
  }
  return { strength, reaches };
}

// Return the strength of the paths from each input to a unit.
export function fieldOf(network, layer, unit) {
  let field = Float32Array.from({ length: layers[layer].size }, (_, i) => (i === unit ? 1 : 0));
  for (let at = layer - 1; at >= 0; at--) {
    const size = layers[at].size;
    const next = new Float32Array(size);
    const joined = network.strength[at];
    for (let to = 0; to < field.length; to++) {
      if (field[to] === 0) continue;
      for (let from = 0; from < size; from++) next[from] += field[to] * joined[to * size + from];
    }
    field = next;
  }
  return field;
}

let spread = null;

export function energy(network) {
  spread ??= unpack(page.input.spread);
  const total = new Float32Array(layers[0].size);
  const outputs = Math.min(layers[layers.length - 1].size, CLASSES);
  for (let target = 0; target < outputs; target++) {
    const { strength } = pathsTo(network, target);
    strength[0].forEach((value, feature) => (total[feature] += Math.abs(value)));
  }
  const perUnit = spread.length === total.length;
  return perUnit ? total.map((value, feature) => value * spread[feature]) : total;
}

// Count the units of each layer that have a path to the class.
export function counted(network, { reaches }) {
  return links.map((link) => reaches[link.from].reduce((sum, on, unit) => sum + (on && network.alive[link.from][unit] ? 1 : 0), 0));
}
