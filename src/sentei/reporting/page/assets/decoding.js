// Decode the arrays that sentei/reporting/page/base64_arrays.py encodes.

const TYPES = { f4: Float32Array, f2: Uint16Array, i4: Int32Array, i2: Int16Array, u1: Uint8Array };

// Return the values; half precision becomes single. With a bitmap `m`, `d` has only nonzero values.
export function unpack(packed) {
  const Type = TYPES[packed.t];
  const held = new Type(octets(packed.d).buffer);
  let values = held;
  if (packed.m !== undefined) {
    const bits = octets(packed.m);
    values = new Type(packed.n.reduce((a, b) => a * b, 1));
    for (let i = 0, next = 0; i < values.length; i++) {
      if ((bits[i >> 3] >> (i & 7)) & 1) values[i] = held[next++];
    }
  }
  return packed.t === "f2" ? Float32Array.from(values, half) : values;
}

function octets(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
