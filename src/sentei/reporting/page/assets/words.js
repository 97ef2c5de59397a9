// Format numbers as text, as the commands print them.

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function percent(part, digits = 2) {
  return `${(100 * part).toFixed(digits)}%`;
}

export function decimal(value, digits) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// A change of a part of 1, in percentage points.
export function points(change, digits = 2) {
  return `${change < 0 ? "−" : "+"}${Math.abs(100 * change).toFixed(digits)} points`;
}

export function brief(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0) return `−${brief(-value)}`;
  const size = value;
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return size >= 100 ? count(value) : value.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

export function signed(value) {
  return (value > 0 ? "+" : value < 0 ? "−" : "") + brief(Math.abs(value));
}

export function bytes(value) {
  return `${count(value)} bytes`;
}

// Return a function that formats the numbers of one column alike: all with as many decimals as the
// median needs for four digits, or all with an exponent.
export function column(values) {
  const sizes = values.filter(Boolean).map(Math.abs).sort((a, b) => a - b);
  const middle = sizes[sizes.length >> 1] ?? 1;
  const decimals = Math.max(3 - Math.floor(Math.log10(middle)), 0);
  const plain = decimals <= 8 && middle < 1e6;
  const words = (value) => (plain ? value.toFixed(decimals) : value.toExponential(2));
  return (value) => (value < 0 && Number(words(value)) !== 0 ? "−" : "") + words(Math.abs(value));
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}
