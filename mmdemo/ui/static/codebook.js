// Every code as a swatch in a grid and as a dot on a map, a histogram of their use, and the chosen one: its card and
// its places in a picture.
const { el, listen, answerTo, load, crop, tiles, grid, codeCard, codeMap, store } = window.mmdemo;
const root = element.firstElementChild;
// Swatches are a few pixels wide: drawn large once, so that any size on screen looks even, as far as memory allows.
const ENLARGE = 8, MOST_PIXELS = 4e6;
const places = window.mmdemo.places(server, pick);
let book, swatches, bars, card, map, sprite, untouched, first = {};

listen(props, watch, async (message) => {
  book = message.codes ? message : null;
  if (!book) return root.replaceChildren(el("p", { class: "mm-help" }, message.text ?? ""));
  root.replaceChildren(
    tiles(book.tiles),
    el("div", { class: `mm-columns ${book.columns > 40 ? "mm-many" : ""}` },
      el("section", {},
        el("h3", {}, "Every code"),
        el("p", { class: "mm-help" }, book.usage
          ? "What the decoder draws for each code. Similar ones are near each other. Choose one."
          : "What the decoder draws for each code is not known of this pack: a code's colour stands for its numbers, so that similar ones look alike. Choose one."),
        el("div", { class: "mm-swatches" }, (swatches = grid("Codes", book.columns, book.order.length,
          (i) => `Code ${book.order[i]}, ${book.shares[book.order[i]]} of all tokens`, (i) => pick(book.order[i]))))),
      el("div", { class: "mm-chosen" }, (card = el("section", { "aria-live": "polite" })), places.node),
      el("section", {},
        el("h3", {}, "The codes on a map"),
        el("p", { class: "mm-help" }, `The plane in which the codes differ most shows ${book.explained} of their variance. A dot's size is the code's use, its colour the swatch's.`),
        (map = codeMap(book, (code, canvas) => sprite && crop(canvas, sprite, ...placeOf(code), book.swatch_size, book.swatch_size), pick))),
      el("section", { hidden: !book.usage },
        el("h3", {}, "How often each code is used"),
        el("p", { class: "mm-help" }, "One bar a code, the most used first, on a logarithmic scale; the line is equal use of all."),
        (bars = el("canvas", { class: "mm-bars", role: "img", "aria-label": book.usage, onclick: pickBar })))));
  sprite = null;
  places.open(book);
  if (!answerWish()) {
    choose(book.chosen, book.card);
    untouched = true;
  }
  lookAt();
  const loaded = await load(message.swatches);
  if (book !== message) return; // another pack's came meanwhile
  sprite = loaded;
  drawSwatches();
});

// The picture that Reconstruct shows, or else the pack's first example.
listen(props, watch, (message) => { first = message; lookAt(); }, "picture");
store.on("picture", lookAt, root);
async function lookAt() {
  if (!book) return;
  const picture = [store.get("picture"), first].find((one) => one?.pack === book.pack) ?? null;
  if (!untouched || !picture?.tokens) return places.look(picture);
  // Nobody has chosen yet: the rarest code of a picture says more than one that is not in it.
  places.look(null);
  await choose(picture.tokens.flat().reduce((a, b) => book.counts[b] < book.counts[a] ? b : a));
  lookAt(); // at what is the picture by now
}

// Where a code is in the sprite
function placeOf(code) {
  const i = book.order.indexOf(code);
  return [(i % book.columns) * book.swatch_size, Math.floor(i / book.columns) * book.swatch_size];
}

function drawSwatches() {
  const size = book.swatch_size, rows = Math.ceil(book.order.length / book.columns);
  const fits = Math.sqrt(MOST_PIXELS / (book.columns * rows)) / (size * 17 / 16);
  const cell = size * Math.max(1, Math.min(ENLARGE, Math.floor(fits))), gap = Math.ceil(cell / 16);
  const canvas = el("canvas", { "aria-hidden": "true" });
  canvas.width = book.columns * (cell + gap);
  canvas.height = rows * (cell + gap);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  book.order.forEach((_, i) => context.drawImage(sprite,
    (i % book.columns) * size, Math.floor(i / book.columns) * size, size, size,
    (i % book.columns) * (cell + gap) + gap / 2, Math.floor(i / book.columns) * (cell + gap) + gap / 2, cell, cell));
  swatches.prepend(canvas);
}

// A person's choice: of the code to be looked at, or of the one to trade places with it.
function pick(code) {
  if (!places.took(code)) choose(code);
}

async function choose(code, known) {
  untouched = false;
  book.chosen = code;
  swatches.mark(book.order.indexOf(code));
  map.mark(code);
  drawBars();
  store.set("code", { pack: book.pack, code });
  const asked = book, answer = known ?? await answerTo(() => server.describe_code(asked.pack, code));
  if (book !== asked || book.chosen !== code) return;
  const use = el("button", { type: "button", class: "mm-button", onclick: () => {
    store.set("brush", { pack: asked.pack, code });
    document.getElementById("reconstruct-button").click();
  } }, "Use this code");
  card.replaceChildren(codeCard(answer, pick, use));
  places.show(code, answer.nearest);
}

function drawBars() {
  const ranked = book.ranked ??= book.order.toSorted((a, b) => book.counts[b] - book.counts[a]);
  const ratio = window.devicePixelRatio || 1;
  const width = bars.width = (bars.clientWidth || 600) * ratio, height = bars.height = 120 * ratio;
  const equal = book.counts.reduce((a, b) => a + b, 0) / ranked.length;
  const tall = (count) => Math.log1p(count) / Math.log1p(book.counts[ranked[0]] || 1) * (height - 4 * ratio);
  const context = bars.getContext("2d"), style = getComputedStyle(bars), step = width / ranked.length;
  const bar = (code, i, thinnest) => {
    const top = Math.max(tall(book.counts[code]), ratio);
    context.fillRect(i * step, height - top, Math.max(step * 0.8, thinnest), top);
  };
  context.fillStyle = style.getPropertyValue("--mm-bar");
  ranked.forEach((code, i) => bar(code, i, 0.5));
  context.fillStyle = style.getPropertyValue("--mm-mark");
  bar(book.chosen, ranked.indexOf(book.chosen), 3 * ratio);
  context.fillStyle = style.getPropertyValue("--mm-line");
  context.fillRect(0, height - tall(equal), width, ratio);
}

function pickBar(event) {
  const box = bars.getBoundingClientRect();
  pick(book.ranked[Math.min(book.ranked.length - 1, Math.floor((event.clientX - box.left) / box.width * book.ranked.length))]);
}

// The bars are drawn for one width and one colour scheme; draw them again when either changes.
const redraw = () => { if (bars?.isConnected) drawBars(); };
new ResizeObserver(redraw).observe(root);
new MutationObserver((_, observer) => root.isConnected ? redraw() : observer.disconnect()).observe(document.body, { attributeFilter: ["class"] });

// Another tab wants a code to be shown here; until its pack's codes are here, the wish waits.
function answerWish() {
  if (!book || store.get("wanted")?.pack !== book.pack) return false;
  choose(store.take("wanted").code);
  return true;
}
store.on("wanted", answerWish, root);
