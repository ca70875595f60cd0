// Sending requests in, from one place of the page, and what went wrong with the last.
// The same request sent again after an outage carries the same name, so it is drawn once.

import { useRef, useState } from "./preact-htm.js";
import { uniqueName } from "./api.js";
import { failureOf } from "./failure.js";

const GONE = 410;

/** Whether nothing was accepted under this name, nor will be: the next try is another request. */
const isRefused = ({ status }) => status >= 400 && status < 500 && ![401, 429].includes(status);

/** `submit` takes a request with its name, and throws what was wrong. `send` never throws; it may be called again while
 * another request is on its way. `retry` sends what has failed since the last call of either. */
export function useSender(submit) {
  const names = useRef(new Map());
  const [underway, setUnderway] = useState(0);
  const [failure, setFailure] = useState(null);

  async function send(request, metadata) {
    setFailure(null);
    const content = JSON.stringify([request, metadata]);
    const named = () => names.current.set(content, uniqueName()).get(content);
    const attempt = (name) => submit(request, { name, metadata });
    setUnderway((before) => before + 1);
    try {
      // The name may be that of a job whose acceptance nobody heard of, and which was deleted since.
      await attempt(names.current.get(content) ?? named()).catch((error) => (error.status === GONE ? attempt(named()) : Promise.reject(error)));
      names.current.delete(content);
    } catch (error) {
      if (isRefused(error)) names.current.delete(content);
      setFailure((before) => ({ ...failureOf(error, request), missed: [...(before?.missed ?? []), [request, metadata]] }));
    }
    setUnderway((before) => before - 1);
  }

  const retry = () => failure.missed.forEach((each) => send(...each));
  return { isBusy: underway > 0, failure, send, retry, dismiss: () => setFailure(null) };
}
