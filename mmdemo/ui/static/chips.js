// Texts to be taken by a click; the value is the one that was taken, or that Python put in their place.
const { el, listen } = window.mmdemo;
const root = element.firstElementChild;

listen(props, watch, ({ chips = [], folded = false }) => {
  root.replaceChildren(...(chips.length ? [el("details", { open: !folded }, el("summary", {}, `Examples (${chips.length})`),
    el("div", {}, ...chips.map(({ name, text }) =>
      el("button", { type: "button", class: "mm-chip", dir: "auto", title: text, onclick: () => take(text) }, name))))] : []));
}, "chips");

function take(text) {
  props.value = text;
  trigger("take");
}
