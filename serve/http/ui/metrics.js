// Prometheus' text format, read by the same rules as Prometheus does: counters are compared with what they were before.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

// Routes that nobody waits for: as in the recording rules.
const QUIET = /^(?:other|\/admin\/.*|\/health|\/info|\/metrics|\/models|\/monitor(\/.*)?|\/openapi[.]json|\/ready|\/v1\/models(\/.*)?)$/;

export const work = (labels) => !QUIET.test(labels.route);

export function parse(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = line[0] === "#" ? null : LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!series.has(found[1])) series.set(found[1], []);
    series.get(found[1]).push({ labels, value: Number(found[3].replace("Inf", "Infinity")) });
  }
  return series;
}

export function sum(series, name, match = () => true) {
  return (series.get(name) ?? []).reduce((total, each) => total + (match(each.labels) ? each.value : 0), 0);
}

// How much a counter rose between two scrapes; null where the server was restarted in between.
export function increase(now, before, name, match) {
  const rise = sum(now, name, match) - sum(before, name, match);
  return rise < 0 ? null : rise;
}

// As histogram_quantile does: linear inside the bucket. null without observations.
export function quantile(now, before, q, name, match = () => true) {
  const bounds = [...new Set((now.get(name + "_bucket") ?? []).map((each) => Number(each.labels.le.replace("Inf", "Infinity"))))];
  bounds.sort((a, b) => a - b);
  const upTo = (bound) => (labels) => match(labels) && Number(labels.le.replace("Inf", "Infinity")) === bound;
  const counts = bounds.map((bound) => increase(now, before, name + "_bucket", upTo(bound)));
  const total = counts.at(-1);
  if (!total || counts.includes(null)) return null;
  const place = counts.findIndex((count) => count >= q * total);
  const low = place ? bounds[place - 1] : 0;
  if (bounds[place] === Infinity) return low;
  const below = place ? counts[place - 1] : 0;
  return low + ((bounds[place] - low) * (q * total - below)) / (counts[place] - below || 1);
}
