// Polls the server every two seconds and shows its status, or that the connection is lost.

import { fill, say } from "./draw.js";
import { KEY_REQUIRED, key, storeKey } from "./key.js";
import { parse } from "./metrics.js";
import * as quality from "./quality.js";
import { connect } from "./search.js";
import { Service } from "./service.js";
import * as signals from "./signals.js";
import { ago, headline } from "./words.js";

const POLL_MS = 2000;
const TIMEOUT_MS = 8000; // without an answer in this time the connection counts as lost
const API = "../"; // relative to /monitor/ui, so that a prefix added by a proxy works

const at = (id) => document.getElementById(id);
const service = new Service();
let answered = 0; // Unix seconds of the last answer
let fingerprint = null;

async function get(path) {
  const reply = await fetch(API + path, { headers: key(), signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
  if (reply.status === 401) throw new Error(KEY_REQUIRED);
  if (!reply.ok) throw new Error(`GET /${path} was answered with ${reply.status}`);
  return reply;
}

async function poll() {
  const [monitor, metrics] = await Promise.all([get("monitor"), get("metrics")]);
  const current = monitor.headers.get("x-embedship-fingerprint");
  if (current !== fingerprint) showModel(await (await get("info")).json());
  fingerprint = current;
  answered = Date.now() / 1000;
  service.add(parse(await metrics.text()), answered);
  show(await monitor.json());
  service.show(at("tiles"));
}

function showModel(info) {
  say(at("model"), info.model_id);
  say(at("variant"), `${info.dimension} dimensions, ${info.variant}, ${info.streams} streams`);
  say(at("fingerprint"), info.fingerprint);
  say(at("server"), `embedship ${info.version}.`);
  const { index } = info;
  say(at("index-note"), index ? `${index.size.toLocaleString("en")} documents, ${index.kind}` : "this server has no index");
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
  say(at("drift-note"), promised ? `false alarms: promised ${per(promised)}, measured ${per(measured)} (95% interval: ${interval})` : "");
}

const per = (perDay) => (perDay >= 1 ? `${perDay.toFixed(1)} per day` : perDay > 0 ? `1 in ${Math.round(1 / perDay)} days` : "none");

function showConnection(state, words) {
  at("pulse").dataset.state = state;
  fill(at("pulse").lastElementChild, words, () => [words]);
}

function onLost(error) {
  service.gap();
  const old = answered ? ` The data on this page is ${ago(answered)} old.` : "";
  const keyRequired = error.message === KEY_REQUIRED;
  say(at("lost"), keyRequired ? KEY_REQUIRED : `The server does not answer.${old} Trying again every two seconds.`);
  at("lost").hidden = false;
  at("ask").hidden = !keyRequired;
  document.body.classList.add("stale");
  showConnection("warn", keyRequired ? "no API key" : "connection lost");
  console.info(error.message);
}

function onAnswer() {
  at("lost").hidden = at("ask").hidden = true;
  document.body.classList.remove("stale");
  showConnection("ok", "live");
}

async function pollForever() {
  if (!document.hidden) await poll().then(onAnswer, onLost);
  setTimeout(pollForever, POLL_MS);
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  storeKey(at("key").value);
  at("key").value = "";
});
connect({ form: at("form"), input: at("search"), answer: at("answer"), hits: at("hits"), api: API });
pollForever();
