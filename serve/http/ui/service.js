// Throughput, latency, queue and failures, from the counters of the last five minutes.

import { element, fill, spark } from "./draw.js";
import { increase, quantile, sum, work } from "./metrics.js";
import { number, seconds } from "./words.js";

const KEPT = 150; // polls
const BACK = 5; // polls over which a rate is taken: 10 s
const OURS = (labels) => labels.reason === "overloaded";

export class Service {
  constructor() {
    this.scrapes = [];
    this.history = { texts: [], slow: [], queue: [], failed: [] };
  }

  // Take a scrape at a time in seconds, and what was measured since the one ten seconds ago.
  add(series, at) {
    this.scrapes.push({ series, at });
    if (this.scrapes.length > BACK + 1) this.scrapes.shift();
    this.now = this.measure();
    const { texts, p99, queue, failed, refused } = this.now;
    const bad = failed === null || refused === null ? null : failed + refused;
    this.keep({ texts, slow: p99, queue, failed: bad });
  }

  // Nothing was measured: the lines break.
  gap() {
    this.scrapes = [];
    this.keep({ texts: null, slow: null, queue: null, failed: null });
  }

  keep(values) {
    for (const [name, value] of Object.entries(values)) {
      this.history[name].push(value);
      if (this.history[name].length > KEPT) this.history[name].shift();
    }
  }

  measure() {
    const last = this.scrapes.at(-1);
    const first = this.scrapes[0];
    const now = last.series;
    const before = first.series;
    const passed = last.at - first.at;
    const rate = (name, match) => {
      const rise = passed ? increase(now, before, name, match) : null;
      return rise === null ? null : rise / passed;
    };
    const slow = (q) => (passed ? quantile(now, before, q, "embedship_request_seconds", work) : null);
    return {
      texts: rate("embedship_texts_total"),
      tokens: rate("embedship_tokens_total"),
      requests: rate("embedship_requests_total", work),
      p50: slow(0.5),
      p99: slow(0.99),
      queue: sum(now, "embedship_queue_texts"),
      inside: sum(now, "embedship_permits_in_use"),
      refused: rate("embedship_rejections_total", OURS),
      failed: rate("embedship_failures_total"),
    };
  }

  show(place) {
    const { texts, tokens, requests, p50, p99, queue, inside, refused, failed } = this.now;
    const [slow, unit] = seconds(p99);
    const [middle, short] = seconds(p50);
    const bad = this.history.failed.at(-1);
    const tiles = [
      ["Texts encoded", number(texts), "/s", `${number(requests)} requests/s, ${number(tokens)} tokens/s`, "texts"],
      ["Slowest 1% of requests", slow, unit, p99 === null ? "no requests in the last 10 s" : `half take under ${middle} ${short}`, "slow"],
      ["Texts waiting", number(queue), "", `${number(inside)} admitted and not yet answered`, "queue"],
      ["Refused or failed", number(bad), "/s", `${number(refused)} refused, ${number(failed)} failed`, "failed"],
    ];
    fill(place, [tiles, this.history], () => tiles.map((tile) => this.tile(...tile)));
  }

  tile(title, value, unit, note, name) {
    const label = `${title}, the last five minutes: now ${value} ${unit}`;
    return element(
      "li", {},
      element("p", { class: "title" }, title),
      element("p", { class: value === "–" ? "value none" : "value" }, value, element("span", { class: "unit" }, unit)),
      element("p", { class: "note" }, note),
      spark(this.history[name], label),
    );
  }
}
