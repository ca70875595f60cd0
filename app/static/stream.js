// Server-sent events read with fetch, because EventSource cannot send a key.
// Knows the format (WHATWG HTML, 9.2); refuses to know what the events say.

import { authorization, home, readJson } from "./api.js";

/** Events {id, name, data} until the stream ends; `after` goes on behind that id. Throws on a refusal or a break, and when
 * `signal` ends it. */
export async function* events(path, { after, signal } = {}) {
  const headers = { Accept: "text/event-stream", ...authorization() };
  if (after) headers["Last-Event-ID"] = after;
  const response = await fetch(home + path, { headers, signal });
  if (response.status === 204) return;
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    yield* messages(reader);
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* messages(reader) {
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const message = parse(block);
      if (message) yield message;
    }
  }
}

function parse(block) {
  const message = { id: "", name: "message" };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = line.match(/^([^:]*):? ?(.*)$/) ?? [];
    if (field === "id") message.id = value;
    if (field === "event") message.name = value;
    if (field === "data") data.push(value);
  }
  return data.length ? { ...message, data: readJson(data.join("\n")) } : null;
}
