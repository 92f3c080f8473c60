// The pictures, drawn from one sheet of them, while they form and when they are done. Then one that is chosen is watched
// being denoised or, while the question is pressed, asked what it is.
const { el, listen, load, crop, pngLink } = window.mmdemo;
const root = element.firstElementChild;
const of = el("p", { class: "mm-of", dir: "auto" }), frame = el("div", { class: "mm-gallery" }), foot = el("div", { class: "mm-foot" });
root.append(of, frame, foot);
let latest, question;

const asks = () => question?.getAttribute("aria-pressed") === "true";

function choose(button, picture) {
  if (!asks()) return trigger("replay", picture);
  for (const one of frame.children) one.toggleAttribute("data-asked", one === button);
  trigger("ask", { png: button.firstElementChild.toDataURL("image/png") });
}

listen(props, watch, async (message) => {
  latest = message;
  question = null;
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
    button.onclick = () => choose(button, picture);
    button.toggleAttribute("data-asked", false);
    if (!picture) button.setAttribute("aria-label", `Picture ${i + 1}, in progress`), button.title = "";
  });
  foot.replaceChildren();
  if (message.pictures) {
    const help = el("p", { class: "mm-help" });
    const told = () => {
      const does = asks() ? message.question.toLowerCase() : "watch it being denoised";
      help.textContent = asks() ? "Choose another picture to ask the same of it." : "Choose a picture to watch it being denoised.";
      [...frame.children].forEach((button, i) => {
        const { label, seed } = message.pictures[i];
        button.title = `${label}\nSeed ${seed}: ${does}`.trim();
        button.setAttribute("aria-label", `${labels[i]}, seed ${seed}: ${does}`);
      });
    };
    const ask = () => {
      question.setAttribute("aria-pressed", !asks());
      told();
      if (asks()) choose(frame.firstElementChild, message.pictures[0]);
    };
    question = message.question ? el("button", { type: "button", class: "mm-button", "aria-pressed": "false", onclick: ask }, message.question) : null;
    told();
    foot.append(help, ...(question ? [question] : []), pngLink(message.png, message.file));
  }
});
