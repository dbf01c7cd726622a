// Where the server asks for an API key, the page asks its user for it, or takes it from its own address, #key=...
// The key is kept for this tab alone, and taken out of the address, so that no history or bookmark has it.

const KEPT = "embedship-key";

export function remember(given) {
  sessionStorage.setItem(KEPT, given);
}

const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given) {
  remember(given);
  history.replaceState(null, "", location.pathname + location.search);
}

export function key() {
  const known = sessionStorage.getItem(KEPT);
  return known ? { authorization: `Bearer ${known}` } : {};
}

export const ASKED = "This server asks for an API key.";
