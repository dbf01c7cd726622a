// Ask every two seconds, show the answer, and say so when there is none.

import { fill, say } from "./draw.js";
import { ASKED, key, remember } from "./key.js";
import { parse } from "./metrics.js";
import * as quality from "./quality.js";
import { connect } from "./search.js";
import { Service } from "./service.js";
import * as signals from "./signals.js";
import { ago, headline } from "./words.js";

const EVERY = 2000; // ms
const PATIENCE = 8000; // ms: a server that takes longer is not answering
const API = "../"; // beside /monitor/ui, behind whatever prefix a proxy puts before it

const at = (id) => document.getElementById(id);
const service = new Service();
let answered = 0; // Unix seconds of the last answer
let fingerprint = null;

async function get(path) {
  const reply = await fetch(API + path, { headers: key(), signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (reply.status === 401) throw new Error(ASKED);
  if (!reply.ok) throw new Error(`GET /${path} was answered with ${reply.status}`);
  return reply;
}

async function poll() {
  const [monitor, metrics] = await Promise.all([get("monitor"), get("metrics")]);
  const seen = monitor.headers.get("x-embedship-fingerprint");
  if (seen !== fingerprint) introduce(await (await get("info")).json());
  fingerprint = seen;
  answered = Date.now() / 1000;
  service.add(parse(await metrics.text()), answered);
  show(await monitor.json());
  service.show(at("tiles"));
}

function introduce(info) {
  say(at("model"), info.model_id);
  say(at("variant"), `${info.dimension} dimensions, ${info.variant}, ${info.streams} streams`);
  say(at("fingerprint"), info.fingerprint);
  say(at("server"), `embedship ${info.version}.`);
  const { index } = info;
  say(at("index-note"), index ? `${index.size.toLocaleString("en")} documents, ${index.kind}` : "this server holds none");
  for (const part of at("form").elements) part.disabled = !index;
  document.title = `embedship · ${info.model_id}`;
}

function show(status) {
  const { cause, reason, since } = status.diagnosis;
  document.body.dataset.cause = cause;
  say(at("cause"), headline(status.diagnosis));
  say(at("reason"), reason[0].toUpperCase() + reason.slice(1) + ".");
  say(at("since"), since ? `for ${ago(since)}` : "");
  signals.show(at("signals"), status);
  quality.recall(at("recall"), status);
  quality.canary(at("canary"), status);
  quality.drift(at("drift"), at("moved"), status);
  const { promised_per_day: promised, measured_per_day: measured, measured_lower_per_day: low, measured_upper_per_day: high } =
    status.queries.drift;
  const interval = `${per(low)} to ${per(high)}`;
  say(at("drift-note"), promised ? `false alarms: ${per(promised)} promised, ${per(measured)} measured (95%: ${interval})` : "");
}

const per = (perDay) => (perDay >= 1 ? `${perDay.toFixed(1)} a day` : perDay > 0 ? `1 in ${Math.round(1 / perDay)} days` : "none");

function alive(state, words) {
  at("pulse").dataset.state = state;
  fill(at("pulse").lastElementChild, words, () => [words]);
}

function lost(error) {
  service.gap();
  const old = answered ? ` What you see is ${ago(answered)} old.` : "";
  const asked = error.message === ASKED;
  say(at("lost"), asked ? ASKED : `The server does not answer.${old} Trying again every two seconds.`);
  at("lost").hidden = false;
  at("ask").hidden = !asked;
  document.body.classList.add("stale");
  alive("warn", asked ? "no key" : "connection lost");
  console.info(error.message);
}

function found() {
  at("lost").hidden = at("ask").hidden = true;
  document.body.classList.remove("stale");
  alive("ok", "live");
}

async function round() {
  if (!document.hidden) await poll().then(found, lost);
  setTimeout(round, EVERY);
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(at("key").value);
  at("key").value = "";
});
connect({ form: at("form"), input: at("search"), answer: at("answer"), hits: at("hits"), api: API });
round();
