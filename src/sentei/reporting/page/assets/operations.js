// The forward pass, as torch computes it in evaluation mode, for one input at a time.
//
// A value is {data: Float32Array, shape: [units] or [channels, height, width]}.

export const MIXING = new Set(["linear", "conv"]);

// Run all operations; `seen(position, value)` is called with the output of each.
export function run(operations, arrays, input, shape, seen = () => {}) {
  let value = { data: input, shape };
  operations.forEach((operation, position) => {
    value = RUN[operation.kind](value, operation, arrays[position]);
    seen(position, value);
  });
  return value;
}

const RUN = {
  linear: (x, _, { w, b }) => {
    const rows = b.length;
    const width = w.length / (rows || 1);
    const out = new Float32Array(rows);
    const heard = [];
    for (let i = 0; i < x.data.length; i++) if (x.data[i] !== 0) heard.push(i);
    for (let row = 0; row < rows; row++) {
      let sum = b[row];
      const at = row * width;
      for (const i of heard) sum += x.data[i] * w[at + i];
      out[row] = sum;
    }
    return { data: out, shape: [rows] };
  },
  conv: (x, operation, { w, b, form }) => convolved(x, operation, w, b, form, false),
  depthwise: (x, operation, { w, b, form }) => convolved(x, operation, w, b, form, true),
  scale: (x, _, { w, b }) => {
    const each = x.data.length / w.length;
    return like(x, (value, i) => value * w[Math.floor(i / each)] + b[Math.floor(i / each)]);
  },
  standardise: (x, _, { w, b, form }) => {
    const at = broadcast(form, x.shape);
    return like(x, (value, i) => (value - b[at(i)]) / w[at(i)]);
  },
  maxpool: (x, operation) => pooled(x, operation, -Infinity, Math.max, (best) => best),
  meanpool: (x, operation) => pooled(x, operation, 0, (a, b) => a + b, (sum, size) => sum / size),
  everywhere: (x) => {
    const [channels, height, width] = x.shape;
    const out = new Float32Array(channels);
    x.data.forEach((value, i) => (out[Math.floor(i / (height * width))] += value / (height * width)));
    return { data: out, shape: [channels, 1, 1] };
  },
  flatten: (x) => ({ data: x.data, shape: [x.data.length] }),
  reshape: (x, { shape }) => ({ data: x.data, shape }),
  select: (x, { index }) => ({ data: Float32Array.from(index, (i) => x.data[i]), shape: [index.length] }),
  softmax: (x) => ({ ...x, data: softmax(x.data) }),
  logsoftmax: (x) => like({ ...x, data: softmax(x.data) }, Math.log),
  relu: (x) => like(x, (v) => (v > 0 ? v : 0)),
  sigmoid: (x) => like(x, (v) => 1 / (1 + Math.exp(-v))),
  tanh: (x) => like(x, Math.tanh),
  silu: (x) => like(x, (v) => v / (1 + Math.exp(-v))),
  gelu: (x) => like(x, (v) => (v / 2) * (1 + erf(v / Math.SQRT2))),
  "gelu-tanh": (x) => like(x, (v) => (v / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))),
  leaky: (x, operation) => like(x, (v) => (v > 0 ? v : v * operation.negative_slope)),
  elu: (x, operation) => like(x, (v) => (v > 0 ? v : operation.alpha * Math.expm1(v))),
};

export function softmax(values) {
  const top = Math.max(...values);
  const powers = Float32Array.from(values, (value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

function like(x, change) {
  return { data: x.data.map(change), shape: x.shape };
}

// Return the place in an array of shape `from` that belongs to a place in one of shape `to`.
function broadcast(from, to) {
  const sides = to.map((_, d) => from[d + from.length - to.length] ?? 1);
  return (place) => {
    let [at, step] = [0, 1];
    for (let d = to.length - 1; d >= 0; d--) {
      if (sides[d] > 1) at += (place % to[d]) * step;
      place = Math.floor(place / to[d]);
      step *= sides[d];
    }
    return at;
  };
}

function convolved(x, { stride, padding, dilation }, w, b, form, depthwise) {
  const [channels, height, width] = x.shape;
  const [outs, , kh, kw] = form;
  const rows = Math.floor((height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) / stride[0]) + 1;
  const columns = Math.floor((width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) / stride[1]) + 1;
  const out = new Float32Array(outs * rows * columns);
  const per = depthwise ? 1 : channels;
  for (let o = 0; o < outs; o++) {
    const plane = out.subarray(o * rows * columns, (o + 1) * rows * columns).fill(b[o]);
    for (let c = 0; c < per; c++) {
      const source = (depthwise ? o : c) * height * width;
      for (let i = 0; i < kh * kw; i++) {
        const weight = w[(o * per + c) * kh * kw + i];
        if (weight === 0) continue; // a zero weight adds nothing
        const down = Math.floor(i / kw) * dilation[0] - padding[0];
        const across = (i % kw) * dilation[1] - padding[1];
        for (let r = 0; r < rows; r++) {
          const y = r * stride[0] + down;
          if (y < 0 || y >= height) continue;
          for (let k = 0; k < columns; k++) {
            const at = k * stride[1] + across;
            if (at >= 0 && at < width) plane[r * columns + k] += weight * x.data[source + y * width + at];
          }
        }
      }
    }
  }
  return { data: out, shape: [outs, rows, columns] };
}

function pooled(x, { kernel, stride, padding }, begin, join, end) {
  const [channels, height, width] = x.shape;
  const rows = Math.floor((height + 2 * padding[0] - kernel[0]) / stride[0]) + 1;
  const columns = Math.floor((width + 2 * padding[1] - kernel[1]) / stride[1]) + 1;
  const out = new Float32Array(channels * rows * columns);
  for (let place = 0; place < out.length; place++) {
    const channel = Math.floor(place / (rows * columns));
    const top = Math.floor((place % (rows * columns)) / columns) * stride[0] - padding[0];
    const left = (place % columns) * stride[1] - padding[1];
    let value = begin;
    for (let y = Math.max(top, 0); y < Math.min(top + kernel[0], height); y++) {
      for (let at = Math.max(left, 0); at < Math.min(left + kernel[1], width); at++) {
        value = join(value, x.data[(channel * height + y) * width + at]);
      }
    }
    out[place] = end(value, kernel[0] * kernel[1]);
  }
  return { data: out, shape: [channels, rows, columns] };
}

// The error function by its series and its continued fraction, accurate to 1e-12.
function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size < 2.5) {
    let term = size;
    let sum = size;
    for (let n = 1; Math.abs(term) > 1e-16 * Math.abs(sum); n++) {
      term *= (-size * size) / n;
      sum += term / (2 * n + 1);
      if (n > 200) break;
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-size * size) / Math.sqrt(Math.PI) / (size + fraction));
}
