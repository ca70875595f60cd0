// What the page says, in one place. Plain text only: whatever is shown goes in as text, never as markup.

import { home, Refused, Unreachable } from "./api.js";

export const isTerminal = (job) => ["succeeded", "failed", "canceled"].includes(job.status);

/** One line on where a job stands. */
export function standing(job) {
  if (job.status === "queued") return waiting(job);
  if (job.status === "running") return developing(job);
  if (job.status === "failed") return job.error?.title ?? "Failed";
  return job.status === "canceled" ? "Canceled" : `Finished in ${seconds(job.timings.total)}`;
}

/** A job's picture of that number; there is none while it is not finished, or if it is not shown. */
export const imageOf = (job, index) => job.images.find((image) => image.index === index);

/** Whether all pictures of a job were flagged and are not shown. */
export const isBlocked = (job) => /\/problems\/content-blocked$/.test(job.error?.type ?? "");

/** What a job's pictures show: its prompt, or what they are drawn from in the place of one. */
export function shows({ prompt, image_embedding: points }) {
  if (prompt || !points) return prompt;
  if (points.slerp) return "Between two points";
  if (points.diff) return `From “${points.diff.from}” to “${points.diff.to}”`;
  return points.text ?? (points.of ? "Variation of a picture" : "From a vector");
}

/** How a job ended, for those who listen to the page. */
export function ending(job) {
  if (job.status === "succeeded") return `${count(job.images.length, "picture")} finished: ${shows(job.input)}`;
  return `${job.status === "failed" ? "Failed" : "Canceled"}: ${shows(job.input)}`;
}

function waiting(job) {
  if (job.queue?.workers === 0) return `Waiting for a worker of ${job.model}`;
  const before = job.queue?.position ?? 0;
  const eta = job.queue?.eta_seconds;
  const place = before ? `Waiting, ${count(before, "job")} before it` : "Next in line";
  const again = job.attempts ? ", started over" : "";
  return `${place}${again}${eta == null ? "" : `, about ${seconds(Math.max(1, eta))}`}`;
}

function developing(job) {
  const { step, steps, stage } = job.progress;
  if (!step) return "Starting";
  return step < steps ? `Step ${step} of ${steps}${stage ? `, ${stage}` : ""}` : "Fixing the print";
}

/** A duration in the unit that one would say it in; `digits` are those of a few seconds. */
export function seconds(value, digits = 1) {
  if (value == null) return "";
  if (value < 10) return `${value.toFixed(digits)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  return value < 5_400 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3_600)} h`;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function moment(timestamp) {
  return timestamp ? new Date(timestamp).toLocaleString() : "";
}

/** An error as {title, lines, more}: `more` is a page of this service that explains it. `wrong` are the fields to name. */
export function explain(error, wrong = error.problem?.errors ?? []) {
  if (error instanceof Unreachable) {
    return { title: "The service does not answer", lines: ["It may be restarting. Nothing it accepted is lost."] };
  }
  if (!(error instanceof Refused)) return { title: "The page failed", lines: [String(error?.message ?? error)] };
  const { problem } = error;
  const fields = wrong.map((each) => sentence(each, problem));
  return { title: problem.title, lines: fields.length ? fields : [problem.detail], more: explanation(problem.type) };
}

/** Of a body that is one file there is no field to name: then the whole sentence says it. */
function sentence(fault, { detail }) {
  const name = fieldName(fault);
  return name ? `${name} ${fault.detail}` : detail?.includes(fault.detail) ? detail : fault.detail;
}

/** The name of the field that an entry of `errors` is about, "" if it is about none. */
export function fieldOf({ pointer, parameter }) {
  return (pointer ?? parameter ?? "").split("/").find(Boolean) ?? "";
}

function fieldName({ pointer, parameter }) {
  const name = (pointer ?? parameter ?? "").replace(/^\//, "").replaceAll(/[_/]/g, " ");
  return name && name[0].toUpperCase() + name.slice(1);
}

/** The page behind a problem's type, when it is one of ours. */
export function explanation(type) {
  const [, page] = type?.match(/(?:^|\/)(problems\/[a-z-]+)$/) ?? [];
  return page ? `${home}/${page}` : null;
}
