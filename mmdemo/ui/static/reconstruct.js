// The original under the reconstruction with a divider, the tokens over the reconstruction, and the chosen one's code.
// What happens to the tokens is surgery.js.
const { el, listen, pixels, answerTo, tiles, tokenGrid, codeCard, codeLink, store, storeOf, surgery } = window.mmdemo;
const root = element.firstElementChild, work = storeOf(root);
let shown = null, editor = null, looked = null, editing = false, card, grid;

listen(props, watch, (message) => {
  work.set("source", message.source);
  looked = null;
  if (!message.tokens) { // nothing at all, or a picture without tokens
    shown = editor = null;
    store.set("picture", null);
    return root.replaceChildren(...(message.image ? [compare(message), el("p", { class: "mm-help" }, message.untold), tiles(message.tiles)] : []));
  }
  shown = message;
  const pair = el("div", { class: "mm-pair" }, compare(shown), tokens());
  const row = shown.tokens.length >> 1, columns = shown.tokens[0].length, column = columns >> 1;
  grid.mark(row * columns + column);
  editor = surgery({ shown, grid, server, look, show });
  card = el("section", { class: "mm-chosen", "aria-live": "polite" });
  root.replaceChildren(pair, editor.node, tiles(shown.tiles), card, editor.others);
  offer();
  edit(editing);
  show(shown.image, shown.tokens);
  if (!paint()) look(shown.tokens[row][column]);
});

function compare(shown) {
  const split = el("input", { type: "range", min: 0, max: 100, value: 50, step: 1, "aria-label": "Divider between original and reconstruction" });
  const frame = el("div", { class: "mm-frame mm-compare" },
    pixels(shown.original, "Original"), pixels(shown.image, "Reconstruction", "mm-after"),
    el("span", { class: "mm-tag" }, "original"), el("span", { class: "mm-tag mm-right" }, "reconstruction"), split);
  split.addEventListener("input", () => frame.style.setProperty("--split", `${split.value}%`));
  return el("figure", {}, frame, el("figcaption", {}, "Drag the divider: the original on the left, the reconstruction on the right."));
}

function tokens() {
  grid = tokenGrid(shown.tokens, async (code) => {
    await look(code);
    if (!editing) card.querySelector(".mm-card-head")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });
  const ids = el("input", { type: "checkbox", checked: true });
  ids.addEventListener("change", () => grid.classList.toggle("mm-bare", !ids.checked));
  const count = shown.tokens.length * shown.tokens[0].length, digits = grid.querySelector(".mm-token");
  return el("figure", {},
    el("div", { class: "mm-frame" }, pixels(shown.image, "Reconstruction"), grid),
    el("figcaption", {}, `The same picture as ${count} tokens: each ${digits ? "number names" : "is"} a code. Choose one. `,
      ...(digits ? [el("label", {}, ids, " show numbers")] : [])),
    el("button", { type: "button", class: "mm-button mm-edit", onclick: () => edit(!editing) }, "Edit tokens"));
}

function edit(on) {
  editing = on;
  root.classList.toggle("mm-editing", on);
  root.querySelector(".mm-edit").setAttribute("aria-pressed", on);
  editor.turn(on);
}

// The picture of these tokens, here and wherever the current picture is looked at.
function show(image, tokens) {
  const edited = String(tokens) !== String(shown.tokens);
  for (const one of root.querySelectorAll(".mm-pair [alt=Reconstruction]")) one.src = image;
  root.classList.toggle("mm-edited", edited); // the numbers measure the codec, not the person
  store.set("picture", { pack: shown.pack, subject: shown.subject + (edited ? ", edited," : ""), tokens, image });
}

// Shows a code's card. While tokens are being edited, the codes near it are to be put, otherwise to be looked at.
async function look(code) {
  const { pack } = shown, asked = looked = {}, answer = await answerTo(() => server.describe_code(pack, code));
  if (looked !== asked) return; // another code was chosen, or another picture came
  const open = codeLink(pack, answer.code);
  const take = el("button", { type: "button", class: "mm-button mm-take", onclick: () => editor.pick(code) }, "Use this code");
  card.replaceChildren(codeCard(answer, (near) => editing ? editor.pick(near) : look(near), el("div", { class: "mm-row" }, open, take)));
}

// The Codebook tab may have a code to paint with; the picture of its pack may still be on the way, and so may this tab.
function paint() {
  if (!shown || store.get("brush")?.pack !== shown.pack) return false;
  edit(true);
  editor.paint(store.take("brush").code);
  return true;
}

function offer() {
  editor?.offer(work.get("examples") ?? []);
}

store.on("brush", paint, root);
store.on("code", () => editor?.draw(), root);
work.on("examples", offer, root);
document.addEventListener("keydown", function key(event) {
  if (root.isConnected) editor?.key(event);
  else document.removeEventListener("keydown", key);
});
