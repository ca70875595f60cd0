// Tables that a phone shows as cards: each row with the names of its columns, and read as a table all the same.

import { html } from "./preact-htm.js";

/**
 * `columns`: {name, of: (row) => what stands there, number, tight, wide}; the first one names its row. `about` says what the
 * table is of, `none` what there is instead of an empty one. A column without a name holds buttons.
 */
export function Ledger({ about, columns, rows, none, keyOf }) {
  if (!rows) return html`<p class="quiet">Asking…</p>`;
  if (!rows.length) return html`<p class="quiet">${none}</p>`;
  return html`<table role="table" class="ledger" aria-label=${about}>
    <thead role="rowgroup"><tr role="row">
      ${columns.map(({ name, number }) => html`<th role="columnheader" scope="col" class=${number ? "number" : ""}>${name || html`<span class="unseen">Actions</span>`}</th>`)}
    </tr></thead>
    <tbody role="rowgroup">${rows.map((row) => html`<${Row} key=${keyOf(row)} columns=${columns} row=${row} />`)}</tbody>
  </table>`;
}

function Row({ columns, row }) {
  const [first, ...others] = columns;
  return html`<tr role="row">
    <th role="rowheader" scope="row">${first.of(row)}</th>
    ${others.map(({ name, of, number, tight, wide }) => html`<td role="cell" data-name=${name} class=${[number && "number", tight && "tight", wide && "wide", !name && "does"].filter(Boolean).join(" ")}>${of(row)}</td>`)}
  </tr>`;
}

/** A moment as one reads it here; the whole of it for who points at it. */
export function When({ at }) {
  if (!at) return null;
  const date = new Date(at);
  const isToday = date.toDateString() === new Date().toDateString();
  return html`<time dateTime=${at} title=${date.toLocaleString()}>${isToday ? date.toLocaleTimeString() : date.toLocaleString()}</time>`;
}

/** A word about a state, of a kind: "good", "warn" or none. */
export function Badge({ kind = "", children }) {
  return html`<span class=${`badge ${kind}`}>${children}</span>`;
}
