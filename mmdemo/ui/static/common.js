// Shared by every widget; knows the DOM and the shape of a message, and what the tabs tell each other, but no model.
window.mmdemo ??= (() => {
  const MOST_DIGITS = 48; // in a row of tokens: more would hide the picture under them
  let cells = 0;

  // What the tabs tell each other. Each field has one writer, so whoever reads it knows where it comes from.
  const SHARED = {
    strength: "how far into noise an edit is to go, 0 to 1. Written by Edit's slider (ui/edit.py).",
    picture: "{pack, subject, tokens, image}: what Reconstruct shows, edited or not; null: nothing. Written by reconstruct.js.",
    code: "{pack, code}: the code chosen in the Codebook. Written by codebook.js.",
    // Requests: whom they are for takes them, at once or when it is ready, and then they are gone.
    wanted: "{pack, code}: to be shown in the Codebook, which takes it. Written by codeLink, below.",
    brush: "{pack, code}: to paint with in Reconstruct, which takes it. Written by codebook.js.",
  };
  // What the widgets of one .mm-work tell each other: each has a picker of its own.
  const WITHIN = {
    examples: "[{uri, smooth}]: what can be picked. Written by picker.js.",
    source: "{kind, index}: which picture is shown: an example, the drawing or the file. Written by reconstruct.js, noised.js or restore.js.",
  };

  function makeStore(fields) {
    const values = {}, listeners = {};
    const check = (name) => { if (!Object.hasOwn(fields, name)) throw new Error(`The store has no field ${name}`); };
    const get = (name) => (check(name), values[name] ?? null);
    const here = (name) => listeners[name]?.filter(({ node }) => node.isConnected) ?? []; // those that are left
    return {
      get,
      set(name, value) {
        if (get(name) === value) return;
        values[name] = value;
        for (const { listener } of here(name)) apart(listener, value);
      },
      // listener(value): now, if there is one, and at each change, for as long as the node is on the page.
      on(name, listener, node = document) {
        const now = get(name);
        listeners[name] = [...here(name), { listener, node }];
        if (now !== null) listener(now);
      },
      // A request's value, once. Its listeners know already.
      take(name) {
        const value = get(name);
        values[name] = null;
        return value;
      },
    };
  }
  const store = makeStore(SHARED), works = new WeakMap();

  // The store of the .mm-work in which a widget stands.
  function storeOf(node) {
    const work = node.closest(".mm-work");
    if (!works.has(work)) works.set(work, makeStore(WITHIN));
    return works.get(work);
  }

  // Calls what may fail without harm to what comes after; the error is seen like any that nobody caught.
  function apart(call, ...given) {
    try {
      call(...given);
    } catch (error) {
      reportError(error);
    }
  }

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

  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Calls draw(message) now and whenever Python sends another, except those of an earlier turn that come late.
  function listen(props, watch, draw, name = "value") {
    let turn = 0;
    const read = () => {
      const message = props[name] ? JSON.parse(props[name]) : {};
      if (message.turn < turn) return;
      turn = message.turn ?? turn;
      draw(message);
    };
    watch(name, read);
    read();
  }

  // What the server says, or else that it said nothing: gradio gives undefined then, and warns on the console.
  async function answerTo(ask) {
    let answer;
    try {
      answer = await ask();
    } catch (error) {
      console.warn(error);
    }
    return answer ?? { error: "The server did not answer. Try again." };
  }

  // ask(x) for the newest x only, one question at a time: what a person does meanwhile is asked once, at the end.
  // show(answer, x) may be shown an `error` instead, and then the next is asked all the same.
  // patience: milliseconds after which a second question may be open beside the first, so that its answer is computed
  // while the other travels. An answer that a newer one has overtaken is not shown.
  function latest(ask, show, patience = Infinity) {
    let next = null, open = 0, asked = 0, shown = 0, begun = 0;
    return async (x) => {
      next = { x };
      if (open === 2 || (open && performance.now() - begun < patience)) return;
      open += 1;
      while (next) {
        const { x } = next, mine = (asked += 1);
        next = null;
        begun = performance.now();
        const answer = await answerTo(() => ask(x));
        if (mine < shown) continue;
        shown = mine;
        apart(show, answer, x);
      }
      open -= 1;
    };
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
    node.here = () => here;
    node.go = go;
    node.under = under;
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
    const columns = tokens[0].length;
    let ids = tokens.flat(), picked = null;
    const name = (i) => `Token ${ids[i]}, row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}`;
    const node = grid("Tokens", columns, ids.length, name, (i) => { node.mark(i); choose(ids[i]); });
    node.classList.add("mm-tokens");
    node.classList.toggle("mm-lined", columns <= 32);
    if (columns * String(Math.max(...ids)).length <= MOST_DIGITS) node.append(...ids.map((id) => el("span", { class: "mm-token", "aria-hidden": "true" }, String(id))));
    const numbers = node.querySelectorAll(".mm-token"), mark = node.mark;
    node.mark = (i) => mark(picked = i);
    // Other ids at the same places.
    node.change = (next) => {
      numbers.forEach((number, i) => { if (ids[i] !== next[i]) number.textContent = next[i]; });
      ids = next;
      if (picked === null) return;
      const here = node.here();
      node.mark(picked); // its name has changed
      node.go(here);
    };
    return node;
  }

  // A canvas to lay over a grid: some places outlined together, some with a corner, the others veiled if they are to be.
  function marks(columns, count) {
    const rows = Math.ceil(count / columns), side = Math.max(8, Math.min(32, Math.floor(768 / columns)));
    const canvas = el("canvas", { class: "mm-marks", "aria-hidden": "true", width: columns * side, height: rows * side });
    const context = canvas.getContext("2d");
    canvas.show = ({ outlined = [], cornered = [], veil = false }) => {
      const among = new Set(outlined), style = getComputedStyle(canvas), thick = Math.max(2, side / 10);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = "#000b";
      if (veil) context.fillRect(0, 0, canvas.width, canvas.height);
      for (const i of among) {
        const column = i % columns, x = column * side, y = Math.floor(i / columns) * side;
        context.clearRect(x, y, side, side);
        // In two tones, so that it is seen whatever the picture's colour.
        for (const [colour, wide] of [["#000", 2 * thick], ["#fff", 1.5 * thick], [style.getPropertyValue("--mm-mark"), thick]]) {
          context.fillStyle = colour;
          if (!among.has(i - columns)) context.fillRect(x, y, side, wide);
          if (!among.has(i + columns)) context.fillRect(x, y + side - wide, side, wide);
          if (!column || !among.has(i - 1)) context.fillRect(x, y, wide, side);
          if (column === columns - 1 || !among.has(i + 1)) context.fillRect(x + side - wide, y, wide, side);
        }
      }
      context.fillStyle = style.getPropertyValue("--mm-changed");
      context.strokeStyle = "#000";
      for (const i of cornered) {
        const x = (i % columns + 1) * side, y = Math.floor(i / columns) * side;
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(x - side * 0.34, y);
        context.lineTo(x, y + side * 0.34);
        context.closePath();
        context.fill();
        context.stroke();
      }
    };
    return canvas;
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

  // Paints on a canvas where a mouse, pen or finger goes; ended() after every stroke. Its context has the colour.
  function paintable(canvas, width, ended) {
    const context = canvas.getContext("2d");
    context.lineWidth = width;
    context.lineCap = "round";
    let last = null;
    const go = (event) => {
      const box = canvas.getBoundingClientRect();
      const next = [(event.clientX - box.left) / box.width * canvas.width, (event.clientY - box.top) / box.height * canvas.height];
      context.beginPath();
      context.moveTo(...last ?? [next[0] - 0.01, next[1]]); // a line of no length would not be drawn
      context.lineTo(...next);
      context.stroke();
      last = next;
    };
    const begin = (event) => {
      canvas.setPointerCapture(event.pointerId);
      go(event);
    };
    canvas.addEventListener("pointerdown", begin);
    canvas.addEventListener("pointerenter", (event) => { if (event.buttons === 1) begin(event); }); // pressed outside
    canvas.addEventListener("pointermove", (event) => { if (last) go(event); });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        if (!last) return;
        last = null;
        ended();
      });
    }
    return context;
  }

  // Small pictures of at most ten steps, evenly spread: a whole run at a glance. fill(uri) puts in those that are there.
  function strip(total, go) {
    const count = Math.min(10, total);
    const steps = Array.from({ length: count }, (_, i) => Math.round(i * (total - 1) / Math.max(1, count - 1)));
    const node = el("div", { class: "mm-strip" }, ...steps.map((i) =>
      el("button", { type: "button", "data-index": i, disabled: true, "aria-label": `Step ${i + 1}`, onclick: () => go(i) })));
    node.steps = steps;
    node.fill = (uri) => steps.forEach((i, n) => {
      if (!node.children[n].disabled || !uri(i)) return;
      node.children[n].append(pixels(uri(i), ""));
      node.children[n].disabled = false;
    });
    node.mark = (now) => steps.forEach((i, n) => node.children[n].setAttribute("aria-current", String(i === now)));
    return node;
  }

  // A button from a code, wherever it is shown, to the Codebook tab.
  const codeLink = (pack, code) => el("button", { type: "button", class: "mm-button", onclick: () => {
    store.set("wanted", { pack, code });
    document.getElementById("codebook-button").click();
  } }, "Open in Codebook");

  // What a file may be called anywhere: of a text, its letters and digits.
  const fileName = (...parts) => parts.map((part) => [...String(part).replace(/[^\p{L}\p{M}\p{N}]+/gu, "-")].slice(0, 60).join("").replace(/^-|-$/g, ""))
    .filter(Boolean).join("-");

  const pngLink = (png, file) => el("a", { class: "mm-button", href: png, download: file }, "Download PNG");

  // What a button has set going is seen, also on a phone, where that button is far below, or always in sight. At once:
  // a smooth way there ends where pictures that come meanwhile push it.
  function bring(tab) {
    const status = document.querySelector(`#${tab} .mm-work .mm-status`), top = status?.getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) status.scrollIntoView();
  }

  return {
    store, storeOf, bring, el, svg, listen, answerTo, latest, load, crop, pixels, tiles, grid, tokenGrid, marks, codeCard, codeLink,
    paintable, fileName, pngLink, strip,
  };
})();
