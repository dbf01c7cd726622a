// Elements and small pictures. Text is only ever set as text: what comes from documents can never become markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A line over the last values, null where nothing was measured.
export function spark(values, label) {
  const known = values.filter((value) => value !== null);
  const slots = Math.max(values.length, 30); // the first minute is drawn as wide as it will be
  const top = Math.max(...known, 1e-9) * 1.08;
  const x = (i) => 300 - (values.length - 1 - i) * (300 / (slots - 1));
  const y = (value) => 40 - (value / top) * 38;
  const parts = [];
  let run = [];
  for (const [i, value] of [...values, null].entries()) {
    if (value !== null) run.push([x(i), y(value)]);
    else if (run.length) { parts.push(run); run = []; }
  }
  const picture = drawn("svg", { viewBox: "0 0 300 42", preserveAspectRatio: "none", role: "img", "aria-label": label, class: "spark" });
  for (const part of parts) {
    const path = part.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L");
    picture.append(drawn("path", { class: "area", d: `M${path}L${part.at(-1)[0].toFixed(1)},42L${part[0][0].toFixed(1)},42Z` }));
    picture.append(drawn("path", { class: "line", d: `M${path}` }));
  }
  return picture;
}

export function bar(share) {
  const width = Math.max(0, Math.min(1, share)) * 100;
  const full = drawn("rect", { width: 100, height: 4, rx: 2 });
  return drawn("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, full, drawn("rect", { width, height: 4, rx: 2 }));
}

const percent = (value) => `${Math.max(0, Math.min(1, value)) * 100}%`;

function placed(kind, left, right) {
  const piece = element("i", { class: kind });
  piece.style.left = percent(left);
  if (right !== undefined) piece.style.width = percent(right - left);
  return piece;
}

// A scale from `low` to 1 with an interval, the value, and the baseline it is held against.
export function interval(low, report) {
  const at = (value) => (value - low) / (1 - low);
  const track = element("div", { class: "track", "aria-hidden": "true" });
  if (report.queries) track.append(placed("band", at(report.lower), at(report.upper)), placed("point", at(report.rolling)));
  if (report.baseline) track.append(placed("mark", at(report.baseline)));
  return track;
}

// How much of a limit is used: the mark stands at 1.
export function used(share) {
  const track = element("div", { class: "track", "aria-hidden": "true" });
  track.append(placed("fill", 0, share / 2), placed("mark", 0.5));
  return track;
}

// Replace what a place holds only if it changed, so that a selection or a reader is not disturbed.
export function fill(place, key, make) {
  const mark = JSON.stringify(key);
  if (place.dataset.shown === mark) return;
  place.dataset.shown = mark;
  place.replaceChildren(...make());
}

export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
