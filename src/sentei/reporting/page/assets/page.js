// Start all sections of the page. It opens on the run's last step.

import { startAgreement } from "./agreement.js";
import { startCost } from "./cost.js";
import { startFacts } from "./facts.js";
import { startGraph } from "./graph.js";
import { startLive } from "./live.js";
import { loudest, networkAt, runnable } from "./network.js";
import { lastStep } from "./page-data.js";
import { startRemoved } from "./removed.js";
import { choose, state } from "./state.js";
import { startStepper } from "./stepper.js";
import { startStructure } from "./structure.js";
import { startTrying } from "./trying.js";
import { startUnit } from "./unit.js";

state.step = lastStep;
startFacts();
startLive();
startStepper();
startCost();
startGraph();
startTrying();
startStructure();
startUnit();
startRemoved();
startAgreement();
if (runnable) choose({ unit: loudest(networkAt(lastStep)) });
// Boxes have no width before the first frame, and drawings wait for it.
requestAnimationFrame(() => requestAnimationFrame(() => (document.documentElement.dataset.ready = "yes")));
