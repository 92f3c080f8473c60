// Shared by every widget; knows the DOM and the shape of a message, no tab and no model.
window.mmdemo ??= (() => {
  const MOST_DIGITS = 48; // in a row of tokens: more would hide the picture under them
  let cells = 0;

  // el("button", {class: "x", onclick: f}, "text", node): children are text or nodes, never HTML.
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Calls draw(message) now and whenever Python sends another, except those of an earlier turn that come late.
  function listen(props, watch, draw) {
    let turn = 0;
    const read = () => {
      const message = props.value ? JSON.parse(props.value) : {};
      if (message.turn < turn) return;
      turn = message.turn ?? turn;
      draw(message);
    };
    watch("value", read);
    read();
  }

  async function load(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image;
  }

  // Copies a part of an image onto a canvas of the same number of pixels; the style sheet enlarges it crisply.
  function crop(canvas, image, x, y, width, height) {
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  }

  const pixels = (uri, alt, name = "") => el("img", { src: uri, alt, class: `mm-pixels ${name}`, draggable: "false" });

  const tiles = (list) => el("dl", { class: "mm-tiles" }, ...list.map(([label, value, help]) =>
    el("div", { class: "mm-tile" }, el("dt", {}, label), el("dd", {}, value), el("p", {}, help))));

  // A grid over a picture, with elements only for the chosen cell and for the one under the pointer or the keyboard:
  // 4096 buttons would take half a second. Arrows, Home and End move, Enter and a click choose; name(i) is read out.
  function grid(label, columns, count, name, choose) {
    const rows = Math.ceil(count / columns);
    const node = el("div", { class: "mm-grid", role: "grid", tabindex: 0, "aria-label": label, "aria-colcount": columns,
      "aria-rowcount": rows, style: `--columns: ${columns}; --rows: ${rows}` });
    const cursors = {};
    let here = 0;

    // A new element each time, or a screen reader would not notice that it is another cell.
    function put(kind, i) {
      const row = Math.floor(i / columns), column = i % columns;
      const cell = el("div", { class: `mm-cell mm-${kind}`, role: "gridcell", id: `mm-cell-${cells++}`, "aria-label": name(i), title: name(i),
        "aria-selected": String(kind === "picked"), "aria-colindex": column + 1, style: `--x: ${column}; --y: ${row}` });
      cursors[kind]?.remove();
      node.append(cursors[kind] = el("div", { role: "row", "aria-rowindex": row + 1 }, cell));
      return cell;
    }

    function go(i) {
      here = i;
      node.setAttribute("aria-activedescendant", put("here", i).id);
    }

    function under(event) {
      const box = node.getBoundingClientRect();
      const at = (share, n) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
      const i = at((event.clientY - box.top) / box.height, rows) * columns + at((event.clientX - box.left) / box.width, columns);
      return i < count ? i : null;
    }

    // Within a box that scrolls; scrollIntoView would move the page too.
    function reveal(i) {
      const box = node.parentElement, side = node.clientWidth / columns;
      if (!box) return;
      for (const [start, size, at] of [["scrollLeft", "clientWidth", i % columns], ["scrollTop", "clientHeight", Math.floor(i / columns)]]) {
        if (at * side < box[start] || (at + 1) * side > box[start] + box[size]) box[start] = (at + 0.5) * side - box[size] / 2;
      }
    }

    node.addEventListener("pointermove", (event) => { const i = under(event); if (i !== null && i !== here) go(i); });
    node.addEventListener("click", (event) => { const i = under(event); if (i !== null) go(i), choose(i); });
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") return event.preventDefault(), choose(here);
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
                     Home: -(here % columns), End: Math.min(columns - 1 - here % columns, count - 1 - here) }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      if (here + step < 0 || here + step >= count) return;
      go(here + step);
      reveal(here);
    });
    node.mark = (i) => {
      put("picked", i);
      go(i);
      reveal(i);
    };
    return node;
  }

  // The token ids as a grid to lay over a picture. Too many tokens: no digits, and then no lines; the names stay.
  function tokenGrid(tokens, choose) {
    const columns = tokens[0].length, ids = tokens.flat();
    const name = (i) => `Token ${ids[i]}, row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}`;
    const node = grid("Tokens", columns, ids.length, name, (i) => { node.mark(i); choose(ids[i]); });
    node.classList.add("mm-tokens");
    node.classList.toggle("mm-lined", columns <= 32);
    if (columns * String(Math.max(...ids)).length <= MOST_DIGITS) node.append(...ids.map((id) => el("span", { class: "mm-token", "aria-hidden": "true" }, String(id))));
    return node;
  }
  // Everything known about one code, as Python's describe_code sends it.
  function codeCard(card, choose, ...extra) {
    if (card.error) return el("p", { class: "mm-help" }, card.error);
    const children = [
      el("div", { class: "mm-card-head" }, pixels(card.swatch, "", "mm-swatch-large"),
        el("div", {}, el("h3", {}, `Code ${card.code}`), el("p", { class: "mm-share" }, card.share), el("p", {}, card.usage), ...extra)),
      el("h4", {}, "Nearest codes"),
      el("div", { class: "mm-nearest" }, ...card.nearest.map(({ code, distance, swatch }) =>
        el("button", { type: "button", title: `Code ${code}, distance ${distance}`, "aria-label": `Code ${code}`,
          onclick: () => choose(code) }, pixels(swatch, ""), String(code)))),
    ];
    if (card.patches.length) {
      children.push(el("h4", {}, "Where the training pictures use it"),
        el("div", { class: "mm-patches" }, ...card.patches.map((uri) => pixels(uri, ""))));
    }
    return el("div", { class: "mm-card", "data-code": card.code }, ...children);
  }

  // What a button has set going is seen, also on a phone, where that button is far below.
  function bring(tab) {
    const work = document.querySelector(`#${tab} .mm-work`);
    if (work?.getBoundingClientRect().top < 0) work.scrollIntoView({ behavior: "smooth" });
  }

  return { bring, el, listen, load, crop, pixels, tiles, grid, tokenGrid, codeCard };
})();
