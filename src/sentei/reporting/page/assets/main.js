// The page, put together. It opens on the run's last step.

import { startAgreement } from "./agreement.js";
import { startCost } from "./cost.js";
import { startFacts } from "./facts.js";
import { startGraph } from "./graph.js";
import { lastStep } from "./page-data.js";
import { startRemoved } from "./removed.js";
import { state } from "./state.js";
import { startStepper } from "./stepper.js";
import { startTrying } from "./trying.js";
import { startUnit } from "./unit.js";

state.step = lastStep;
startFacts();
startStepper();
startCost();
startGraph();
startTrying();
startUnit();
startRemoved();
startAgreement();
document.documentElement.dataset.ready = "yes";
