// Sending requests in, from one place of the page, and what went wrong with the last.
// The same request sent again after an outage carries the same name, so it is drawn once.

import { useRef, useState } from "./preact-htm.js";
import { uniqueName } from "./api.js";
import { failureOf } from "./failure.js";

/** `submit` takes a request with its name, and throws what was wrong. `send` never throws; it may be called again while
 * another request is on its way. `retry` sends what has failed since the last call of either. */
export function useSender(submit) {
  const names = useRef(new Map());
  const [underway, setUnderway] = useState(0);
  const [failure, setFailure] = useState(null);

  async function send(request, metadata) {
    setFailure(null);
    const content = JSON.stringify([request, metadata]);
    const name = names.current.get(content) ?? uniqueName();
    names.current.set(content, name);
    setUnderway((before) => before + 1);
    try {
      await submit(request, { name, metadata });
      names.current.delete(content);
    } catch (error) {
      setFailure((before) => ({ ...failureOf(error, request), missed: [...(before?.missed ?? []), [request, metadata]] }));
    }
    setUnderway((before) => before - 1);
  }

  const retry = () => failure.missed.forEach((each) => send(...each));
  return { isBusy: underway > 0, failure, send, retry, dismiss: () => setFailure(null) };
}
