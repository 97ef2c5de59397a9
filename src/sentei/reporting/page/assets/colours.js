// The colours of the current theme (light or dark), read from the style sheet.

const NAMES = ["paper", "card", "ink", "soft", "pale", "faint", "blue", "orange"];

export let colours = read();

export function onTheme(act) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colours = read();
    act();
  });
}

function read() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, parsed(style.getPropertyValue(`--${name}`))]));
}

function parsed(text) {
  const value = text.trim();
  const digits = [1, 3, 5].map((at) => parseInt(value.slice(at, at + 2), 16));
  return { text: value, rgb: digits };
}
