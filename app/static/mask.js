// A mask as it is painted: what was done, in order, replayed onto a canvas. Painted is what will be repainted, white in the file.
// Knows shapes and pixels; refuses to know pointers and keys.
//
// A mask is {base, done, undone}: a picture it began with or null, then strokes, inversions and clearings. Coordinates are
// the picture's pixels, so that it is drawn at any size.

const WHITE = "#fff";

/** A mask that nobody has painted in. `base` is a picture that is the mask: white is repainted. */
export function untouched(base = null) {
  return { base, done: [], undone: [] };
}

export function isMask(value) {
  return Array.isArray(value?.done) && Array.isArray(value?.undone);
}

/** The mask with one thing more: {points, size, erase}, {invert: true} or {clear: true}. `points` are x, y, x, y, … */
export function did(mask, act) {
  return { ...mask, done: [...mask.done, act], undone: [] };
}

export function undid(mask) {
  return mask.done.length ? { ...mask, done: mask.done.slice(0, -1), undone: [...mask.undone, mask.done.at(-1)] } : mask;
}

export function redid(mask) {
  return mask.undone.length ? { ...mask, done: [...mask.done, mask.undone.at(-1)], undone: mask.undone.slice(0, -1) } : mask;
}

/** What draws on a canvas whose pixels are read as well. */
export function inkOf(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** Replays a mask onto a canvas: `colour` where it is painted, clear elsewhere. `base` is the picture of it, loaded. */
export function replay(canvas, mask, picture, base, colour = WHITE) {
  const ink = inkOf(canvas);
  ink.setTransform(1, 0, 0, 1, 0, 0);
  ink.clearRect(0, 0, canvas.width, canvas.height);
  if (base) lay(ink, base);
  ink.setTransform(canvas.width / picture.width, 0, 0, canvas.height / picture.height, 0, 0);
  for (const act of mask.done) {
    if (act.points) stroke(ink, act);
    else if (act.invert) fill(ink, picture, "xor");
    else ink.clearRect(0, 0, picture.width, picture.height);
  }
  fill(ink, picture, "source-in", colour);
}

/** One stroke, or the part of it that is new. */
export function stroke(ink, { points, size, erase }, colour = WHITE) {
  ink.globalCompositeOperation = erase ? "destination-out" : "source-over";
  ink.fillStyle = ink.strokeStyle = colour;
  ink.lineWidth = size;
  ink.lineCap = ink.lineJoin = "round";
  // A line without a length would not be seen.
  ink.beginPath();
  ink.arc(points[0], points[1], size / 2, 0, 2 * Math.PI);
  ink.fill();
  ink.beginPath();
  for (let at = 0; at < points.length; at += 2) ink.lineTo(points[at], points[at + 1]);
  ink.stroke();
  ink.globalCompositeOperation = "source-over";
}

/** All of the canvas, by one of the operators of Compositing and Blending Level 1, section 9. */
function fill(ink, { width, height }, operator, colour = WHITE) {
  ink.globalCompositeOperation = operator;
  ink.fillStyle = colour;
  ink.fillRect(0, 0, width, height);
  ink.globalCompositeOperation = "source-over";
}

/** A picture's brightness as paint. */
function lay(ink, base) {
  const { width, height } = ink.canvas;
  ink.drawImage(base, 0, 0, width, height);
  const pixels = ink.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data[at + 3] = (pixels.data[at] * pixels.data[at + 3]) / 255;
    pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = 255;
  }
  ink.putImageData(pixels, 0, 0);
}

/** Whether anything is painted. */
export function isBlank(canvas) {
  const { data } = inkOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 3; at < data.length; at += 4) if (data[at]) return false;
  return true;
}

/** The mask as a PNG of the picture's size, black and white. */
export function maskFile(mask, picture, base) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  replay(canvas, mask, picture, base);
  fill(inkOf(canvas), picture, "destination-over", "#000");
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
