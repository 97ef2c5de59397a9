// Format numbers as text.

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function percent(part, digits = 2) {
  return `${(100 * part).toFixed(digits)} %`;
}

export function brief(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return size >= 100 ? count(value) : value.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

export function signed(value) {
  return (value > 0 ? "+" : value < 0 ? "−" : "") + brief(Math.abs(value));
}

export function bytes(value) {
  return value < 1e4 ? `${count(value)} B` : value < 1e6 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1048576).toFixed(2)} MiB`;
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}
