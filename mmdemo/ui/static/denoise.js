// Two pictures a step, kept here: they follow the run, then can be scrubbed and played without the server.
const { el, listen, pixels, tokenGrid } = window.mmdemo;
const root = element.firstElementChild;
const PLAY_SECONDS = 4;
let film = { frames: [] }, at = 0, follow = true, timer = null;

const noisy = pixels("", "The noisy picture"), guess = pixels("", "The guess of the finished picture");
const over = el("div", { class: "mm-over" }), tokens = el("input", { type: "checkbox" });
const play = el("button", { type: "button", class: "mm-button mm-play", onclick: toggle });
const slider = el("input", { type: "range", min: 0, value: 0, step: 1, "aria-label": "Step" });
const step = el("b"), timestep = el("b"), noise = el("b"), meter = el("meter", { min: 0, max: 1, "aria-label": "Noise level" });
const strip = el("div", { class: "mm-strip" });
const stage = el("div", { hidden: true },
  el("div", { class: "mm-pair" },
    el("figure", {}, el("div", { class: "mm-frame" }, noisy),
      el("figcaption", {}, el("i", {}, "x", el("sub", {}, "t")), " — the noisy picture at this step")),
    el("figure", {}, el("div", { class: "mm-frame" }, guess, over),
      el("figcaption", {}, el("i", {}, "x", el("sub", {}, "0")), " — the guess of the finished picture. ", el("label", {}, tokens, " show tokens")))),
  el("div", { class: "mm-scrub" }, play, slider),
  el("div", { class: "mm-readout" }, el("span", {}, "step ", step), el("span", {}, "timestep ", timestep), el("span", {}, "noise ", noise, meter)),
  strip);
root.append(stage);

listen(props, watch, (message) => {
  if (!message.frames) return stage.hidden = true, halt();
  if (message.turn !== film.turn) {
    halt();
    film = { ...message, frames: [] };
    follow = true;
  }
  for (const frame of message.frames) film.frames[frame.index] = frame;
  stage.hidden = false;
  slider.max = film.total - 1;
  if (follow) show(message.show ?? message.frames.at(-1).index);
  drawStrip();
});

function show(index) {
  const frame = film.frames[index];
  if (!frame) return;
  at = index;
  noisy.src = frame.x_t;
  guess.src = frame.x0;
  slider.value = index;
  slider.setAttribute("aria-valuetext", `Step ${index + 1} of ${film.total}, timestep ${frame.timestep}`);
  step.textContent = `${index + 1} of ${film.total}`;
  timestep.textContent = frame.timestep;
  noise.textContent = `${Math.round(frame.noise * 100)} %`;
  meter.value = frame.noise;
  over.replaceChildren(...(tokens.checked ? [tokenGrid(frame.tokens, () => {})] : []));
  for (const thumb of strip.children) thumb.setAttribute("aria-current", String(Number(thumb.dataset.index) === index));
}

// At most ten of the guesses, evenly spread: the whole run at a glance.
function drawStrip() {
  const count = Math.min(10, film.total);
  const picked = Array.from({ length: count }, (_, i) => Math.round(i * (film.total - 1) / Math.max(1, count - 1)));
  strip.replaceChildren(...picked.map((index) => {
    const frame = film.frames[index];
    return el("button", { type: "button", "data-index": index, disabled: !frame, "aria-label": `Step ${index + 1}`,
      "aria-current": String(index === at), onclick: () => { halt(); follow = false; show(index); } }, ...(frame ? [pixels(frame.x0, "")] : []));
  }));
  play.disabled = !last();
}

// The last step that has arrived: after a Stop, not the run's last.
function last() {
  return film.frames.length - 1;
}

function toggle() {
  if (timer) return halt();
  follow = false;
  if (at >= last()) show(0);
  timer = setInterval(() => (at < last() ? show(at + 1) : halt()), Math.max(40, PLAY_SECONDS * 1000 / film.total));
  label();
}

function halt() {
  clearInterval(timer);
  timer = null;
  label();
}

function label() {
  play.textContent = timer ? "Pause" : "Play";
  play.setAttribute("aria-pressed", Boolean(timer));
}

slider.addEventListener("input", () => { halt(); follow = false; show(Math.min(Number(slider.value), last())); });
tokens.addEventListener("change", () => show(at));
label();
