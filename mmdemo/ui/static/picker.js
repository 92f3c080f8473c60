// Pick an example or draw one. Sends the example's index, or the drawing as a PNG after every stroke.
const { el, listen, paintable, pixels, storeOf } = window.mmdemo;
const root = element.firstElementChild, work = storeOf(root);
const SIZE = 256, PEN = 22;
const thumbs = el("div", { class: "mm-thumbs" });
const pad = el("canvas", { class: "mm-pad", width: SIZE, height: SIZE, role: "img", "aria-label": "Drawing area: draw with a mouse, pen or finger" });
const hint = el("span", { class: "mm-pad-hint", "aria-hidden": "true" }, "Draw here");
const clear = el("button", { type: "button", class: "mm-button", onclick: wipe }, "Clear");
// A narrow screen shows one way of choosing at a time; a wide one shows all and hides these buttons.
const ways = el("div", { class: "mm-ways" }, ...[["examples", "Examples"], ["draw", "Draw"], ["open", "Open a file"]].map(([way, name]) =>
  el("button", { type: "button", class: "mm-button", "data-name": way, onclick: () => go(way) }, name)));

function go(way) {
  root.dataset.way = way;
  for (const button of ways.children) button.setAttribute("aria-pressed", button.dataset.name === way);
}
go("examples");

root.append(
  ways,
  el("h3", {}, "Take an example"), thumbs,
  el("h3", {}, "Or draw one"), el("div", { class: "mm-pad-frame" }, pad, hint, clear),
  el("div", { class: "mm-own" }, el("h3", {}, "Or open your own"), el("p", { class: "mm-help" }, "It is cropped square and made as small as the model needs.")));

listen(props, watch, ({ examples = [] }) => {
  thumbs.replaceChildren(...examples.map(({ uri, smooth }, index) =>
    el("button", { type: "button", "aria-label": `Example ${index + 1}`, onclick: () => trigger("example", { index }) },
      pixels(uri, "", smooth ? "mm-smooth" : ""))));
  mark();
  work.set("examples", examples); // a second picture can be taken from them too
});

// Marks what the result shows: an example, the drawing or the file.
function mark() {
  const { kind, index } = work.get("source") ?? {};
  root.dataset.shown = kind ?? "";
  [...thumbs.children].forEach((thumb, i) => thumb.setAttribute("aria-pressed", kind === "example" && i === index));
}
work.on("source", mark, root);

const context = paintable(pad, PEN, () => trigger("drawing", { png: pad.toDataURL("image/png") }));
for (const begun of ["pointerdown", "pointerenter"]) pad.addEventListener(begun, (event) => { hint.hidden ||= event.buttons === 1; });

function wipe() {
  context.fillStyle = "white";
  context.fillRect(0, 0, SIZE, SIZE);
  hint.hidden = false;
}
wipe();
