// The order of the prints: from one to the next, by key, by button and by finger. Refuses to know how one is shown.

import { isTerminal } from "./words.js";

const STROKE_PIXELS = 40;

/** Numbers of a job's frames: its pictures, those it will have, or one place where a picture is missing. */
export function frameNumbers(job) {
  if (job.images.length) return job.images.map((image) => image.index);
  return Array.from({ length: isTerminal(job) ? 1 : job.input.num_images }, (_, index) => index);
}

/** The print before or after in the order of the wall, across jobs; null at its ends. */
export function neighbour(jobs, { id, index }, step) {
  const all = jobs.flatMap((job) => frameNumbers(job).map((number) => ({ id: job.id, index: number })));
  const at = all.findIndex((each) => each.id === id && each.index === index);
  return at < 0 ? null : (all[at + step] ?? null);
}

/** Handlers for an element on which a finger's sideways stroke calls `go` with 1 or -1. */
export function strokes(go) {
  let start = null;
  return {
    onTouchStart: ({ touches, target }) => {
      // Two fingers zoom, a zoomed page pans, and some elements have strokes of their own.
      const taken = touches.length > 1 || visualViewport?.scale > 1.01 || target.closest("input, textarea, pre");
      start = taken ? null : { x: touches[0].clientX, y: touches[0].clientY };
    },
    onTouchEnd: ({ changedTouches: [touch] }) => {
      if (!start) return;
      const [across, down] = [touch.clientX - start.x, touch.clientY - start.y];
      start = null;
      if (Math.abs(across) > STROKE_PIXELS && Math.abs(across) > 2 * Math.abs(down)) go(across < 0 ? 1 : -1);
    },
  };
}
