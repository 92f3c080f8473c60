// A picture on its way into noise, and the step from which it is to come back. Scrubbed without the server.
const { el, listen, pixels, store, storeOf, strip } = window.mmdemo;
const root = element.firstElementChild;
let way = { frames: [] }, at = 0, thumbs;

const picture = pixels("", "The picture under noise");
const slider = el("input", { type: "range", min: 0, value: 0, step: 1, "aria-label": "Amount of noise", oninput: () => show(Number(slider.value)) });
const a = el("b"), s = el("b"), x = (index) => el("i", {}, "x", el("sub", {}, index));
const step = el("b"), begin = el("span"), strips = el("div", { class: "mm-way-in" });
const stage = el("section", { hidden: true },
  el("h3", {}, "Into noise"),
  el("div", { class: "mm-into" },
    el("div", { class: "mm-frame" }, picture),
    el("div", {},
      el("p", { class: "mm-formula" }, x("t"), " = a ", x("0"), " + s ", el("i", {}, "ε"), " = ", a, " ", x("0"), " + ", s, " ", el("i", {}, "ε")),
      el("div", { class: "mm-scrub" }, slider),
      el("div", { class: "mm-readout" }, el("span", {}, "timestep ", step), begin),
      strips)),
  el("h3", {}, "And back"));
root.append(stage);

listen(props, watch, (message) => {
  stage.hidden = !message.frames;
  if (!message.frames) return;
  way = message;
  slider.max = way.frames.length - 1;
  thumbs = strip(way.frames.length, show);
  thumbs.fill((i) => way.frames[i].image);
  strips.replaceChildren(thumbs);
  storeOf(root).set("source", way.source);
  mark();
});

function show(index) {
  const frame = way.frames[at = index];
  picture.src = frame.image;
  slider.value = index;
  slider.setAttribute("aria-valuetext", `Step ${index + 1} of ${way.frames.length}`);
  [a.textContent, s.textContent, step.textContent] = [frame.a, frame.s, frame.timestep];
  thumbs.mark(index);
}

// Where the way back begins. As Python rounds: a half goes to the even number.
function mark() {
  if (!way.frames.length) return;
  const share = store.get("strength") ?? way.strength; // the slider's, or until it has moved what Python began with
  const exact = way.frames.length * share, up = Math.round(exact);
  const taken = Math.max(1, up - (exact % 1 === 0.5 && up % 2));
  begin.textContent = `strength ${share}: the way back begins here, ${taken} of ${way.frames.length} steps into noise; those beyond are faint`;
  for (const thumb of thumbs.children) thumb.classList.toggle("mm-unused", Number(thumb.dataset.index) >= taken);
  show(taken - 1);
}

store.on("strength", mark, root);
