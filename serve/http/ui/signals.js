// The five signals: what each asks, its state, and its figure.

import { element, fill } from "./draw.js";
import { STATES, ago, number, share } from "./words.js";

const QUESTIONS = {
  canary: ["Model", "Do golden texts still get the vectors of the checkpoint?"],
  drift: ["Queries", "Are the queries like those the model was judged on?"],
  shadow: ["Index", "Does the index find what an exact search finds?"],
  probe: ["Probes", "Do known questions get their known answers?"],
  feedback: ["Users", "Do users get what they say is right?"],
};

const recallFigure = (report) => (report?.queries ? [share(report.rolling), "recall@10"] : null);

const FIGURES = {
  canary: ({ canary }) => {
    const checked = canary.devices.filter((device) => device.checked_at);
    return checked.length ? [share(Math.min(...checked.map((device) => device.golden)), 4), "lowest cosine"] : null;
  },
  drift: ({ queries: { drift } }) => [number(drift.score), `score, limit ${number(drift.threshold)}`],
  shadow: ({ queries }) => recallFigure(queries.shadow.recall),
  probe: ({ probe }) => recallFigure(probe?.recall),
  feedback: ({ feedback }) => recallFigure(feedback?.recall),
};

const REASONS = {
  canary: (status) => status.canary.reason,
  drift: (status) => status.queries.drift.reason,
  shadow: (status) => status.queries.shadow.recall.reason,
  probe: (status) => status.probe?.recall.reason,
  feedback: (status) => status.feedback?.recall.reason,
};


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
