// The original under the reconstruction with a divider, the tokens over the reconstruction, and the chosen one's code.
const { el, listen, pixels, tiles, tokenGrid, codeCard } = window.mmdemo;
const root = element.firstElementChild;
let shown, card, grid;

listen(props, watch, (message) => {
  window.mmdemo.source = message.source; // the picker marks it
  document.dispatchEvent(new CustomEvent("mmdemo:source"));
  if (!message.tokens) return root.replaceChildren();
  shown = message;
  root.replaceChildren(
    el("div", { class: "mm-pair" }, compare(), tokens()),
    tiles(shown.tiles),
    (card = el("section", { class: "mm-chosen", "aria-live": "polite" })));
  const row = shown.tokens.length >> 1, columns = shown.tokens[0].length, column = columns >> 1;
  grid.mark(row * columns + column);
  choose(shown.tokens[row][column]);
});

function compare() {
  const split = el("input", { type: "range", min: 0, max: 100, value: 50, step: 1, "aria-label": "Divider between original and reconstruction" });
  const frame = el("div", { class: "mm-frame mm-compare" },
    pixels(shown.original, "Original"), pixels(shown.image, "Reconstruction", "mm-after"),
    el("span", { class: "mm-tag" }, "original"), el("span", { class: "mm-tag mm-right" }, "reconstruction"), split);
  split.addEventListener("input", () => frame.style.setProperty("--split", `${split.value}%`));
  return el("figure", {}, frame, el("figcaption", {}, "Drag the divider: the original on the left, the reconstruction on the right."));
}

function tokens() {
  grid = tokenGrid(shown.tokens, async (code) => { await choose(code); card.querySelector(".mm-card-head")?.scrollIntoView({ block: "nearest", behavior: "smooth" }); });
  const ids = el("input", { type: "checkbox", checked: true });
  ids.addEventListener("change", () => grid.classList.toggle("mm-bare", !ids.checked));
  const count = shown.tokens.length * shown.tokens[0].length, digits = grid.querySelector(".mm-token");
  return el("figure", {},
    el("div", { class: "mm-frame" }, pixels(shown.image, "Reconstruction"), grid),
    el("figcaption", {}, `The same picture as ${count} tokens: each ${digits ? "number names" : "is"} a code. Choose one. `,
      ...(digits ? [el("label", {}, ids, " show numbers")] : [])));
}

async function choose(code) {
  const answer = await server.describe_code(shown.pack, code);
  const open = el("button", { type: "button", class: "mm-button", onclick: () => {
    document.dispatchEvent(new CustomEvent("mmdemo:code", { detail: { pack: shown.pack, code: answer.code } }));
    document.getElementById("codebook-button").click();
  } }, "Open in Codebook");
  card.replaceChildren(codeCard(answer, choose, open));
}
