// Sending requests in, from one place of the page, and what went wrong with the last.
// The same request sent again after an outage carries the same name, so it is drawn once.

import { useRef, useState } from "./preact-htm.js";
import { uniqueName } from "./api.js";
import { failureOf } from "./failure.js";

/** `submit` takes a request with its name, and throws what was wrong. `send` never throws. */
export function useSender(submit) {
  const last = useRef({});
  const [isBusy, setBusy] = useState(false);
  const [failure, setFailure] = useState(null);

  async function send(request, metadata) {
    const content = JSON.stringify([request, metadata]);
    const name = last.current.content === content ? last.current.name : uniqueName();
    last.current = { content, name, request, metadata };
    setBusy(true);
    setFailure(null);
    try {
      await submit(request, { name, metadata });
      last.current = {};
    } catch (error) {
      setFailure(failureOf(error, request));
    }
    setBusy(false);
  }

  return { isBusy, failure, send, retry: () => send(last.current.request, last.current.metadata), dismiss: () => setFailure(null) };
}
