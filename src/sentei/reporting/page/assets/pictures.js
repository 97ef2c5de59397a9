// Small pictures on canvases: signed weights in two colours, amounts in one.

import { colours } from "./colours.js";

// Draw positive values in one colour and negative ones in another, one pixel for each value.
export function drawWeights(canvas, values, height, width) {
  const reach = largest(values);
  fill(canvas, height, width, (at) => {
    const part = values[at] / reach;
    return mixed(colours.card.rgb, part > 0 ? colours.blue.rgb : colours.orange.rgb, Math.abs(part) ** 0.6);
  });
}

// Draw amounts of 0 or more, from the card's colour to the ink's or to another colour.
export function drawAmounts(canvas, values, height, width, colour = "ink", reach = largest(values)) {
  fill(canvas, height, width, (at) => mixed(colours.card.rgb, colours[colour].rgb, Math.max(values[at], 0) / reach));
}

// Draw a bar for each value, to the right if it is positive and to the left if it is negative.
export function drawBars(canvas, values) {
  const [width, height] = [144, 144];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = colours.card.text;
  context.fillRect(0, 0, width, height);
  const reach = largest(values);
  const each = height / values.length;
  values.forEach((value, at) => {
    context.fillStyle = value > 0 ? colours.blue.text : colours.orange.text;
    const length = (value / reach) * (width / 2 - 2);
    context.fillRect(width / 2 + Math.min(length, 0), at * each, Math.abs(length), Math.max(each * 0.85, 0.5));
  });
}

export function largest(values) {
  let reach = 0;
  for (const value of values) reach = Math.max(reach, Math.abs(value));
  return reach || 1;
}

function fill(canvas, height, width, colour) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let at = 0; at < width * height; at++) image.data.set([...colour(at), 255], 4 * at);
  context.putImageData(image, 0, 0);
}

function mixed(one, other, part) {
  const share = Math.min(part, 1);
  return [0, 1, 2].map((i) => one[i] + (other[i] - one[i]) * share);
}
