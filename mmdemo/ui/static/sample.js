// The pictures, drawn from one sheet of them, while they form and when they are done.
const { el, listen, load, crop, pngLink } = window.mmdemo;
const root = element.firstElementChild;
const of = el("p", { class: "mm-of", dir: "auto" }), frame = el("div", { class: "mm-gallery" }), foot = el("div", { class: "mm-foot" });
root.append(of, frame, foot);
let latest;

listen(props, watch, async (message) => {
  latest = message;
  if (!message.sheet) return of.replaceChildren(), frame.replaceChildren(), foot.replaceChildren();
  const sheet = await load(message.sheet);
  if (latest !== message) return; // a newer one came while this was decoded
  if (frame.childElementCount !== message.count) {
    frame.replaceChildren(...Array.from({ length: message.count }, () =>
      el("button", { type: "button", class: "mm-picture", disabled: true }, el("canvas"), el("span", { dir: "auto" }))));
  }
  const size = sheet.width / message.columns;
  const labels = (message.pictures ?? []).map(({ label }) => label || "anything");
  const one = labels.length > 1 && new Set(labels).size === 1; // then it is said once
  of.textContent = one ? labels[0] : "";
  frame.classList.toggle("mm-many", message.count > 16);
  [...frame.children].forEach((button, i) => {
    const [canvas, caption] = button.children, picture = message.pictures?.[i];
    crop(canvas, sheet, (i % message.columns) * size, Math.floor(i / message.columns) * size, size, size);
    caption.textContent = one ? "" : labels[i] ?? "";
    button.disabled = !picture;
    button.title = picture ? `${picture.label}\nSeed ${picture.seed}: watch it being denoised`.trim() : "";
    button.setAttribute("aria-label", picture ? `${labels[i]}, seed ${picture.seed}: watch it being denoised` : `Picture ${i + 1}, in progress`);
    button.onclick = () => trigger("replay", picture);
  });
  foot.replaceChildren();
  if (message.pictures) {
    foot.append(
      el("p", { class: "mm-help" }, "Choose a picture to watch it being denoised."),
      pngLink(message.png, message.file));
  }
});
