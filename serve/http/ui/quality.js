// Recall by source, canaries by device, and drift of the queries.

import { element, fill, interval, used } from "./draw.js";
import { cosine, number, percent, share } from "./words.js";

const SOURCES = { shadow: "Index, compared with an exact search", probe: "Probes: labelled queries", feedback: "Users: their feedback" };

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
    ? state === "off" ? "not monitored" : report.reason
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
  fill(place, canary, () => canary.devices.map((device) => deviceRow(device, canary)));
}

// The scale begins well below the floor, so that the distance of a healthy device from the floor is visible.
// If one device had no recent round, the state of all is unknown: then no device is shown as ok.
function deviceRow(device, { start_floor: start, state }) {
  const floor = device.golden_floor;
  const low = Math.max(-1, 1 - 2 * (1 - floor));
  const checked = device.checked_at > 0;
  const bad = checked && !(device.golden >= floor && device.start >= start);
  const report = checked ? { queries: 1, lower: device.golden, upper: device.golden, rolling: device.golden, baseline: floor } : { baseline: floor };
  return element(
    "div", { class: "meter", "data-state": bad ? "warn" : checked && state !== "unknown" ? "ok" : "unknown" },
    element("span", { class: "name" }, device.device),
    element("b", { class: "figure" }, checked ? cosine(device.golden) : "unknown"),
    interval(low, report),
    element("span", { class: "note" }, `floor ${floor}; cosine to its own vectors at start: ${checked ? cosine(device.start) : "unknown"}` +
      (device.failures ? `; ${device.failures} rounds failed` : "")),
  );
}

export function drift(place, moved, { diagnosis, queries: { drift, evidence } }) {
  const state = diagnosis.signals.drift ?? "off";
  fill(place, [state, drift], () => (state === "off" || state === "unknown" ? [element("p", { class: "soft" }, state === "off" ? "Not monitored: there is no drift reference." : `Unknown: ${drift.reason}.`)] : [
    limited("Score", drift.score, drift.threshold, state, "squared shift of the mean: about 1 without drift"),
    limited("Effect", drift.effect, drift.effect_floor, state, "shift beyond noise, in standard deviations"),
    element("p", { class: "soft" }, `It warns if both are above their limits. Tested: ${number(drift.distinct)} distinct queries, equivalent to ${number(drift.effective)} independent ones. ` +
      `${percent(drift.dimensions_ratio)} of dimensions have p < 0.05 (5% without drift).`),
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
  if (!far) return [element("p", { class: "soft" }, "Changes are shown when there are queries to compare.")];
  const topics = [...gained, ...lost].map((topic) => fact(`Topic ${topic.cluster}`, `${percent(topic.then)} → ${percent(topic.now)}`));
  const list = [element("h3", {}, "Topics: share in the reference and now"), element("ul", { class: "facts" }, fact("No known topic", `${percent(far.then)} → ${percent(far.now)}`), ...topics)];
  if (!queries.length) return list;
  return [...list, element("h3", {}, "Queries furthest from the reference (1 - cosine)"), element("ul", { class: "facts" }, ...queries.slice(0, 5).map((each) => fact(each.text ?? `query ${each.id}`, share(each.distance, 2))))];
}

const fact = (name, value) => element("li", {}, element("span", {}, name), element("span", {}, value));
