// The chosen code in a picture: where it is, and what becomes of the picture when it and another trade places.
window.mmdemo.places ??= (server, choose) => {
  const { el, pixels, tokenGrid, marks, latest } = window.mmdemo;
  let book = {}, picture = null, code = null, near, wish = null, inwards = false;

  const words = el("p", { class: "mm-help" }), changed = el("p", { class: "mm-help", role: "status" });
  const where = el("div", { class: "mm-frame" }), frames = ["before", "after", "difference"].map((name) =>
    el("figure", { "data-name": name }, el("div", { class: "mm-frame" }, pixels("", name)), el("figcaption", {}, name)));
  const way = el("select", { "aria-label": "Which code takes whose place", onchange: () => { inwards = way.value === "in"; ask(); } });
  const other = el("input", { type: "number", min: 0, step: 1, "aria-label": "The other code", onchange: () => { wish = other.valueAsNumber; ask(); } });
  const next = el("button", { type: "button", class: "mm-button", "aria-pressed": "false", onclick: () => picking(next.ariaPressed !== "true") }, "Choose it in the grid");
  const stage = el("div", { hidden: true },
    el("div", { class: "mm-four" }, el("figure", {}, where, el("figcaption", {}, "where it is")), ...frames),
    el("div", { class: "mm-row" }, way, other, next), changed);
  const node = el("section", { class: "mm-places" }, el("h4", {}, "In a picture"), words, stage);

  const picking = (on) => next.setAttribute("aria-pressed", on);

  const asked = latest((request) => server.replace_code(...request), (answer) => {
    changed.textContent = answer.error ?? (answer.count ? `${answer.count} ${answer.count === 1 ? "token" : "tokens"} changed.` : "No token of the picture is that code, so nothing changes.");
    if (!answer.error) for (const frame of frames) frame.querySelector("img").src = answer[frame.dataset.name];
  });

  function count(id) {
    return picture.tokens.flat().filter((one) => one === id).length;
  }

  // Unless the person named one: the commonest other code of the picture, which makes for more to see than the nearest.
  function partner() {
    if (wish !== null && wish !== code) return wish;
    const others = picture.tokens.flat().filter((id) => id !== code), times = new Map();
    for (const id of others) times.set(id, (times.get(id) ?? 0) + 1);
    return others.reduce((a, b) => times.get(b) > (times.get(a) ?? 0) ? b : a, near[0]?.code ?? (code + 1) % book.codes);
  }

  function ask() {
    const by = partner();
    other.value = by;
    asked(inwards ? [picture.pack, picture.tokens, by, code] : [picture.pack, picture.tokens, code, by]);
  }

  function draw() {
    stage.hidden = code === null || !picture?.tokens;
    if (code === null) return;
    if (stage.hidden) return words.textContent = picture?.text ?? "Loading the models…";
    const ids = picture.tokens.flat(), columns = picture.tokens[0].length, found = ids.flatMap((id, i) => id === code ? [i] : []);
    words.textContent = `${found.length || "None"} of the ${ids.length} tokens of ${picture.subject} ${found.length > 1 ? "are" : "is"} code ${code}.`;
    const grid = tokenGrid(picture.tokens, choose), over = marks(columns, ids.length);
    grid.classList.add("mm-bare");
    grid.classList.remove("mm-lined");
    grid.setAttribute("aria-label", "Tokens of the picture");
    grid.prepend(over);
    where.replaceChildren(pixels(picture.image, "The picture"), grid);
    over.show({ outlined: found, veil: true });
    inwards = !found.length;
    way.replaceChildren(
      el("option", { value: "out", selected: !inwards }, `Code ${code} becomes code`),
      el("option", { value: "in", selected: inwards }, `Code ${code} takes the place of code`));
    other.max = book.codes - 1;
    ask();
  }

  return {
    node,
    // Another pack's codes: none is chosen yet, and nothing is wished of them.
    open(opened) {
      book = opened;
      picture = code = wish = null;
      picking(false);
      draw();
    },
    // A code was chosen: as the other one, if that is what was asked for.
    took(chosen) {
      if (next.ariaPressed !== "true" || chosen === code) return false;
      picking(false);
      wish = chosen;
      ask();
      return true;
    },
    show(chosen, nearest = []) {
      [code, near] = [chosen, nearest];
      draw();
    },
    // shown: a picture of the same pack, or null.
    look(shown) {
      picture = shown;
      draw();
    },
  };
};
