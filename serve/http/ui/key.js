// The API key, if the server requires one: from the user, or from the address of the page, #key=...
// It is stored for this tab only and removed from the address, so that it is in no history or bookmark.

const STORAGE_NAME = "embedship-key";

export function storeKey(value) {
  sessionStorage.setItem(STORAGE_NAME, value);
}

function takeKeyFromAddress() {
  const keyInAddress = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!keyInAddress) return;
  storeKey(keyInAddress);
  history.replaceState(null, "", location.pathname + location.search);
}

takeKeyFromAddress();
addEventListener("hashchange", takeKeyFromAddress); // a key added to the address of an open page

export function key() {
  const stored = sessionStorage.getItem(STORAGE_NAME);
  return stored ? { authorization: `Bearer ${stored}` } : {};
}

export const KEY_REQUIRED = "This server requires an API key.";
