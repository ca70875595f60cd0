// "Same again": is the second print the first? Files are compared by their hash, else pixel by pixel.

import { html, useEffect, useState } from "./preact-htm.js";
import { source } from "./parts.js";

/** Shown for a job that was asked for as the same as another one. */
export function Sameness({ job, darkroom }) {
  const [verdict, setVerdict] = useState("");
  const original = job.metadata.same_as;
  useEffect(() => {
    let open = true;
    if (original) judge(job, original, darkroom).then((words) => open && setVerdict(words));
    return () => (open = false);
  }, [job.id, original]);
  return verdict ? html`<p class="verdict" role="status">${verdict}</p>` : null;
}

async function judge(job, id, darkroom) {
  const first = await darkroom.reload(id).catch(() => undefined);
  if (first === undefined) return "Drawn as the same as one that could not be asked for now.";
  if (!first) return "Drawn as the same as a job that is no longer kept.";
  if (first.images.length !== job.images.length) return "The first of the two has no pictures to compare with.";
  if (first.images.every((image, index) => image.sha256 === job.images[index].sha256)) {
    return "Same as the first: identical files, byte by byte.";
  }
  try {
    const apart = await Promise.all(first.images.map((image, index) => difference(image, job.images[index])));
    return words(Math.max(...apart));
  } catch {
    return "The files differ from the first; the pixels could not be compared here.";
  }
}

function words(apart) {
  if (apart === 0) return "Same as the first: identical pixels.";
  return `Differs from the first by at most ${apart} of 255 in any colour of any pixel.`;
}

/** Largest difference of two pictures in any channel, 0 to 255. Throws when a store elsewhere keeps its pixels shut. */
async function difference(one, other) {
  const [a, b] = await Promise.all([pixels(one), pixels(other)]);
  if (a.length !== b.length) return 255;
  return a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at])), 0);
}

async function pixels(image) {
  const picture = new Image();
  picture.src = source(image);
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.drawImage(picture, 0, 0);
  return ink.getImageData(0, 0, image.width, image.height).data;
}
