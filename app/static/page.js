// The page: one wish at a time, asked again with ?wait= until it is over.
// Everything a caller or a model can influence goes in as text, never as markup.

const byId = (id) => document.getElementById(id);
const form = byId("wish");
const WAIT_SECONDS = 20;
let models = [];
let current = null;

class Refused extends Error {
  constructor(problem) {
    const fields = (problem.errors ?? []).map((e) => `${e.pointer ?? e.parameter ?? ""} ${e.detail}`.trim());
    super([problem.title, problem.detail, ...fields].filter(Boolean).join("\n"));
    this.status = problem.status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = byId("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 304) return { etag: options.headers["If-None-Match"], body: null };
  const body = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Refused(body);
  return { etag: response.headers.get("ETag"), body };
}

function wish() {
  const data = new FormData(form);
  const body = { prompt: data.get("prompt") };
  for (const name of ["model", "scheduler", "negative_prompt"]) if (data.get(name)) body[name] = data.get(name);
  for (const name of ["num_inference_steps", "guidance_scale", "seed", "num_images"]) {
    if (data.get(name) !== "") body[name] = Number(data.get(name));
  }
  return body;
}

function say(text) {
  byId("state").textContent = text;
}

function showError(error) {
  byId("error").hidden = false;
  byId("error").textContent = error.message;
  if (error.status === 401) form.querySelector("details").open = true;
}

function showJob(job) {
  const bar = byId("progress");
  bar.hidden = !["queued", "running"].includes(job.status);
  bar.value = job.progress.step / Math.max(1, job.progress.steps);
  say(words(job));
  if (job.error) showError(new Refused(job.error));
  byId("pictures").replaceChildren(...job.images.map((image) => figure(image, job)));
}

function words(job) {
  if (job.status === "queued") {
    const eta = job.queue?.eta_seconds;
    const before = job.queue?.position ? `, ${job.queue.position} before it` : "";
    return `Waiting${before}${eta == null ? "" : `, about ${Math.ceil(eta)} s`}`;
  }
  if (job.status === "running") return `Step ${job.progress.step} of ${job.progress.steps}`;
  if (job.status === "succeeded") return [`Finished in ${job.timings.total.toFixed(1)} s`, ...job.warnings].join(". ");
  return job.status === "failed" ? "Failed" : "Canceled";
}

function figure(image, job) {
  const picture = document.createElement("img");
  Object.assign(picture, { src: image.url, alt: job.input.prompt, width: image.width, height: image.height });
  const caption = document.createElement("figcaption");
  caption.textContent = `${image.width} x ${image.height}, seed ${image.seed}`;
  const frame = document.createElement("figure");
  frame.append(picture, caption);
  return frame;
}

async function follow(job, etag) {
  showJob(job);
  while (["queued", "running"].includes(job.status)) {
    const asked = { headers: { "If-None-Match": etag } };
    const answer = await call(`/v1/jobs/${job.id}?wait=${WAIT_SECONDS}`, asked);
    if (answer.body) {
      job = answer.body;
      etag = answer.etag;
      showJob(job);
    }
  }
}

async function generate(event) {
  event.preventDefault();
  byId("error").hidden = true;
  byId("pictures").replaceChildren();
  byId("generate").disabled = true;
  say("Sending");
  try {
    const body = JSON.stringify(wish());
    const { body: job, etag } = await call("/v1/jobs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
    });
    current = job.id;
    byId("cancel").hidden = false;
    await follow(job, etag);
  } catch (error) {
    say("");
    byId("progress").hidden = true;
    showError(error instanceof Refused ? error : new Error("The service cannot be reached. Try again in a moment."));
  } finally {
    current = null;
    byId("cancel").hidden = true;
    byId("generate").disabled = false;
  }
}

async function cancel() {
  if (!current) return;
  try {
    await call(`/v1/jobs/${current}/cancel`, { method: "POST" });
  } catch (error) {
    showError(error);
  }
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

function chooseModel() {
  const model = models.find((each) => each.id === form.elements.model.value);
  if (!model) return;
  options(form.elements.scheduler, model.schedulers, model.scheduler);
  form.elements.num_inference_steps.placeholder = model.num_inference_steps;
  form.elements.num_inference_steps.max = model.max_steps;
  form.elements.guidance_scale.placeholder = model.guidance_scale;
  form.elements.guidance_scale.max = model.max_guidance_scale;
  form.elements.num_images.max = model.max_images;
}

async function loadModels() {
  try {
    models = (await call("/v1/models")).body.data;
  } catch (error) {
    if (error.status !== 401) say("The list of models is not available yet.");
    return;
  }
  options(form.elements.model, models.map((model) => model.id), models[0]?.id);
  chooseModel();
  if (!models.length) say("No model is ready yet: a worker announces one when it has loaded it.");
  else if (!models.some((model) => model.state === "ready")) say("No worker is awake: pictures will wait for one.");
}

form.addEventListener("submit", generate);
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form.elements.model.addEventListener("change", chooseModel);
byId("key").addEventListener("change", loadModels);
byId("cancel").addEventListener("click", cancel);
loadModels();
