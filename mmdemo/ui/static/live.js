// A picture between four corners, asked for anew wherever the handle is: two at most at a time, always of the newest
// place. In one step while the hand moves, so that it can follow, and in all of them where it lets go.
const { el, latest, listen, pixels, pngLink } = window.mmdemo;
const root = element.firstElementChild;
const PATIENCE = 45; // milliseconds: at 15 pictures a second each has 67, and is to be computed before the last is seen
const STEP = 0.02; // of an arrow key; with Shift five times as much
const names = Array.from({ length: 4 }, () => el("span", { dir: "auto" }));
const image = pixels("", ""), handle = el("span", { class: "mm-handle" });
const square = el("div", { class: "mm-square", role: "slider", tabindex: 0, "aria-label": "Place between the corners", "aria-valuemin": 0, "aria-valuemax": 100 }, image, handle);
// Text is changed where it is: another node would have the styles of half the page computed anew, for each picture.
const said = new Text(), words = el("p", { class: "mm-help" }, said), trouble = el("p", { class: "mm-trouble", role: "alert" }), link = pngLink("", "");
const stage = el("div", { hidden: true },
  el("div", { class: "mm-edge" }, names[0], names[1]), square, el("div", { class: "mm-edge" }, names[2], names[3]),
  trouble, el("div", { class: "mm-foot" }, words, link));
root.append(stage);

let now = null, x = 0, y = 0, held = null;

const ask = latest(
  ({ of, steps, x, y }) => server.blend_at(of.pack, of.labels, of.seeds, steps, x, y),
  (answer, { of }) => { if (of === now) show(answer); }, PATIENCE); // else the corners are others by now

listen(props, watch, (message) => {
  stage.hidden = !message.pack;
  now = message.pack ? message : null;
  if (!now) return;
  names.forEach((name, i) => { name.textContent = name.title = now.corners[i]; });
  if (!now.picture) return go(x, y);
  put(...now.place);
  show(now.picture);
});

function show({ png, file, words, error }) {
  trouble.textContent = error ?? "";
  if (error) return;
  image.src = link.href = png;
  link.download = file;
  said.data = image.alt = words;
  square.setAttribute("aria-valuetext", words);
}

function put(...place) {
  [x, y] = place.map((one) => Math.min(1, Math.max(0, one)));
  handle.style.translate = `${100 * x}cqw ${100 * y}cqh`; // a place of its own would have the page laid out anew
  square.setAttribute("aria-valuenow", Math.round(100 * x));
}

function go(...place) {
  put(...place);
  ask({ of: now, steps: held === null ? now.steps : 1, x, y });
}

function follow(event) {
  const box = square.getBoundingClientRect();
  go((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

square.addEventListener("pointerdown", (event) => {
  if (event.button || held !== null) return;
  held = event.pointerId;
  square.setPointerCapture(held);
  follow(event);
});
square.addEventListener("pointermove", (event) => { if (event.pointerId === held) follow(event); });
for (const end of ["pointerup", "pointercancel"]) square.addEventListener(end, (event) => {
  if (event.pointerId !== held) return;
  held = null;
  go(x, y);
});
square.addEventListener("keydown", (event) => {
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!right && !down) return;
  event.preventDefault();
  const step = STEP * (event.shiftKey ? 5 : 1);
  go(x + right * step, y + down * step);
});
