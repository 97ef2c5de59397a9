// The small picture of a unit: its weights or its feature map.

import { layers } from "./network.js";
import { fieldOf } from "./paths.js";
import { drawAmounts, drawBars, drawWeights } from "./pictures.js";
import { page } from "./page-data.js";

// Draw unit `unit` of layer `at`: the feature map of a channel if there is an input, its kernel
// otherwise; the receptive field of a unit over a picture; or the weights of a unit as bars. Return
// a description.
export function portrait(canvas, network, at, unit, result) {
  const map = result?.maps[at];
  if (at > 0 && map && layers[at].channels) {
    const [, rows, columns] = map.shape;
    drawAmounts(canvas, map.data.subarray(unit * rows * columns, (unit + 1) * rows * columns), rows, columns, "ink");
    return "its feature map of the input";
  }
  if (at > 0 && layers[at].channels) return drawKernel(canvas, network, at, unit);
  const picture = page.input.picture;
  if (picture && layers[0].size === picture[1] * picture[2] && picture[0] === 1) {
    if (at === 0) return "";
    drawWeights(canvas, fieldOf(network, at, unit), picture[1], picture[2]);
    return at === 1 ? "what it reads" : "what it reads through the layers before it, with activations taken as linear";
  }
  const size = layers[at - 1]?.size ?? 0;
  if (!size) return "";
  drawBars(canvas, network.strength[at - 1].subarray(unit * size, (unit + 1) * size));
  return `its weights from ${at === 1 ? "the inputs" : layers[at - 1].name}, first to last`;
}

function drawKernel(canvas, network, at, unit) {
  const { w, form } = network.arrays[layers[at].operation];
  const [, ins, rows, columns] = form;
  const kernel = new Float32Array(rows * columns);
  for (let i = 0; i < ins * kernel.length; i++) kernel[i % kernel.length] += w[unit * ins * kernel.length + i] / ins;
  drawWeights(canvas, kernel, rows, columns);
  return ins === 1 ? "its kernel" : "the mean of its kernels";
}
