// Synapses drawn as lines: choosing the strongest ones, and drawing them.

import { colours } from "./colours.js";
import { layers, links, sent } from "./network.js";

const LEVELS = 12; // number of line widths

// Return the strongest synapses, at most `cap` in all and evenly divided among links, as
// [{link, to, from, value, part}]; and the number of synapses that could be drawn.
export function strongest(network, { cap, mode, result, paths, target, places }) {
  const found = links.map((link, at) => valued(network, link, at, { mode, result, paths, target, places }));
  let room = cap;
  const sizes = found.map(({ count }, at) => ({ at, count })).sort((a, b) => a.count - b.count);
  const drawn = [];
  sizes.forEach(({ at, count }, turn) => {
    const share = Math.min(Math.floor(room / (sizes.length - turn)), count);
    room -= share;
    for (const each of top(links[at], found[at], share)) drawn.push(each);
  });
  return { drawn, total: found.reduce((sum, { count }) => sum + count, 0) };
}

// Return (to × from) the value that each synapse of a link is drawn by; 0 for those not drawn.
function valued(network, link, at, { mode, result, paths, target, places }) {
  const size = layers[link.from].size;
  const strength = network.strength[at];
  const values = new Float32Array(strength.length);
  const shown = Array.from({ length: size }, (_, unit) => network.alive[link.from][unit] && places[link.from].place(unit) !== null);
  const isLast = link.to === layers.length - 1;
  let count = 0;
  for (let to = 0; to < layers[link.to].size; to++) {
    if (!network.alive[link.to][to] || !places[link.to].place(to)) continue;
    if (paths && (isLast ? to !== target : !paths.reaches[link.to][to])) continue;
    const onward = paths ? paths.strength[link.to][to] : 1;
    for (let from = 0; from < size; from++) {
      const weight = strength[to * size + from];
      if (weight === 0 || !shown[from]) continue;
      const value = (mode === "sent" && result ? sent(network, link, result, to, from) : weight) * onward;
      values[to * size + from] = value;
      if (values[to * size + from] !== 0) count += 1;
    }
  }
  return { values, count };
}

function top(link, { values, count }, share) {
  if (share <= 0) return [];
  const sizes = new Float32Array(count);
  let next = 0;
  for (const value of values) if (value !== 0) sizes[next++] = Math.abs(value);
  sizes.sort();
  const least = sizes[count - share];
  const width = layers[link.from].size;
  const kept = [];
  for (let at = 0; at < values.length && kept.length < share; at++) {
    const value = values[at];
    if (value === 0 || Math.abs(value) < least) continue;
    kept.push({ link, to: Math.floor(at / width), from: at % width, value, part: Math.abs(value) / sizes[count - 1] });
  }
  return kept;
}

// Draw lines on a canvas context, thin ones first.
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
    context.strokeStyle = (key % 2 ? colours.blue : colours.orange).text;
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
