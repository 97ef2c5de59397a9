// Synapses as lines: which are drawn, and how.

import { colours } from "./colours.js";
import { layers, links, sent } from "./network.js";

const LEVELS = 12; // widths that lines are drawn in

// For each link its strongest synapses, `cap` in all: [{link, to, from, value}], and how many there are.
export function strongest(network, { cap, mode, result, paths, target, places }) {
  const found = links.map((link, at) => candidates(network, link, at, { mode, result, paths, target, places }));
  const total = found.reduce((sum, each) => sum + each.length, 0);
  let room = cap;
  const sizes = found.map((each, at) => ({ at, length: each.length })).sort((a, b) => a.length - b.length);
  const drawn = [];
  sizes.forEach(({ at, length }, turn) => {
    const share = Math.min(Math.floor(room / (sizes.length - turn)), length);
    room -= share;
    for (const each of top(found[at], share)) drawn.push(each);
  });
  return { drawn, total };
}

function candidates(network, link, at, { mode, result, paths, target, places }) {
  const size = layers[link.from].size;
  const strength = network.strength[at];
  const found = [];
  for (let to = 0; to < layers[link.to].size; to++) {
    if (!network.alive[link.to][to] || !places[link.to].place(to)) continue;
    if (paths && (link.to === layers.length - 1 ? to !== target : !paths.reaches[link.to][to])) continue;
    for (let from = 0; from < size; from++) {
      const weight = strength[to * size + from];
      if (weight === 0 || !network.alive[link.from][from] || !places[link.from].place(from)) continue;
      let value = mode === "sent" && result ? sent(network, link, result, to, from) : weight;
      if (paths) value *= paths.strength[link.to][to];
      if (value !== 0) found.push({ link, to, from, value });
    }
  }
  return found;
}

function top(list, share) {
  if (share <= 0) return [];
  const sizes = Float32Array.from(list, (each) => Math.abs(each.value)).sort();
  const least = sizes[Math.max(sizes.length - share, 0)];
  const reach = sizes[sizes.length - 1];
  const kept = list.filter((each) => Math.abs(each.value) >= least).slice(0, share);
  for (const each of kept) each.part = Math.abs(each.value) / reach;
  return kept;
}

// Draw lines onto a context, thin ones first.
export function drawSynapses(context, drawn, places) {
  const buckets = new Map();
  for (const each of drawn) {
    const level = Math.min(Math.floor(each.part * LEVELS), LEVELS - 1);
    const key = level * 2 + (each.value > 0 ? 1 : 0);
    if (!buckets.has(key)) buckets.set(key, []);
    buckets.get(key).push(each);
  }
  const crowd = Math.min(1, Math.sqrt(1500 / Math.max(drawn.length, 1)));
  for (const key of [...buckets.keys()].sort((a, b) => a - b)) {
    const part = (Math.floor(key / 2) + 0.5) / LEVELS;
    context.strokeStyle = (key % 2 ? colours.leaf : colours.earth).text;
    context.globalAlpha = Math.min(0.1 + 0.85 * part, 0.9) * (0.35 + 0.65 * crowd);
    context.lineWidth = 0.4 + 2.2 * part ** 1.5;
    context.beginPath();
    for (const each of buckets.get(key)) {
      const from = places[each.link.from].place(each.from);
      const to = places[each.link.to].place(each.to);
      const middle = (from.x + to.x) / 2;
      context.moveTo(from.x, from.y);
      context.bezierCurveTo(middle, from.y, middle, to.y, to.x, to.y);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}
