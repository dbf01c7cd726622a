// Where the server asks for an API key, the page takes it from its own address, #key=...: no browser sends that part.

export function key() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  return given ? { authorization: `Bearer ${given}` } : {};
}

export const ASKED = "This server asks for an API key: add #key=… to the address of this page.";
