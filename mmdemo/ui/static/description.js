// A picture in words: the text, where each of its words comes from, and how likely the values of every attribute are.
const { el, listen, pixels } = window.mmdemo;
const root = element.firstElementChild;

listen(props, watch, ({ text, said, words, attributes, notice }) => {
  if (text === undefined) return root.replaceChildren();
  if (!words) return root.replaceChildren(el("p", { class: "mm-status mm-busy", role: "status" }, el("span", {}, text)));
  const where = pixels("", ""), name = el("figcaption");
  const buttons = words.map(([word, uri]) => {
    const show = () => {
      for (const one of buttons) one.setAttribute("aria-pressed", one === button);
      where.src = uri;
      where.alt = name.textContent = `Where “${word}” comes from`;
    };
    const button = el("button", { type: "button", class: "mm-chip", dir: "auto", onclick: show, onpointerenter: show, onfocus: show }, word);
    return button;
  });
  const bars = attributes.map(([attribute, values]) => el("div", { class: "mm-attribute" }, el("dt", {}, attribute),
    ...values.map(([value, share]) => el("dd", { style: `--share: ${100 * share}%` }, el("span", {}, value), el("b", {}, `${Math.round(100 * share)} %`)))));
  root.replaceChildren(el("p", { class: "mm-described", dir: "auto" }, text),
    ...(notice ? [el("p", { class: "mm-doubt", role: "status" }, notice)] : []), el("div", { class: "mm-words-of" }, ...buttons),
    el("div", { class: "mm-because" }, ...(words.length ? [el("figure", {}, el("div", { class: "mm-frame" }, where), name)] : []), el("dl", {}, ...bars)),
    el("p", { class: "mm-help" }, "The probabilities are the model's, among its own words: it is sure even of pictures that it does not know."),
    el("p", { class: "mm-help", role: "status" }, said));
  buttons[0]?.click();
});
