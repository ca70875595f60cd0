// What callers have used: by caller and by day, and a file of it.

import { html, useState } from "./preact-htm.js";
import { load } from "./api.js";
import { Ledger } from "./ledger.js";
import { query } from "./operator.js";

const COUNTS = ["jobs", "failed", "canceled", "pictures", "evaluations", "device_seconds", "stored_bytes", "uploaded_bytes"];
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function Used({ operator }) {
  const { used } = operator;
  const [failed, setFailed] = useState("");
  const onSubmit = (event) => {
    event.preventDefault();
    operator.ask(Object.fromEntries(new FormData(event.target)));
  };
  const download = async () => {
    try {
      setFailed("");
      save(await load(`/v1/admin/usage?${query({ from: used.from, to: used.to, format: "csv" })}`), `usage-${used.from}-${used.to}.csv`);
    } catch (error) {
      setFailed(`The file could not be fetched: ${error.message}`);
    }
  };
  const days = used && summed(used.data, ({ date }) => date);
  const callers = used && summed(used.data, ({ tenant }) => tenant).sort((a, b) => b.device_seconds - a.device_seconds);
  const most = Math.max(...(callers ?? []).map((row) => row.device_seconds), 1e-9);
  return html`<section><h2>What was used</h2>
    <form class="row dates" onSubmit=${onSubmit}>
      <label>From <input type="date" name="from" key=${`from ${used?.from}`} defaultValue=${used?.from} required /></label>
      <label>To <input type="date" name="to" key=${`to ${used?.to}`} defaultValue=${used?.to} required /></label>
      <button type="submit">Show</button>
      <button type="button" disabled=${!used?.data.length} onClick=${download}>Download CSV</button>
    </form>
    ${failed && html`<p class="away" role="alert">${failed}</p>`}
    ${used && !used.isWhole && html`<p class="away">There is more than is shown and summed up here; the file has all.</p>`}
    <${Ledger} about="Used by caller" rows=${callers} none="Nothing was used on these days." keyOf=${({ name }) => name} columns=${[
      { name: "Caller", of: ({ name }) => name },
      { name: "Share of the device", of: (row) => html`<progress max=${most} value=${row.device_seconds} aria-label=${`Share of ${row.name}`}></progress>` },
      ...numbers(),
    ]} />
    ${days?.length > 0 && html`<details><summary>By day, in UTC</summary>
      <${Ledger} about="Used by day" rows=${days} none="" keyOf=${({ name }) => name} columns=${[{ name: "Day", of: ({ name }) => name }, ...numbers()]} />
    </details>`}
  </section>`;
}

function numbers() {
  return [
    { name: "Device", number: true, of: (row) => duration(row.device_seconds) },
    { name: "Jobs", number: true, of: ({ jobs }) => jobs.toLocaleString() },
    { name: "Failed", number: true, of: ({ failed }) => failed.toLocaleString() },
    { name: "Canceled", number: true, of: ({ canceled }) => canceled.toLocaleString() },
    { name: "Pictures", number: true, of: ({ pictures }) => pictures.toLocaleString() },
    { name: "Evaluations", number: true, of: ({ evaluations }) => evaluations.toLocaleString() },
    { name: "Stored", number: true, of: (row) => bytes(row.stored_bytes) },
    { name: "Uploaded", number: true, of: (row) => bytes(row.uploaded_bytes) },
  ];
}

/** The rows of each name, added up: in the order in which the names come. */
function summed(rows, nameOf) {
  const sums = new Map();
  for (const row of rows) {
    const sum = sums.get(nameOf(row)) ?? { name: nameOf(row), ...Object.fromEntries(COUNTS.map((each) => [each, 0])) };
    for (const each of COUNTS) sum[each] += row[each];
    sums.set(sum.name, sum);
  }
  return [...sums.values()];
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** As `darkroom usage` writes it. */
function duration(value) {
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(Math.round(value) / 60);
  const two = (number) => String(number).padStart(2, "0");
  return minutes < 60 ? `${minutes} min ${two(Math.round(value) % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

function bytes(value) {
  let unit = 0;
  for (; value >= 999.5 && unit < UNITS.length - 1; unit++) value /= 1_000;
  return `${unit ? Number(value.toPrecision(3)) : value} ${UNITS[unit]}`;
}
