// The choices of the reader (step, class, unit, input), and callbacks for when they change.

export const state = {
  step: 0, // the step of the run that is shown
  class: null, // the output whose paths are shown
  unit: null, // {layer, group, unit} whose details are shown
  input: null, // Float32Array that the network is run on
  mode: "weights", // what lines show: "weights", or "sent" (values for this input)
  cap: 1000, // synapses that are drawn, at most
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
