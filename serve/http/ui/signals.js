// The five signals: the question that each answers, its state, and its value.

import { element, fill } from "./draw.js";
import { STATES, ago, cosine, number, percent, share } from "./words.js";

const QUESTIONS = {
  canary: ["Model", "Do the golden texts get the right vectors?"],
  drift: ["Queries", "Are recent queries like those on which the model was judged?"],
  shadow: ["Index", "Does the index find the same documents as an exact search?"],
  probe: ["Probes", "Do labelled queries find their documents?"],
  feedback: ["Users", "Do users get the documents that they call right?"],
};

const recallFigure = (report) => (report?.queries ? [share(report.rolling), "recall@10"] : null);

const FIGURES = {
  canary: ({ canary }) => {
    const checked = canary.devices.filter((device) => device.checked_at);
    return checked.length ? [cosine(Math.min(...checked.map((device) => device.golden))), "lowest cosine"] : null;
  },
  drift: ({ queries: { drift } }) => [number(drift.score), `score, limit ${number(drift.threshold)}`],
  shadow: ({ queries }) => recallFigure(queries.shadow.recall),
  probe: ({ probe }) => recallFigure(probe?.recall),
  feedback: ({ feedback }) => recallFigure(feedback?.recall),
};

const REASONS = {
  canary: (status) => status.canary.reason,
  drift: ({ queries: { drift, evidence } }) => (drift.state === "warn" && evidence.far ? changed(evidence.far) : drift.reason),
  shadow: (status) => status.queries.shadow.recall.reason,
  probe: (status) => status.probe?.recall.reason,
  feedback: (status) => status.feedback?.recall.reason,
};

// What a drift warning means for the person on call. far: the share of queries that belong to no known topic.
function changed({ then, now }) {
  const what = now > 1.5 * then
    ? `About ${percent(now)} of recent queries are of a kind on which the model was not judged (${percent(then)} without drift)`
    : "The mix of topics in recent queries has changed";
  return `${what}. Answers may still be good: see what changed below.`;
}

export function show(place, status) {
  const cards = Object.entries(QUESTIONS).map(([signal, [name, question]]) => {
    const state = status.diagnosis.signals[signal] ?? "off";
    const since = state === "off" || !status.began[signal] ? "" : ` for ${ago(status.began[signal])}`;
    return { name, question, state, since, value: state === "off" || state === "unknown" ? null : FIGURES[signal](status), reason: REASONS[signal](status) };
  });
  fill(place, cards, () => cards.map(card));
}

function card({ name, question, state, since, value, reason }) {
  const badge = element("span", { class: "badge", "data-state": state }, STATES[state] + since);
  const [figure, unit] = value ?? ["–", ""];
  return element(
    "li", { "data-state": state, title: question },
    element("h3", {}, name, badge),
    element("p", { class: "value" }, figure, element("span", { class: "unit" }, unit)),
    element("p", { class: "note" }, state === "off" || state === "ok" ? question : sentence(reason)),
  );
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
