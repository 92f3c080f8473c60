// One card a pack: native radio buttons, so that keyboards and screen readers know them. The value is the chosen name.
const { el, pixels, store } = window.mmdemo;
const root = element.firstElementChild;
let list = { cards: [] };

const read = () => {
  list = props.cards ? JSON.parse(props.cards) : list;
  root.replaceChildren(el("fieldset", { class: "mm-cards" }, el("legend", {}, "Pack"), ...list.cards.map(({ name, line, cover }, i) =>
    el("label", { class: "mm-pack" },
      el("input", { type: "radio", name: "mm-pack", value: name, "aria-label": name, "aria-describedby": `mm-pack-${i}`, onchange: () => choose(name) }),
      pixels(cover, ""),
      el("span", {}, el("b", {}, name), el("small", { id: `mm-pack-${i}` }, line))))));
  mark();
};

function choose(name) {
  props.value = name;
  mark();
}

function mark() {
  for (const radio of root.querySelectorAll("input")) {
    radio.checked = radio.value === props.value;
    const card = radio.parentElement, row = card.parentElement;
    if (!radio.checked) continue;
    // Not scrollIntoView, which would move the page too.
    if (card.offsetLeft < row.scrollLeft || card.offsetLeft + card.offsetWidth > row.scrollLeft + row.clientWidth)
      row.scrollTo({ left: card.offsetLeft - 24, behavior: "smooth" });
  }
}

watch("cards", read);
watch("value", mark);
read();
// A code is to be shown in the Codebook tab, which shows another pack if that was chosen while a picture was on its way.
store.on("wanted", ({ pack }) => { if (props.value !== pack) choose(pack); }, root);
