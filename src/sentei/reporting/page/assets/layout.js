// Compute the positions of layers and units in the drawing of a network.

import { className, page } from "./page-data.js";
import { layers } from "./network.js";

export const UNITS = 256; // units of a layer that are drawn, at most
export const OUTPUTS = 26; // outputs that are drawn, at most
const GAP = 4;

// Return, for a drawing of this width, the box of each layer and the place of each unit shown.
export function layout(width, network) {
  const narrow = width < 620;
  const height = narrow ? 460 : Math.min(Math.max(width * 0.56, 440), 640);
  const top = 34;
  const hidden = layers.length - 2;
  const inputWidth = page.input.picture ? Math.min(width * 0.24, 250) : narrow ? 62 : 110;
  const longest = Math.max(...layers.slice(-1).map((layer) => longestName(layer.size)));
  const outputWidth = narrow ? 74 : Math.min(118 + 7 * longest, 220);
  const pad = narrow ? 6 : 16;
  const left = pad + inputWidth;
  const slot = (width - left - outputWidth - pad) / Math.max(hidden, 1);
  const rest = height - top - pad;
  const found = layers.map((layer, at) => {
    if (at === 0) return inputPlaces(layer, pad, top, inputWidth, rest);
    if (layer.isOutput) return outputPlaces(layer, width - outputWidth - pad, top, outputWidth, rest);
    const begin = left + slot * (at - 1);
    return grid(layer, ordered(layer, at, network), begin + slot * 0.24, top, slot * 0.52, rest, narrow);
  });
  return { width, height, slot, layers: found };
}

function inputPlaces(layer, x, top, width, height) {
  const picture = page.input.picture;
  const box = { x, width, y: top + Math.max((height - width) / 2, 0), height: width };
  if (picture) {
    const [, rows, columns] = picture;
    const whole = layer.size !== rows * columns * picture[0];
    const place = (unit) => {
      if (whole) return { x: x + width, y: box.y + width / 2, size: width };
      const pixel = unit % (rows * columns);
      return {
        x: x + (((pixel % columns) + 0.5) * width) / columns,
        y: box.y + ((Math.floor(pixel / columns) + 0.5) * width) / rows,
        size: width / columns,
      };
    };
    return { ...box, whole, place, shown: null };
  }
  const shown = Array.from({ length: Math.min(layer.size, 40) }, (_, unit) => unit);
  const each = height / shown.length;
  const place = (unit) =>
    unit < shown.length
      ? { x: x + width, y: top + (unit + 0.5) * each, size: Math.min(each - 2, 22), left: x, width }
      : null;
  return { x, width, y: top, height, place, shown };
}

function outputPlaces(layer, x, top, width, height) {
  const shown = Array.from({ length: Math.min(layer.size, OUTPUTS) }, (_, unit) => unit);
  const each = Math.min(height / shown.length, 44);
  const begin = top + (height - each * shown.length) / 2;
  const place = (unit) =>
    unit < shown.length ? { x, y: begin + (unit + 0.5) * each, size: Math.min(each - 2, 32), left: x, width } : null;
  return { x, width, y: begin, height, place, shown };
}

// Place units in columns, each as large as fits.
function grid(layer, order, x, top, width, height, narrow) {
  const shown = order.slice(0, UNITS);
  let size = narrow ? 26 : 42;
  let columns = 1;
  for (; size > 5; size -= 1) {
    const rows = Math.max(Math.floor(height / (size + GAP)), 1);
    columns = Math.ceil(shown.length / rows);
    if (columns * (size + GAP) <= Math.max(width, size + GAP)) break;
  }
  const rows = Math.ceil(shown.length / columns);
  const [wide, tall] = [columns * (size + GAP), rows * (size + GAP)];
  const [begin, above] = [x + (width - wide) / 2, top + (height - tall) / 2];
  const at = new Map(shown.map((unit, place) => [unit, place]));
  const place = (unit) => {
    if (!at.has(unit)) return null;
    const [row, column] = [Math.floor(at.get(unit) / columns), at.get(unit) % columns];
    return {
      x: begin + (column + 0.5) * (size + GAP),
      y: above + (row + 0.5) * (size + GAP),
      size,
    };
  };
  return { x: begin, width: wide, y: above, height: tall, place, shown };
}

// Order units by the mean position of the units that they excite, so that lines cross less.
function ordered(layer, at, network) {
  const next = network.strength[at];
  const size = layer.size;
  const rows = next.length / size;
  const keys = Array.from({ length: size }, (_, unit) => {
    let sum = 0;
    let total = 0;
    let loud = 0;
    for (let row = 0; row < rows; row++) {
      const weight = Math.max(next[row * size + unit], 0) ** 2;
      sum += weight * row;
      total += weight;
      loud += next[row * size + unit] ** 2;
    }
    return { unit, centre: total ? sum / total : rows, loud };
  });
  const kept = keys.sort((a, b) => b.loud - a.loud).slice(0, UNITS);
  return kept.sort((a, b) => a.centre - b.centre).map((key) => key.unit);
}

function longestName(size) {
  let longest = 0;
  for (let unit = 0; unit < Math.min(size, OUTPUTS); unit++) longest = Math.max(longest, className(unit).length);
  return Math.min(longest, 12);
}
