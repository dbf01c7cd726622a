// Throughput, latency, queue and failures of the last five minutes, computed from counters.

import { element, fill, spark } from "./draw.js";
import { increase, quantile, sum, work } from "./metrics.js";
import { number, seconds } from "./words.js";

const HISTORY_POLLS = 150;
const RATE_POLLS = 5; // polls over which a rate is computed: 10 s
const overloaded = (labels) => labels.reason === "overloaded";

export class Service {
  constructor() {
    this.scrapes = [];
    this.history = { texts: [], slow: [], queue: [], failed: [] };
  }

  // Add a scrape at a time in seconds, and compute the rates since the scrape ten seconds before.
  add(series, at) {
    this.scrapes.push({ series, at });
    if (this.scrapes.length > RATE_POLLS + 1) this.scrapes.shift();
    this.now = this.measure();
    const { texts, p99, queue, failed, refused } = this.now;
    const bad = failed === null || refused === null ? null : failed + refused;
    this.keep({ texts, slow: p99, queue, failed: bad });
  }

  // Record that nothing was measured: the lines have a gap.
  gap() {
    this.scrapes = [];
    this.keep({ texts: null, slow: null, queue: null, failed: null });
  }

  keep(values) {
    for (const [name, value] of Object.entries(values)) {
      this.history[name].push(value);
      if (this.history[name].length > HISTORY_POLLS) this.history[name].shift();
    }
  }

  measure() {
    const last = this.scrapes.at(-1);
    const first = this.scrapes[0];
    const now = last.series;
    const before = first.series;
    const elapsed = last.at - first.at;
    const rate = (name, match) => {
      const rise = elapsed ? increase(now, before, name, match) : null;
      return rise === null ? null : rise / elapsed;
    };
    const slow = (q) => (elapsed ? quantile(now, before, q, "embedship_request_seconds", work) : null);
    return {
      texts: rate("embedship_texts_total"),
      tokens: rate("embedship_tokens_total"),
      requests: rate("embedship_requests_total", work),
      p50: slow(0.5),
      p99: slow(0.99),
      queue: sum(now, "embedship_queue_texts"),
      inside: sum(now, "embedship_permits_in_use"),
      refused: rate("embedship_rejections_total", overloaded),
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
      ["Latency, 99th percentile", slow, unit, p99 === null ? "no requests in the last 10 s" : `half of the requests take under ${middle} ${short}`, "slow"],
      ["Texts waiting", number(queue), "", `${number(inside)} texts admitted but not yet answered`, "queue"],
      ["Refused or failed", number(bad), "/s", `${number(refused)} refused, ${number(failed)} failed`, "failed"],
    ];
    fill(place, [tiles, this.history], () => tiles.map((tile) => this.tile(...tile)));
  }

  tile(title, value, unit, note, name) {
    const label = `${title}, last five minutes: now ${value} ${unit}`;
    return element(
      "li", {},
      element("p", { class: "title" }, title),
      element("p", { class: value === "–" ? "value none" : "value" }, value, element("span", { class: "unit" }, unit)),
      element("p", { class: "note" }, note),
      spark(this.history[name], label),
    );
  }
}
