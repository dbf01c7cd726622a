// Numbers, durations and states as text.

const CAUSES = {
  none: "Everything is ok",
  unknown: "Not enough data yet",
  model_changed: "The model gives wrong vectors",
  model_worse: "The new model finds fewer right documents",
  users_changed: "Users ask new kinds of questions",
  index_degraded: "The index finds fewer right documents",
  labels_stale: "Labelled queries miss their documents",
};

// If a signal warns without a known cause, the headline is about that signal instead of missing data.
const WARNINGS = {
  canary: "The model gives wrong vectors",
  shadow: "The index finds fewer right documents",
  probe: "Labelled queries miss their documents",
  drift: "Users ask new kinds of questions",
  feedback: "Users report worse answers",
};

export function headline({ cause, signals }) {
  const warning = Object.keys(WARNINGS).find((signal) => signals[signal] === "warn");
  return cause === "unknown" && warning ? WARNINGS[warning] : CAUSES[cause] ?? cause;
}

export const STATES = { ok: "✓ ok", warn: "! warn", unknown: "? unknown", off: "not monitored" };

// A number with two or three significant digits.
export function number(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toPrecision(value < 1 ? 2 : 3);
}

// A ratio. A value below 1 is never shown as 1.
export function share(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "–";
  const largest = 1 - 10 ** -digits;
  return (value < 1 ? Math.min(value, largest) : value).toFixed(digits);
}

export const cosine = (value) => share(value, 5);

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
