// What a pack says of a picture: the text, where each of its words comes from, and how likely the values of every
// attribute, or the classes, are.
const { el, listen, pixels } = window.mmdemo;
const root = element.firstElementChild;

listen(props, watch, ({ text, attributes = [], words, help, notice }) => {
  if (text === undefined) return root.replaceChildren();
  const bars = attributes.map(([attribute, values]) => el("div", { class: "mm-attribute" }, el("dt", {}, attribute),
    ...values.map(([value, share]) => el("dd", { style: `--share: ${100 * share}%` }, el("span", {}, value), el("b", {}, `${Math.round(100 * share)} %`)))));
  if (!words) {
    return root.replaceChildren(el("p", { class: "mm-status mm-busy", role: "status" }, el("span", {}, text)),
      ...(bars.length ? [el("div", { class: "mm-because" }, el("figure"), el("dl", {}, ...bars))] : []));
  }
  const where = pixels("", ""), name = el("figcaption");
  const buttons = words.map(({ word, caption, picture }) => {
    const show = () => {
      for (const one of buttons) one.setAttribute("aria-pressed", one === button);
      where.src = picture;
      where.alt = name.textContent = caption;
    };
    const button = el("button", { type: "button", class: "mm-chip", dir: "auto", onclick: show, onpointerenter: show, onfocus: show }, word);
    return button;
  });
  root.replaceChildren(el("p", { class: "mm-described", dir: "auto" }, text),
    ...(notice ? [el("p", { class: "mm-doubt", role: "status" }, notice)] : []), el("div", { class: "mm-words-of" }, ...(words.length === 1 && words[0].word === text ? [] : buttons)),
    el("div", { class: "mm-because" }, ...(words.length ? [el("figure", {}, el("div", { class: "mm-frame" }, where), name)] : []), el("dl", {}, ...bars)),
    ...help.map((line) => el("p", { class: "mm-help", role: "status" }, line)));
  buttons[0]?.click();
});
