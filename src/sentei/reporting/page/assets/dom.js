// Create and find elements. Strings always become text nodes: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

// Call `draw` with the width of `box` as soon as it has one, and whenever it changes.
export function fitted(box, draw) {
  let width = 0;
  const redraw = () => {
    if (box.clientWidth > 0) draw(box.clientWidth);
  };
  new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    redraw();
  }).observe(box);
  return redraw;
}

// Make one of the elements in `box` reachable by the Tab key; arrow keys move on from there.
export function roving(box, elements) {
  elements.forEach((each, at) => (each.tabIndex = at ? -1 : 0));
  box.addEventListener("focusin", ({ target }) => {
    if (elements.includes(target)) elements.forEach((each) => (each.tabIndex = each === target ? 0 : -1));
  });
  box.addEventListener("keydown", (event) => {
    const next = elements[elements.indexOf(event.target) + arrow(event)];
    if (!arrow(event) || !next) return;
    event.preventDefault();
    next.focus();
  });
}

// The direction of an arrow key: 1 to the next, -1 to the one before, 0 for other keys.
export function arrow(event) {
  return { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key] ?? 0;
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
