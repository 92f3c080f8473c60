// A picture, what is left of it, and what it is restored to. The brush erases: it sends the mask after every stroke.
const { el, listen, paintable, pixels, storeOf } = window.mmdemo;
const root = element.firstElementChild;
const SIZE = 128, BRUSH = 20; // pixels of the mask, and of the brush on it at first
const KEPT = 50; // masks that one can go back by
const PAINT = "#f59e0b", ERASED = "grey"; // under the brush, and after the stroke
const damaged = pixels("", "What is left of the picture"), truth = pixels("", "The truth");
const brush = el("canvas", { class: "mm-brush", width: SIZE, height: SIZE, role: "img", "aria-label": "Paint over what is to be drawn anew, with a mouse, pen or finger" });
const button = (text, onclick) => el("button", { type: "button", class: "mm-button", onclick }, text);
const undo = button("Undo", () => { masks.pop(); context.putImageData(masks.at(-1), 0, 0); send(); });
const size = el("input", { type: "range", min: 4, max: 64, value: BRUSH, oninput: () => { context.lineWidth = size.value; } });
const hand = el("div", { class: "mm-hand" },
  button("Erase the lower half", () => { eraseFrom(SIZE / 2); changed(); }), button("Erase nothing", () => { eraseFrom(SIZE); changed(); }), undo,
  el("label", {}, "Brush ", size));
const known = el("figure", {}, el("div", { class: "mm-frame" }, truth), el("figcaption", {}, "the truth, which it does not see"));
const what = el("figcaption", {}), given = el("div", { class: "mm-frame" }, damaged, brush), gallery = el("div", { class: "mm-candidates" });
const hint = el("p", { class: "mm-help" });
const stage = el("div", { hidden: true },
  el("div", { class: "mm-pair" }, el("figure", {}, given, what, hand), known),
  el("h3", {}, "Restored"), gallery, hint);
root.append(stage);

const context = paintable(brush, BRUSH, changed), masks = [];
context.strokeStyle = PAINT;
eraseFrom(SIZE / 2);
keep();
let shown = 0;

listen(props, watch, (message) => {
  stage.hidden = !message.truth;
  if (!message.truth) return;
  const erasing = message.task === "inpaint";
  truth.src = message.truth;
  damaged.src = erasing ? message.truth : message.damaged;
  brush.hidden = hand.hidden = !erasing;
  what.textContent = erasing ? "what it is given; paint on it to erase more" : "what it is given";
  known.hidden = !message.known;
  storeOf(root).set("source", message.source);
  const there = message.candidates ?? [];
  if (gallery.childElementCount !== 4) {
    gallery.replaceChildren(...Array.from({ length: 4 }, (_, i) =>
      el("button", { type: "button", class: "mm-candidate", onclick: () => choose(i) }, el("div", { class: "mm-frame" }, pixels("", "")), el("span"))));
  }
  fill(there, message.notes);
  choose(shown);
});

function fill(pictures, notes) {
  hint.textContent = "Four candidates, each from a seed of its own. "
    + (notes?.[0].includes("dB") ? "dB (PSNR) and SSIM tell how near each is to the truth, as a whole: what was drawn anew can be good and yet another. " : "")
    + (pictures.length ? "Choose one to see its steps below." : "");
  [...gallery.children].forEach((button, i) => {
    const image = button.querySelector("img");
    pictures[i] ? image.src = pictures[i] : image.removeAttribute("src");
    image.hidden = !pictures[i];
    button.disabled = !pictures[i];
    button.lastChild.textContent = notes?.[i] ?? "";
    button.setAttribute("aria-label", `Candidate ${i + 1} ${notes?.[i] ?? ""}`.trim());
  });
}

// The film of one candidate is seen.
function choose(candidate) {
  shown = candidate;
  [...gallery.children].forEach((button, i) => button.setAttribute("aria-pressed", i === candidate));
  film(candidate);
}

// candidate: null = the film of none.
function film(candidate) {
  [0, 1, 2, 3].forEach((i) => document.getElementById(`restore-film-${i}`)?.classList.toggle("mm-away", i !== candidate));
}

// All that is below y, and nothing else.
function eraseFrom(y) {
  context.clearRect(0, 0, SIZE, SIZE);
  context.fillStyle = ERASED;
  context.fillRect(0, y, SIZE, SIZE);
}

// Gives all that is painted one colour.
function dye(on, colour) {
  on.globalCompositeOperation = "source-in";
  on.fillStyle = colour;
  on.fillRect(0, 0, SIZE, SIZE);
  on.globalCompositeOperation = "source-over";
}

function keep() {
  masks.push(context.getImageData(0, 0, SIZE, SIZE));
  if (masks.length > KEPT) masks.shift();
  undo.disabled = masks.length < 2;
}

function changed() {
  keep();
  send();
}

// White where it was painted, black elsewhere. What was restored was of another mask.
function send() {
  fill([]);
  film(null);
  undo.disabled = masks.length < 2;
  dye(context, ERASED);
  const mask = el("canvas", { width: SIZE, height: SIZE }), on = mask.getContext("2d");
  on.drawImage(brush, 0, 0);
  dye(on, "white");
  on.globalCompositeOperation = "destination-over";
  on.fillStyle = "black";
  on.fillRect(0, 0, SIZE, SIZE);
  trigger("mask", { png: mask.toDataURL("image/png") });
}
