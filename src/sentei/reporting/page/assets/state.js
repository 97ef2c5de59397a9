// What the reader has chosen, and who wants to know when it changes.

export const state = {
  step: 0, // of the run
  class: null, // whose paths are lit
  unit: null, // {layer, unit} that is looked at
  input: null, // Float32Array that the network is shown
  mode: "weights", // what synapses show: "weights", or "sent" by the input
  cap: 1000, // synapses drawn at most
};

const listeners = [];

// Call `act` whenever one of the keys changes.
export function follow(keys, act) {
  listeners.push({ keys, act });
}

export function choose(changes) {
  const changed = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  Object.assign(state, changes);
  for (const { keys, act } of listeners) {
    if (changed.some((key) => keys.includes(key))) act();
  }
}
