// Shared by every widget; knows the DOM and the shape of a message, no tab and no model.
window.mmdemo ??= (() => {
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

  // A grid of buttons, one of them in the tab order: arrows, Home and End move the focus, Enter chooses.
  function grid(label, columns, buttons, choose) {
    const rows = [];
    for (let i = 0; i < buttons.length; i += columns) {
      rows.push(el("div", { role: "row" }, ...buttons.slice(i, i + columns)));
    }
    const node = el("div", { role: "grid", "aria-label": label, style: `--columns: ${columns}` }, ...rows);
    buttons.forEach((button, i) => {
      button.setAttribute("role", "gridcell");
      button.tabIndex = i ? -1 : 0;
      button.addEventListener("click", () => choose(i));
    });
    const rove = (i) => {
      buttons.forEach((button) => { if (button.tabIndex === 0) button.tabIndex = -1; });
      buttons[i].tabIndex = 0;
    };
    node.addEventListener("keydown", (event) => {
      const here = buttons.indexOf(document.activeElement);
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
                     Home: -(here % columns), End: columns - 1 - here % columns }[event.key];
      if (step === undefined || here < 0) return;
      event.preventDefault();
      const next = Math.min(here + step, event.key === "End" ? buttons.length - 1 : Infinity);
      if (!buttons[next]) return;
      rove(next);
      buttons[next].focus();
    });
    node.mark = (i) => {
      buttons.forEach((button, k) => button.setAttribute("aria-selected", k === i));
      if (buttons[i]) rove(i);
    };
    return node;
  }

  // The token ids as a grid of buttons to lay over a picture. Too many tokens: no digits, the names stay.
  function tokenGrid(tokens, choose) {
    const columns = tokens[0].length;
    const small = columns > 16;
    const buttons = tokens.flatMap((row, y) => row.map((id, x) => el("button", {
      type: "button", class: "mm-token", title: `Token ${id}`, "aria-label": `Token ${id}, row ${y + 1}, column ${x + 1}`,
    }, small ? "" : String(id))));
    const node = grid("Tokens", columns, buttons, (i) => { node.mark(i); choose(tokens.flat()[i]); });
    node.classList.add("mm-tokens");
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

  return { el, listen, load, crop, pixels, tiles, grid, tokenGrid, codeCard };
})();
