// Scale and centre a drawing as MNIST's digits were prepared: fitted into 20 by 20 pixels, then
// moved so that its centre of mass is the centre of 28 by 28 pixels. Other sizes are in proportion;
// a 20 by 20 picture is the central part of a 28 by 28 one.

const MNIST = 28;
const BOX = 20;

// Convert ink (values 0 to 1, `side` by `side`) to a picture of `size` by `size`; null without ink.
export function centred(ink, side, size) {
  const box = bounds(ink, side);
  if (!box) return null;
  const whole = size === BOX ? MNIST : size;
  const room = (whole * BOX) / MNIST;
  const scale = Math.max(box.width, box.height) / room;
  const [height, width] = [Math.max(Math.round(box.height / scale), 1), Math.max(Math.round(box.width / scale), 1)];
  const small = shrunk(ink, side, box, height, width);
  const [down, across] = massOf(small, height, width);
  const picture = new Float32Array(whole * whole);
  const top = Math.round(whole / 2 - down);
  const left = Math.round(whole / 2 - across);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const [y, x] = [row + top, column + left];
      if (y >= 0 && y < whole && x >= 0 && x < whole) picture[y * whole + x] = small[row * width + column];
    }
  }
  return whole === size ? picture : middle(picture, whole, size);
}

function bounds(ink, side) {
  let [top, left, bottom, right] = [side, side, -1, -1];
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] <= 0.05) continue;
    const [row, column] = [Math.floor(at / side), at % side];
    top = Math.min(top, row);
    bottom = Math.max(bottom, row);
    left = Math.min(left, column);
    right = Math.max(right, column);
  }
  return bottom < 0 ? null : { top, left, height: bottom - top + 1, width: right - left + 1 };
}

// Resize the box of ink: each new pixel is the mean of the area that it covers.
function shrunk(ink, side, box, height, width) {
  const found = new Float32Array(height * width);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const y = [box.top + (row * box.height) / height, box.top + ((row + 1) * box.height) / height];
      const x = [box.left + (column * box.width) / width, box.left + ((column + 1) * box.width) / width];
      found[row * width + column] = mean(ink, side, y, x);
    }
  }
  return found;
}

function mean(ink, side, [top, bottom], [left, right]) {
  let sum = 0;
  let area = 0;
  for (let row = Math.floor(top); row < bottom; row++) {
    const tall = Math.min(row + 1, bottom) - Math.max(row, top);
    for (let column = Math.floor(left); column < right; column++) {
      const wide = Math.min(column + 1, right) - Math.max(column, left);
      sum += tall * wide * (ink[row * side + column] ?? 0);
      area += tall * wide;
    }
  }
  return area ? sum / area : 0;
}

function massOf(values, height, width) {
  let [sum, down, across] = [0, 0, 0];
  for (let at = 0; at < height * width; at++) {
    sum += values[at];
    down += values[at] * (Math.floor(at / width) + 0.5);
    across += values[at] * ((at % width) + 0.5);
  }
  return [down / sum, across / sum];
}

function middle(picture, whole, size) {
  const edge = (whole - size) / 2;
  return Float32Array.from({ length: size * size }, (_, at) => picture[(Math.floor(at / size) + edge) * whole + (at % size) + edge]);
}
