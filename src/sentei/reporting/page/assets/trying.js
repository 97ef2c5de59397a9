// Inputs for the network: a drawing, a sample, or a slider for each feature.

import { centred } from "./centring.js";
import { colours, onTheme } from "./colours.js";
import { byId, make, roving } from "./dom.js";
import { layers, networkAt, runnable } from "./network.js";
import { className, page, samples } from "./page-data.js";
import { drawAmounts } from "./pictures.js";
import { choose, follow, state } from "./state.js";
import { unpack } from "./decoding.js";
import { brief, count } from "./words.js";

const SIDE = 196;
const PEN = 15;

export function startTrying() {
  if (!runnable || !page.input) return;
  const box = byId("try");
  box.hidden = false;
  const picture = page.input.picture;
  const right = make("div", {}, make("p", { id: "answer", class: "answer", "aria-live": "polite" }));
  if (picture && picture[0] === 1 && picture[1] === picture[2]) box.append(board(picture[1]));
  if (picture && samples) right.append(strip(picture));
  if (!picture && page.input.shape.length === 1 && page.input.shape[0] <= 64) right.append(...sliders());
  else if (!picture && samples) right.append(sampleSelect());
  box.append(right);
  if (samples) choose({ input: samples.input(0) });
}

function board(size) {
  const canvas = make("canvas", { id: "board", width: SIDE, height: SIDE, tabindex: 0, role: "img", "aria-label": "Draw a digit here with mouse, pen or finger. Delete clears it." });
  const ink = make("canvas", { width: SIDE, height: SIDE });
  const pen = ink.getContext("2d", { willReadFrequently: true });
  Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000", fillStyle: "#000" });
  let from = null;
  let own = null; // the input that was drawn on this board
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [((event.clientX - frame.left) * SIDE) / frame.width, ((event.clientY - frame.top) * SIDE) / frame.height];
  };
  const paint = () => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, SIDE, SIDE);
    context.drawImage(ink, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colours.ink.text;
    context.fillRect(0, 0, SIDE, SIDE);
    context.globalCompositeOperation = "source-over";
    if (!dirty()) hint(context);
  };
  const dirty = () => canvas.dataset.drawn === "yes";
  const read = () => {
    const image = pen.getImageData(0, 0, SIDE, SIDE).data;
    const values = Float32Array.from({ length: SIDE * SIDE }, (_, i) => image[4 * i + 3] / 255);
    const input = centred(values, SIDE, size);
    own = input;
    if (input) choose({ input, mode: "sent" });
  };
  const line = (to) => {
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
    from = to;
    canvas.dataset.drawn = "yes";
    paint();
  };
  const wipe = () => {
    pen.clearRect(0, 0, SIDE, SIDE);
    canvas.dataset.drawn = "";
    paint();
  };
  const clear = () => {
    wipe();
    choose({ input: null });
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = at(event);
    line([from[0] + 0.1, from[1]]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    line(at(event));
    read();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (from) read();
      from = null;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    if (["Delete", "Backspace", "Escape"].includes(event.key)) clear();
  });
  onTheme(paint);
  follow(["input"], () => {
    if (state.input !== own && dirty()) wipe();
  });
  paint();
  return make("div", { class: "board" }, canvas, make("div", { class: "row" }, make("button", { type: "button", id: "clear", onclick: clear }, "Clear")));
}

function hint(context) {
  context.fillStyle = colours.soft.text;
  context.font = "15px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText("draw a digit here", SIDE / 2, SIDE / 2 + 5);
}

function strip(picture) {
  const [, rows, columns] = picture;
  const row = make("div", { id: "strip", class: "strip", role: "group", "aria-label": `${samples.rows} held-out samples of ${count(samples.of)}` });
  const buttons = [];
  const paint = () =>
    buttons.forEach(({ canvas, input }) => drawAmounts(canvas, input, rows, columns, "ink", 1));
  for (let sample = 0; sample < samples.rows; sample++) {
    const target = samples.target(sample);
    const canvas = make("canvas", { "aria-hidden": "true" });
    const input = samples.input(sample);
    const label = target === null ? `sample ${sample}` : `sample ${sample}: ${className(target)}`;
    const button = make("button", { type: "button", title: label, "aria-label": label, onclick: () => choose({ input }) }, canvas);
    buttons.push({ button, canvas, input });
    row.append(button);
  }
  paint();
  roving(row, buttons.map(({ button }) => button));
  onTheme(paint);
  follow(["input"], () => buttons.forEach(({ button, input }) => button.setAttribute("aria-pressed", same(input, state.input))));
  return row;
}

function same(one, other) {
  return Boolean(other) && one.length === other.length && one.every((value, i) => value === other[i]);
}

function sampleSelect() {
  const select = make("select", { id: "sample", onchange: () => choose({ input: samples.input(Number(select.value)) }) });
  for (let row = 0; row < samples.rows; row++) {
    const target = samples.target(row);
    select.append(make("option", { value: row }, target === null ? `sample ${row}` : `sample ${row}: ${className(target)}`));
  }
  return make("p", { class: "controls" }, make("label", {}, "Held-out sample", select));
}

// A slider for each feature, in its original unit of measure; unread features are faint.
function sliders() {
  const { features, mean, std, whole } = page.input;
  const low = unpack(page.input.low);
  const high = unpack(page.input.high);
  const raw = (value, i) => (std.length ? value * std[i] + mean[i] : value);
  const back = (value, i) => (std.length ? (value - mean[i]) / std[i] : value);
  const box = make("div", { class: "features", id: "features" });
  const parts = Array.from(low, (_, i) => {
    const [least, most] = [raw(low[i], i), raw(high[i], i)];
    const said = make("output", {});
    const slider = make("input", { type: "range", "aria-label": features[i] ?? `input ${i}`, min: whole[i] ? Math.round(least) : least, max: whole[i] ? Math.round(most) : most, step: whole[i] ? 1 : "any" });
    const label = make("label", {}, make("span", {}, features[i] ?? `input ${i}`), said, slider);
    slider.addEventListener("input", () => {
      const input = Float32Array.from(state.input ?? low);
      input[i] = back(Number(slider.value), i);
      choose({ input, mode: "sent" });
    });
    box.append(label);
    return { slider, said, label, value: (input) => raw(input[i], i) };
  });
  const show = () => {
    const alive = networkAt(state.step).alive[0];
    parts.forEach(({ slider, said, label, value }, i) => {
      if (state.input) {
        slider.value = value(state.input);
        said.value = brief(Number(value(state.input).toFixed(4)));
      }
      label.classList.toggle("unread", layers[0].size === parts.length && !alive[i]);
    });
  };
  follow(["input", "step"], show);
  return samples ? [sampleSelect(), box] : [box];
}
