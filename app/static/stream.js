// Server-sent events read with fetch, because EventSource cannot send a key.
// Knows the format (WHATWG HTML, 9.2); refuses to know what the events say.

import { authorization, home, readJson } from "./api.js";

const SILENCE_MS = 60_000;
/** The service gives a sign of life every 15 s: a line that is silent for so long leads nowhere any more, as after a sleep. */

/** Events {id, name, data} until the stream ends; `after` goes on behind that id. Throws on a refusal or a break, and when
 * `signal` ends it. */
export async function* events(path, { after, signal } = {}) {
  const headers = { Accept: "text/event-stream", ...authorization() };
  if (after) headers["Last-Event-ID"] = after;
  const response = await heard(fetch(home + path, { headers, signal }));
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
    const { done, value } = await heard(reader.read());
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const message = parse(block);
      if (message) yield message;
    }
  }
}

/** What is waited for, unless it is silent too long. */
function heard(coming) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("Nothing is heard")), SILENCE_MS);
  });
  return Promise.race([coming, silence]).finally(() => clearTimeout(timer));
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
