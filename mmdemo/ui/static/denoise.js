// The film of a run. The frames are kept here: they follow the run, then are scrubbed, played and saved without the server.
const { el, svg, listen, pixels, tokenGrid, answerTo, codeCard, codeLink, fileName, strip, exports, pulls } = window.mmdemo;
const root = element.firstElementChild;
const PLAY_SECONDS = 4;
let film = { frames: [] }, at = 0, peek = null, follow = true, timer = null, pending = null, looked, thumbs, grid, card;

const original = pixels("", "The picture to edit");
const noisy = pixels("", "The noisy picture"), guess = pixels("", "The guess of the finished picture");
const byLabel = pixels("", ""), without = pixels("", ""), both = pixels("", "The guess with guidance");
const snapped = pixels("", "The guess, under its tokens"), tokens = el("div", { class: "mm-frame" }, snapped), changed = el("span"), unlabelled = el("span"), labelled = el("span"), does = el("h3");
const play = el("button", { type: "button", class: "mm-button mm-play", onclick: toggle });
const slider = el("input", { type: "range", min: 0, value: 0, step: 1, "aria-label": "Step", oninput: () => go(Number(slider.value), slider.value > at ? 1 : -1) });
const step = el("b"), timestep = el("b"), noise = el("b"), guidance = el("span");
const percent = (share) => `${Math.round(share * 100)} %`;
const math = (letter, index) => el("i", {}, letter, el("sub", {}, index));
const framed = (...pictures) => el("div", { class: "mm-frame" }, ...pictures);

const curves = [
  curve("Noise", "how much of the picture is noise", (frame) => frame.noise, percent),
  curve("Flips", "tokens that changed since the last step", (frame) => frame.flips.length, (value, frame) => `${value} of ${frame.tokens.flat().length}`),
  curve("Distance to the codes", "how far the guess is from its tokens, in standard deviations", (frame) => frame.distance, (value) => value.toFixed(3)),
];
const words = pulls(server, plotted);
const source = el("figure", {}, framed(original), el("figcaption", {}, math("x", ""), " — the picture to edit"));
const strips = el("div"), saving = el("div", { class: "mm-save" });
const stage = el("div", { hidden: true, tabindex: 0, class: "mm-stage", role: "group", "aria-label": "The run, step by step: the arrow keys go from one to the next", onkeydown: keyed },
  el("div", { class: "mm-pair mm-looks" }, source,
    el("figure", {}, framed(noisy), el("figcaption", {}, math("x", "t"), " — the noisy picture at this step")),
    el("figure", {}, framed(guess), el("figcaption", {}, math("x", "0"), " — the guess of the finished picture")),
    el("figure", {}, tokens, el("figcaption", {}, "its tokens", changed))),
  el("div", { class: "mm-scrub" }, play, slider),
  el("div", { class: "mm-readout" }, el("span", {}, "step ", step), el("span", {}, "timestep ", timestep), el("span", {}, "noise ", noise), guidance),
  strips,
  words.node,
  el("div", { class: "mm-facts" },
    el("section", { class: "mm-guesses" },
      does,
      el("div", {}, ...[[without, unlabelled], [byLabel, labelled], [both, "guided"]].map(([picture, name]) =>
        el("figure", {}, framed(picture), el("figcaption", {}, name))))),
    el("section", { class: "mm-curves" }, ...curves.map(({ node }) => node))),
  saving,
  (card = el("section", { class: "mm-chosen", "aria-live": "polite" })));
root.append(stage);

listen(props, watch, (message) => {
  if (!message.frames) return stage.hidden = true, halt();
  if (message.turn !== film.turn) {
    halt();
    film = { ...message, frames: [] };
    follow = true;
    peek = looked = null;
    card.replaceChildren();
    does.textContent = `What the ${film.kind} does to the guess`;
    labelled.textContent = `by ${film.kind} alone`;
    byLabel.alt = `The guess by the ${film.kind} alone`;
    unlabelled.textContent = film.negative ? `by ${film.negative}, to avoid` : `without a ${film.kind}`;
    without.alt = film.negative ? `The guess by ${film.negative}, to avoid` : `The guess without a ${film.kind}`;
    original.src = film.original ?? "";
    source.hidden = !film.original;
    slider.max = film.total - 1;
    thumbs = strip(film.total, go);
    strips.replaceChildren(thumbs);
    grid = film.untold ? null : tokenGrid(message.frames[0].tokens, choose);
    tokens.replaceChildren(snapped, grid ?? "");
    for (const one of [tokens.parentNode, ...curves.slice(1).map(({ node }) => node)]) one.hidden = !grid;
    if (film.untold) card.replaceChildren(el("p", { class: "mm-help" }, film.untold));
    offer();
    words.open();
  }
  for (const frame of message.frames) film.frames[frame.index] = frame;
  if (follow) at = message.show ?? message.frames.at(-1).index;
  stage.hidden = false;
  // Frames may come faster than a slow browser draws them: all are kept, only the newest is drawn.
  pending ??= requestAnimationFrame(() => { pending = null; thumbs.fill((i) => film.frames[i]?.x0); paint(); });
  if (message.frames.at(-1).index === film.total - 1) words.weigh(film, thumbs.steps);
});

function paint() {
  const frame = film.frames[peek ?? at];
  if (!frame) return;
  noisy.src = frame.x_t;
  guess.src = snapped.src = both.src = frame.x0;
  byLabel.src = frame.x0_label;
  without.src = frame.x0_null;
  slider.value = frame.index;
  slider.setAttribute("aria-valuetext", `Step ${frame.index + 1} of ${film.total}, timestep ${frame.timestep}`);
  step.textContent = `${frame.index + 1} of ${film.total}`;
  timestep.textContent = frame.timestep;
  noise.textContent = percent(frame.noise);
  guidance.textContent = film.narrowed ? `guidance ${frame.guided ? "on" : "off"}` : "";
  thumbs.mark(frame.index);
  for (const { draw } of [...(grid ? curves : curves.slice(0, 1)), words]) draw(frame);
  if (!grid) return;
  grid.change(frame.tokens.flat());
  for (const old of grid.querySelectorAll(".mm-flip")) old.remove();
  grid.append(...frame.flips.map(([y, x]) => el("div", { class: "mm-cell mm-flip", style: `--x: ${x}; --y: ${y}` })));
  changed.textContent = frame.index === 0 ? "" : `, ${frame.flips.length || "none"} of them new${frame.flips.length ? " (marked)" : ""}`;
}

// A token of the guess leads to its code.
async function choose(code) {
  halt();
  const { pack } = film, asked = looked = {}, answer = await answerTo(() => server.describe_code(pack, code));
  if (looked !== asked) return; // another code was chosen, or another film came
  card.replaceChildren(codeCard(answer, choose, codeLink(pack, answer.code)));
  card.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

// Lines over the steps. Pointing shows a step, pressing goes there; for the keyboard there is the slider.
function plotted(name, ...lines) {
  const shade = svg("path", { class: "mm-shade" }), cursor = svg("path", { class: "mm-cursor" });
  const plot = svg("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": name }, shade, cursor, ...lines);
  const under = (event) => {
    const box = plot.getBoundingClientRect();
    return Math.min(last(), Math.max(0, Math.floor((event.clientX - box.left) / box.width * film.total)));
  };
  plot.addEventListener("pointermove", (event) => { event.buttons ? go(under(event)) : look(under(event)); });
  plot.addEventListener("pointerdown", (event) => go(under(event)));
  plot.addEventListener("pointerleave", () => look(null));
  return { plot, shade, cursor };
}

// One value over the steps.
function curve(name, help, value, words) {
  const line = svg("path", { class: "mm-curve-line" }), dot = svg("path", { class: "mm-dot" }), now = el("b");
  const { plot, shade, cursor } = plotted(`${name} over the steps`, line, dot);
  const draw = (frame) => {
    const frames = film.frames.filter(Boolean), most = Math.max(...frames.map(value)) || 1, wide = 100 / film.total;
    const place = (one) => `${((one.index + 0.5) * wide).toFixed(2)} ${(37 - 34 * value(one) / most).toFixed(2)}`;
    line.setAttribute("d", frames.map((one, i) => `${i ? "L" : "M"}${place(one)}`).join(""));
    shade.setAttribute("d", film.narrowed ? frames.filter((one) => one.guided).map((one) => `M${one.index * wide} 0h${wide}v40h${-wide}z`).join("") : "");
    cursor.setAttribute("d", `M${(frame.index + 0.5) * wide} 0v40`);
    dot.setAttribute("d", `M${place(frame)}h0`); // a line without length, of which the round ends are left
    now.textContent = words(value(frame), frame);
  };
  return { draw, node: el("figure", { class: "mm-curve" }, el("figcaption", {}, el("span", {}, `${name}: ${help}`), now), plot) };
}

// The last step that has arrived: after a Stop, not the run's last.
function last() {
  return film.frames.length - 1;
}

// The next step that is here, from index on: until a run is done some are left out, and after a Stop they stay so.
function near(index, way = -1) {
  for (let i = Math.max(0, Math.min(last(), index)); 0 <= i && i <= last(); i += way) if (film.frames[i]) return i;
  return at;
}

function go(index, way) {
  halt();
  follow = false;
  peek = null;
  at = near(index, way);
  paint();
}

function look(index) {
  peek = index === null ? null : near(index);
  paint();
}

function keyed(event) {
  if (event.target.matches("input, .mm-grid")) return; // they have keys of their own
  const to = { ArrowLeft: [at - 1, -1], ArrowRight: [at + 1, 1], Home: [0, 1], End: [last(), -1] }[event.key];
  if (!to) return;
  event.preventDefault();
  go(...to);
}

function toggle() {
  if (timer) return halt();
  follow = false;
  if (at >= last()) at = 0;
  paint();
  timer = setInterval(() => { if (at >= last()) return halt(); at = near(at + 1, 1); paint(); }, pace());
  label();
}

const pace = () => Math.max(40, PLAY_SECONDS * 1000 / film.total);

function halt() {
  clearInterval(timer);
  timer = null;
  label();
}

function label() {
  play.textContent = timer ? "Pause" : "Play";
  play.setAttribute("aria-pressed", Boolean(timer));
}

function offer() {
  const button = (words, make) => {
    const one = el("button", { type: "button", class: "mm-button", onclick: async () => {
      const name = fileName(film.pack, film.label, `seed-${film.seed}`); // of this film, whatever is shown once it is made
      one.disabled = true;
      one.textContent = "Making it…";
      try {
        exports.save(await make(shots()), name);
      } finally {
        one.disabled = false;
        one.textContent = words;
      }
    } }, words);
    return one;
  };
  saving.replaceChildren(el("span", {}, "Save as"), button("GIF", (all) => exports.gif(all, pace())),
    ...(exports.canRecord() ? [button("Video", (all) => exports.video(all, pace()))] : []),
    button("PNG strip", (all) => exports.png(thumbs.steps.map((i) => all[i]).filter(Boolean))));
}

function shots() {
  return film.frames.filter(Boolean).map((frame) => ({
    uris: [...(film.original ? [film.original] : []), frame.x_t, frame.x0],
    name: film.label,
    words: `: step ${frame.index + 1} of ${film.total}, noise ${percent(frame.noise)}`,
  }));
}

label();
