// The picture to begin with: its place in the form, how much of it is drawn anew, and where.

import { html, useLayoutEffect, useState } from "./preact-htm.js";
import { Dial } from "./controls.js";
import { Failure } from "./failure.js";
import { untouched } from "./mask.js";
import { MaskOver, Painter } from "./painter.js";
import { Place, useUpload } from "./picture.js";
import { strengthOf, takes } from "./pictured.js";

/** `upload` sends the picture in; `lost` says that one of a draft is not kept any more, `count` and `note` are as for it. */
export function Starting({ request, set, model, upload, lost, setLost, away, count, note }) {
  const [isPainting, setPainting] = useState(false);
  const { image, mask_image: mask } = request;
  const maskFile = useUpload({ give: (base) => set({ mask_image: untouched(base) }), count, note });
  // A mask that is on its way is this picture's.
  useLayoutEffect(() => maskFile.drop, [JSON.stringify(image)]);
  const without = { image: null, mask_image: null, strength: "", mask_blur: 0 };
  const gone = () => {
    set(without);
    setLost(true);
  };
  const painted = (isBlank) => {
    setPainting(false);
    if (isBlank && !maskFile.isBusy) set({ mask_image: null });
  };
  const missed = maskFile.failure && html`<${Failure} failure=${maskFile.failure} away=${away} retry=${maskFile.retry} dismiss=${maskFile.drop} />`;
  const canPaint = image && takes(model, "mask_image");
  return html`<div class="starting">
    <${Place} label="Begin with a picture" name="Picture" picture=${image} upload=${upload} remove=${() => set(without)} gone=${gone} away=${away}
      over=${image && mask && html`<${MaskOver} picture=${image} mask=${mask} />`}>
      ${canPaint && html`<button type="button" class="small" onClick=${() => setPainting(true)}>${mask ? "Change the mask" : "Paint a mask"}</button>`}
      ${mask && html`<button type="button" class="small" onClick=${() => set({ mask_image: null })}>No mask</button>`}
    <//>
    ${lost && !image && html`<p class="hint" role="status">The picture that was here is not kept any more.</p>`}
    ${!isPainting && missed}
    ${image && takes(model, "strength") && html`<${Dial} name="strength" label="Strength: how much is drawn anew" min="0.05" max="1" step="0.05"
      request=${{ strength: strengthOf(request) }} set=${set} />`}
    ${mask && takes(model, "mask_blur") && html`<${Dial} name="mask_blur" label="Soft edge of the mask, pixels" min="0" max="64" step="1" request=${request} set=${set} />`}
    ${isPainting && image && html`<${Painter} picture=${image} mask=${mask ?? undefined} change=${(mask) => set({ mask_image: mask })} close=${painted} load=${maskFile.take}>${missed}<//>`}
  </div>`;
}
