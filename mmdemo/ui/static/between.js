// Pictures between two ends, each with its share of the way.
const { el, listen, pixels, pngLink } = window.mmdemo;
const root = element.firstElementChild;
const list = el("ol", { class: "mm-way" }), foot = el("div", { class: "mm-foot" });
root.append(list, foot);

listen(props, watch, ({ pictures = [], shares, png, file }) => {
  list.replaceChildren(...pictures.map((uri, i) => el("li", {}, pixels(uri, `${shares[i]} of the way`), el("span", {}, shares[i]))));
  foot.replaceChildren(...(png ? [
    el("p", { class: "mm-help" }, "How much of the way from the first end to the other."),
    pngLink(png, file)] : []));
});
