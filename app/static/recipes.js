// A picture's parameters as something to paste: curl, Python, JSON. The key is named, never written.

import { home, key, writeJson } from "./api.js";
import { PARAMETERS } from "./parameters.js";

const JOBS = `${location.origin}${home}/v1/jobs`;
const NAMES = new Set(PARAMETERS.filter(({ part }) => part !== "previews").map(({ name }) => name));
/** Of what a picture is, not of what was to be seen before it. */

/** Recipes by the name on their button. */
export function recipes(input) {
  const body = cleaned(input);
  return { curl: curl(body), Python: python(body), JSON: writeJson(body, 2) };
}

function cleaned(input) {
  return Object.fromEntries(
    Object.entries(input).filter(([name, value]) => NAMES.has(name) && value !== null && value !== "" && value.length !== 0),
  );
}

function curl(body) {
  const lines = [`curl -X POST ${JOBS}`, "-H 'Content-Type: application/json'", "-H 'Prefer: wait=60'"];
  if (key.get()) lines.push('-H "Authorization: Bearer $DARKROOM_API_KEY"');
  lines.push(`-d '${writeJson(body).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

function python(body) {
  const headers = key.get() ? '{"Prefer": "wait=60", "Authorization": "Bearer " + os.environ["DARKROOM_API_KEY"]}' : '{"Prefer": "wait=60"}';
  return [
    key.get() ? "import os\n\nimport requests\n" : "import requests\n",
    `body = ${dict(body)}`,
    `answer = requests.post("${JOBS}", json=body, headers=${headers}, timeout=90)`,
    "answer.raise_for_status()",
    'for image in answer.json()["images"]:',
    `    with open(f"{image['seed']}.${body.output_format ?? "png"}", "wb") as file:`,
    '        file.write(requests.get(image["url"], timeout=90).content)',
  ].join("\n");
}

function dict(body) {
  // JSON's strings and numbers are Python's; its three words are not.
  const members = Object.entries(body).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(name, value)},`);
  return `{\n${members.join("\n")}\n}`;
}

function literal(name, value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return name === "seed" ? String(value) : JSON.stringify(value);
}

/** Put text on the clipboard. False where the browser does not let a page do that. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
