// Recall by source, canaries by device, and what moved in the queries.

import { element, fill, interval, used } from "./draw.js";
import { number, percent, share } from "./words.js";

const SOURCES = { shadow: "Index, against an exact search", probe: "Probes, labelled and replayed", feedback: "Feedback of users" };

export function recall(place, { diagnosis, queries, probe, feedback }) {
  const reports = { shadow: queries.shadow.recall, probe: probe?.recall, feedback: feedback?.recall };
  const known = Object.values(reports).filter((report) => report?.queries);
  const lowest = Math.min(0.9, ...known.flatMap((report) => [report.lower, report.baseline || 1]));
  const low = Math.max(0, Math.floor(lowest * 10) / 10);
  const rows = Object.entries(reports).map(([source, report]) => [source, diagnosis.signals[source] ?? "off", report ?? {}]);
  fill(place, rows, () => [
    ...rows.map(([source, state, report]) => source === "probe" && probe ? row(source, state, report, low, probe) : row(source, state, report, low)),
    element("p", { class: "scale", "aria-hidden": "true" }, element("span", {}, low.toFixed(1)), element("span", {}, "1.0")),
  ]);
}

function row(source, state, report, low, probe) {
  const measured = report.queries > 0;
  const note = !measured
    ? state === "off" ? "not watched" : report.reason
    : `${share(report.lower)} to ${share(report.upper)}, baseline ${report.baseline ? share(report.baseline) : "not yet known"}; ` +
      `${number(report.queries)} queries` + (probe ? `; nDCG@10 ${share(probe.ndcg)}` : "");
  return element(
    "div", { class: "meter", "data-state": state },
    element("span", { class: "name" }, SOURCES[source]),
    element("b", { class: "figure" }, state === "off" ? "–" : state === "unknown" ? "unknown" : share(report.rolling)),
    interval(low, measured ? report : {}),
    element("span", { class: "note" }, note),
  );
}

export function canary(place, { canary }) {
  fill(place, canary, () => canary.devices.map((device) => cosine(device, canary)));
}

// The scale runs from well below the floor to 1, so that a healthy device is seen to be far from it.
// A device that has not been asked for long makes the whole unknown: then none is shown as ok.
function cosine(device, { start_floor: start, state }) {
  const floor = device.golden_floor;
  const low = Math.max(-1, 1 - 2 * (1 - floor));
  const heard = device.checked_at > 0;
  const bad = heard && !(device.golden >= floor && device.start >= start);
  const report = heard ? { queries: 1, lower: device.golden, upper: device.golden, rolling: device.golden, baseline: floor } : { baseline: floor };
  return element(
    "div", { class: "meter", "data-state": bad ? "warn" : heard && state !== "unknown" ? "ok" : "unknown" },
    element("span", { class: "name" }, device.device),
    element("b", { class: "figure" }, heard ? share(device.golden, 5) : "unknown"),
    interval(low, report),
    element("span", { class: "note" }, `floor ${floor}; to its own vectors at start ${heard ? share(device.start, 5) : "unknown"}` +
      (device.failures ? `; ${device.failures} rounds failed` : "")),
  );
}

export function drift(place, moved, { diagnosis, queries: { drift, evidence } }) {
  const state = diagnosis.signals.drift ?? "off";
  fill(place, [state, drift], () => (state === "off" || state === "unknown" ? [element("p", { class: "soft" }, state === "off" ? "Not watched: there is no drift reference." : `Unknown: ${drift.reason}.`)] : [
    limited("Score", drift.score, drift.threshold, state, "squared shift of the mean, 1 without drift"),
    limited("Effect", drift.effect, drift.effect_floor, state, "standard deviations beyond noise"),
    element("p", { class: "soft" }, `Both must pass their limits. ${number(drift.distinct)} distinct queries, worth ${number(drift.effective)} independent ones; ` +
      `${percent(drift.dimensions_ratio)} of dimensions at p < 0.05 (5% without drift).`),
  ]));
  fill(moved, evidence, () => facts(evidence));
}

function limited(name, value, limit, state, note) {
  return element(
    "div", { class: "meter", "data-state": limit && value > limit ? state : "ok" },
    element("span", { class: "name" }, name),
    element("span", { class: "figure" }, element("b", {}, number(value)), ` of ${limit ? number(limit) : "–"}`),
    used(limit ? value / limit : 0),
    element("span", { class: "note" }, note),
  );
}

function facts({ far, gained, lost, queries }) {
  if (!far) return [element("p", { class: "soft" }, "What moved is shown when there are queries to compare.")];
  const topics = [...gained, ...lost].map((topic) => fact(`Topic ${topic.cluster}`, `${percent(topic.then)} → ${percent(topic.now)}`));
  const list = [element("h3", {}, "Topics, in the reference and now"), element("ul", { class: "facts" }, fact("No known topic", `${percent(far.then)} → ${percent(far.now)}`), ...topics)];
  if (!queries.length) return list;
  return [...list, element("h3", {}, "Furthest queries"), element("ul", { class: "facts" }, ...queries.slice(0, 5).map((each) => fact(each.text ?? `query ${each.id}`, share(each.distance, 2))))];
}

const fact = (name, value) => element("li", {}, element("span", {}, name), element("span", {}, value));
