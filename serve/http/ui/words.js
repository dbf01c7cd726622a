// Figures and states in words.

const CAUSES = {
  none: "All is well",
  unknown: "Too early to tell",
  model_changed: "The model gives wrong vectors",
  model_worse: "The new model finds less than the one before",
  users_changed: "The questions have changed",
  index_degraded: "The index finds less than it did",
  labels_stale: "Known questions lost their answers",
};

// Where no cause is known, the signal that warns is the headline: nobody may read that it is too early to tell.
const WARNINGS = {
  canary: "The model gives other vectors than it should",
  shadow: "The index finds less than it did",
  probe: "Known questions lost their answers",
  drift: "The questions have changed",
  feedback: "Users say that answers are wrong",
};

export function headline({ cause, signals }) {
  const warning = Object.keys(WARNINGS).find((signal) => signals[signal] === "warn");
  return cause === "unknown" && warning ? WARNINGS[warning] : CAUSES[cause] ?? cause;
}

export const STATES = { ok: "✓ ok", warn: "! warn", unknown: "? unknown", off: "not watched" };

// As many digits as a reader can use; a cosine or a recall never rounds up to 1.
export function number(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toPrecision(value < 1 ? 2 : 3);
}

export function share(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "–";
  const scale = 10 ** digits;
  return (Math.floor(value * scale + 1e-9) / scale).toFixed(digits);
}

export const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)}%`;

export function seconds(value) {
  if (value === null) return ["–", ""];
  if (value >= 1) return [value.toFixed(2), "s"];
  return [value >= 0.1 ? (value * 1000).toFixed(0) : (value * 1000).toFixed(1), "ms"];
}

export function ago(unix, now = Date.now() / 1000) {
  const passed = Math.max(0, now - unix);
  if (passed < 60) return `${Math.floor(passed)} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ${Math.floor((passed % 3600) / 60)} min`;
  return `${Math.floor(passed / 86400)} d ${Math.floor((passed % 86400) / 3600)} h`;
}
