// How the page speaks to the service: one function for calls, two kinds of failure, and the key.
// Refuses to know what a job or a picture is.

import { read, write } from "./kept.js";

const KEY_NAME = "darkroom-key";
export const WAIT_MS = 30_000;
/** No answer is waited for longer. */

/** Where the service is: a proxy may show it below a path. This file is at /static/api.js of it. */
export const home = new URL("..", import.meta.url).pathname.replace(/\/$/, "");

/** The service answered, and said no. `problem` is its RFC 9457 body. */
export class Refused extends Error {
  constructor(problem, retryAfter) {
    super(problem.detail || problem.title || `HTTP ${problem.status}`);
    this.problem = problem;
    this.status = problem.status;
    this.retryAfter = retryAfter;
  }
}

/** No answer, or none of this service: the network, or a proxy before it. */
export class Unreachable extends Error {
  constructor(cause) {
    super("The service does not answer", { cause });
  }
}

/** The key was changed while the answer was on its way: that one is another caller's, or says that a key is wrong which
 * nobody uses any more. */
export class Outdated extends Unreachable {}

/** The key, for this tab only. */
export const key = {
  get: () => read(KEY_NAME) ?? "",
  set: (value) => write(KEY_NAME, value || null),
};

export function authorization() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

/** The answer's body, null where there is none. A `body` goes as JSON, a file as it is. Throws Refused or Unreachable. */
export async function call(path, { method = "GET", body, headers = {}, signal = deadline() } = {}) {
  const options = { method, headers: { ...headers }, signal };
  if (body !== undefined) {
    const isFile = body instanceof Blob;
    options.body = isFile ? body : writeJson(body);
    options.headers["Content-Type"] = isFile ? body.type || "application/octet-stream" : "application/json";
  }
  const { response, content } = await reached(path, options, "text");
  return understood(response, content);
}

/** A file of the service, as a Blob. Throws as `call` does. */
export async function load(path) {
  const { response, content } = await reached(path, { signal: deadline() }, "blob");
  return response.ok ? content : understood(response, await content.text());
}

/** An answer and its content, whatever it says. */
async function reached(path, options, kind) {
  const given = key.get();
  try {
    const response = await fetch(home + path, { ...options, headers: { ...authorization(), ...options.headers } });
    return { response, content: await response[kind]() };
  } catch (error) {
    throw new Unreachable(error);
  } finally {
    if (key.get() !== given) throw new Outdated();
  }
}

function deadline() {
  return AbortSignal.timeout?.(WAIT_MS);
}

function understood(response, text) {
  let body = null;
  try {
    body = text ? readJson(text) : null;
  } catch (error) {
    throw new Unreachable(error);
  }
  if (response.ok) return body;
  if (!body?.status) throw new Unreachable(new Error(`HTTP ${response.status}`));
  throw new Refused(body, Number(response.headers.get("Retry-After")) || null);
}

/** JSON whose seeds may exceed 2^53: such a one becomes a string, and writeJson makes it a number again. */
export function readJson(text) {
  // Inside a JSON string the quotes around `seed` are escaped, so only a real member matches.
  return JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
}

export function writeJson(value, indent) {
  return JSON.stringify(value, null, indent).replace(/"seed":(\s?)"(\d+)"/g, '"seed":$1$2');
}

/** A name nobody else uses, for Idempotency-Key. randomUUID is missing on plain http to another machine. */
export function uniqueName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
