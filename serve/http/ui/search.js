// The search box: POST /search, and its hits as text.

import { bar, element } from "./draw.js";
import { key } from "./key.js";
import { seconds } from "./words.js";

const HITS = 5;

export function connect({ form, input, answer, hits, api }) {
  let latest = 0;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const turn = ++latest;
    const began = performance.now();
    answer.classList.remove("failed");
    answer.textContent = "Searching…";
    const outcome = await ask(api, input.value).catch(() => ({ error: "The server did not answer." }));
    if (turn !== latest) return; // a later question is on its way
    answer.classList.toggle("failed", "error" in outcome);
    hits.replaceChildren(...(outcome.hits ?? []).map(hit));
    const [time, unit] = seconds((performance.now() - began) / 1000);
    answer.textContent = outcome.error ?? `${outcome.hits.length} hits in ${time} ${unit}, the way here and back included`;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== input && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      input.focus();
    }
  });
}

async function ask(api, query) {
  const headers = { "content-type": "application/json", ...key() };
  const reply = await fetch(api + "search", { method: "POST", headers, body: JSON.stringify({ query, k: HITS }) });
  const said = await reply.json();
  return reply.ok ? { hits: said.results[0].hits } : { error: said.error };
}

function hit({ id, score, text, title }) {
  return element(
    "li", {},
    element("div", { class: "score" }, score.toFixed(3), bar(score)),
    element("div", {}, title ? element("b", {}, title) : null, element("p", {}, text), element("code", {}, id)),
  );
}
