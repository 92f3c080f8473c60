// Token surgery: places of the token grid are touched, their ids change, and the picture follows. Knows ids, not codes.
window.mmdemo.surgery ??= (() => {
  const { el, pixels, tokenGrid, marks, answerTo, latest, store } = window.mmdemo;
  const LARGEST = 5e6, SIDE = 1024; // bytes of what is sent as it is, and the side in pixels of what is sent of a larger file
  const button = (text, onclick, more = {}) => el("button", { type: "button", class: "mm-button", onclick, ...more }, text);
  const places = (n) => `${n} ${n === 1 ? "place" : "places"}`;
  const same = (a, b) => a.every((id, i) => id === b[i]);

  // shown: the picture as Python sent it.  look(code): shows a code.  show(image, tokens): the picture has changed.
  return ({ shown, grid, server, look, show }) => {
    const columns = shown.tokens[0].length, first = shown.tokens.flat();
    const rows = (ids) => shown.tokens.map((_, row) => ids.slice(row * columns, (row + 1) * columns));
    // Every state of the two pictures' ids, and which of them is now.
    let past = [{ ids: first, other: null }], at = 0;
    let on = false, tool = "selects", code = first[grid.here()], touched = new Set([grid.here()]), live = null, second = null;
    const overlay = marks(columns, first.length);
    grid.prepend(overlay);

    // The panel
    const number = el("input", { type: "number", min: 0, max: shown.codes - 1, step: 1, "aria-label": "Code" });
    const put = button("", () => pick(number.valueAsNumber)), fromBook = button("", () => pick(store.get("code").code));
    number.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(number.valueAsNumber); });
    const tools = ["selects", "paints", "copies"].map((name) =>
      el("input", { type: "radio", name: "mm-tool", value: name, onchange: () => { tool = name; draw(); } }));
    const brush = el("span"), words = el("span", { class: "mm-help", role: "status" }), speed = el("span", { class: "mm-help mm-speed" });
    const trouble = el("p", { class: "mm-trouble", role: "alert" });
    const undo = button("Undo", () => go(at - 1), { title: "Ctrl+Z" }), redo = button("Redo", () => go(at + 1), { title: "Ctrl+Y" });
    const reset = button("Reset", () => change({ ids: first, other: second?.tokens.flat() ?? null }));
    const json = el("textarea", { rows: 4, spellcheck: "false", "aria-label": "Ids as JSON" });
    const take = button("Use these ids", () => read(json.value));
    const ids = el("div", { class: "mm-ids", hidden: true }, json, take);
    const thumbs = el("div", { class: "mm-thumbs" }), file = el("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "A second picture's file" });
    file.addEventListener("change", () => open(file.files[0]));
    const pair = el("div", { class: "mm-second", hidden: true });
    const node = el("section", { class: "mm-surgery", "aria-label": "Edit tokens", hidden: true },
      el("fieldset", { class: "mm-row" }, el("legend", {}, "A click or a drag over the tokens"),
        el("label", {}, tools[0], " selects"), el("label", {}, tools[1], " paints with ", brush), el("label", {}, tools[2], " copies from the second picture")),
      el("div", { class: "mm-row" }, el("label", {}, "Code ", number), put, fromBook),
      el("div", { class: "mm-row" }, undo, redo, reset, button("Copy ids", copy), button("Paste ids", paste)),
      trouble, ids,
      el("p", { class: "mm-said" }, words, " ", speed));
    const others = el("section", { class: "mm-surgery", "aria-label": "A second picture", hidden: true },
      el("h3", {}, "A second picture"),
      el("div", { class: "mm-row" }, thumbs, button("Open a file", () => file.click()), file),
      pair);

    // What the server is asked; the newest ids only.
    const decoded = ({ tokens }) => server.decode_tokens(shown.pack, tokens);
    let start;
    const picture = latest((asked) => { start = performance.now(); return decoded(asked); }, (answer, { tokens }) => {
      if (answer.error) return say(answer.error);
      speed.textContent = `The picture took ${Math.round(performance.now() - start)} ms.`;
      if (grid.isConnected) show(answer.image, tokens);
    });
    const otherPicture = latest(decoded, (answer, { of }) => {
      if (answer.error) return say(answer.error);
      if (of === second) pair.querySelector("img").src = answer.image; // else another one has been taken meanwhile
    });

    function say(text = "") {
      trouble.textContent = text;
    }

    const now = () => ({ ...past[at], ...live });

    function draw() {
      const { ids, other } = now(), edited = first.flatMap((id, i) => id === ids[i] ? [] : [i]);
      grid.change(ids);
      overlay.show({ outlined: on ? touched : [], cornered: edited });
      if (other) second.show(other, touched);
      undo.disabled = at === 0;
      redo.disabled = at === past.length - 1;
      reset.disabled = !edited.length && (!other || same(other, second.tokens.flat()));
      for (const one of tools) one.checked = one.value === tool;
      tools[2].disabled = !other;
      brush.textContent = `code ${code}`;
      if (document.activeElement !== number) number.value = code;
      put.textContent = tool === "selects" ? `Put it at ${places(touched.size)}` : "Paint with it";
      const book = store.get("code");
      fromBook.hidden = book?.pack !== shown.pack;
      fromBook.textContent = `Use this code of the Codebook: ${book?.code}`;
      words.textContent = edited.length ? `${edited.length} of ${first.length} tokens edited, each with a coloured corner.` : "No token edited yet.";
      if (second) second.swap.textContent = `Swap tokens at ${places(touched.size)}`;
    }

    // From one state to another: draws it, and asks for the pictures that differ.
    function move(step) {
      const before = now();
      step();
      draw();
      const { ids, other } = now();
      if (!same(before.ids, ids)) picture({ tokens: rows(ids) });
      if (other && before.other && !same(before.other, other)) otherPicture({ tokens: rows(other), of: second });
    }

    const go = (to) => move(() => { at = Math.max(0, Math.min(past.length - 1, to)); });

    function change(parts) {
      say();
      const next = { ...past[at], ...parts };
      move(() => {
        live = null;
        if (same(next.ids, past[at].ids) && (!next.other || same(next.other, past[at].other))) return;
        past = [...past.slice(0, at + 1), next];
        at += 1;
      });
    }

    // Chooses the code: puts it at the selected places, or takes it for the brush. The studio refuses what is none.
    async function pick(wanted) {
      if (!Number.isInteger(wanted) || wanted < 0 || wanted >= shown.codes) return say((await answerTo(() => server.describe_code(shown.pack, wanted))).error);
      code = number.value = wanted;
      change(tool === "selects" ? { ids: first.map((_, i) => touched.has(i) ? code : now().ids[i]) } : {});
      look(code);
    }

    // Touching places: with a pointer, or with Enter and Shift + arrows.
    function touch(some, adding, using = tool) {
      if (!adding) touched = new Set();
      for (const i of some) touched.add(i);
      if (using === "selects") return draw();
      const { ids: before, other } = now(), ids = [...before];
      for (const i of some) ids[i] = using === "paints" ? code : other[i];
      move(() => { live = { ids }; });
    }

    function end() {
      if (live) change(live);
    }

    function listen(one, using) {
      let last = null;
      one.addEventListener("pointerdown", (event) => {
        const i = one.under(event);
        if (!on || event.button || i === null) return;
        one.setPointerCapture(event.pointerId);
        last = i;
        touch([i], event.shiftKey, using());
      });
      one.addEventListener("pointermove", (event) => {
        const i = one.under(event);
        if (last === null || i === null || i === last) return;
        touch(line(last, i), true, using());
        last = i;
      });
      for (const name of ["pointerup", "pointercancel"]) one.addEventListener(name, () => { last = null; end(); });
      one.addEventListener("keydown", (event) => {
        const chosen = event.key === "Enter" || event.key === " ";
        if (!on || !(chosen || event.shiftKey && event.key.startsWith("Arrow"))) return;
        touch([one.here()], event.shiftKey, using());
        end();
        if (chosen && one === grid) look(now().ids[one.here()]);
      });
    }
    listen(grid, () => tool);

    // The places on the way from a to b: a quick pointer skips some.
    function line(a, b) {
      const [x, y] = [a % columns, Math.floor(a / columns)], dx = b % columns - x, dy = Math.floor(b / columns) - y;
      const steps = Math.max(Math.abs(dx), Math.abs(dy));
      return Array.from({ length: steps + 1 }, (_, n) => Math.round(y + dy * n / steps) * columns + Math.round(x + dx * n / steps));
    }

    // The ids as JSON. The text field is there for browsers that keep the clipboard from a page.
    async function copy() {
      say();
      json.value = JSON.stringify(rows(now().ids));
      try {
        await navigator.clipboard.writeText(json.value);
        words.textContent = "The ids are in the clipboard.";
      } catch {
        ids.hidden = false;
        json.focus();
        json.select();
      }
    }

    async function paste() {
      say();
      try {
        json.value = await navigator.clipboard.readText();
        await read(json.value);
      } catch {
        json.value = "";
        ids.hidden = false;
        json.focus();
      }
    }

    // What was pasted stays in sight until it is right.
    async function read(text) {
      let pasted = text;
      try { pasted = JSON.parse(text); } catch { /* the studio says what is wrong with it */ }
      const { error } = text.length > LARGEST ? { error: `tokens cannot be sent: ${text.length} characters are too many` }
        : await answerTo(() => server.decode_tokens(shown.pack, pasted));
      const fits = !error && pasted.length === shown.tokens.length && pasted[0].length === columns;
      ids.hidden = fits;
      if (!fits) return say(error ?? `tokens is ${pasted.length} × ${pasted[0].length}; this picture has ${shown.tokens.length} × ${columns}`);
      change({ ids: pasted.flat() });
    }

    // The second picture
    function open(chosen) {
      if (!chosen) return;
      takeSecond(chosen);
      file.value = "";
    }

    // source: an example's number or a file. Of several quick choices the last one stays.
    async function askSecond(source) {
      try {
        const sent = source instanceof File ? await dataUri(source) : source;
        return server.second_picture(shown.pack, sent, shown.side, shown.invert);
      } catch {
        return { error: `${source.name} cannot be read as a picture.` };
      }
    }
    const takeSecond = latest(askSecond, (answer, source) => {
      say(answer.error);
      if (answer.error) return;
      second = { ...answer, ...secondView(answer) };
      past = past.map((state) => ({ ...state, other: answer.tokens.flat() })); // its own edits begin now
      for (const one of thumbs.children) one.setAttribute("aria-pressed", one.dataset.index === String(source));
      draw();
    });

    function secondView(answer) {
      const other = tokenGrid(answer.tokens, look), over = marks(columns, first.length), strips = el("div", { class: "mm-between" });
      other.setAttribute("aria-label", "Tokens of the second picture");
      other.classList.add("mm-bare");
      other.prepend(over);
      listen(other, () => "selects");
      const swap = button("", () => {
        const { ids, other } = now();
        change({ ids: ids.map((id, i) => touched.has(i) ? other[i] : id), other: other.map((id, i) => touched.has(i) ? ids[i] : id) });
      });
      const between = button("Show what lies between", async () => {
        between.disabled = true;
        const made = await answerTo(() => server.between(shown.pack, shown.original, answer.original, shown.side));
        between.disabled = false;
        say(made.error);
        if (made.error) return;
        strips.replaceChildren(
          strip("Through the latents", "Every latent goes straight from one picture, as it was opened, to the other, then takes the code nearest to it.", made.latent, made.shares),
          strip("Token by token", "More and more tokens are the second picture's; each is at all times one or the other.", made.tokens, made.shares));
      });
      pair.replaceChildren(
        el("div", { class: "mm-pair" },
          el("figure", {}, el("div", { class: "mm-frame" }, pixels(answer.image, "Second picture"), other)),
          el("div", { class: "mm-with" },
            el("p", { class: "mm-help" }, "Select places in either picture; they are marked in both. Then let their tokens change sides, or paint with what this picture has there."),
            swap, between)),
        strips);
      pair.hidden = false;
      return { swap, show(ids, touched) {
        other.change(ids);
        over.show({ outlined: touched, cornered: ids.flatMap((id, i) => id === answer.tokens[Math.floor(i / columns)][i % columns] ? [] : [i]) });
      } };
    }

    const strip = (title, help, images, shares) => el("figure", { class: "mm-strip-of" }, el("h4", {}, title), el("p", { class: "mm-help" }, help),
      el("ol", {}, ...images.map((uri, i) => el("li", {}, pixels(uri, `${title}, ${Math.round(shares[i] * 100)} %`), `${Math.round(shares[i] * 100)} %`))));

    // Once: the picker may show the next pack's before its picture has come, and those are not of this one's.
    function offer(examples) {
      if (thumbs.firstChild) return;
      thumbs.replaceChildren(...examples.map(({ uri, smooth }, index) =>
        el("button", { type: "button", "data-index": index, "aria-label": `Second picture: example ${index + 1}`, onclick: () => takeSecond(index) },
          pixels(uri, "", smooth ? "mm-smooth" : ""))));
    }

    // Ctrl+Z, Ctrl+Y and Ctrl+Shift+Z, unless they are meant for a field with text in it.
    function key(event) {
      if (!on || !node.offsetParent || !(event.ctrlKey || event.metaKey) || event.target.matches("input[type=number], textarea")) return;
      const name = event.key.toLowerCase(), to = name === "y" || name === "z" && event.shiftKey ? at + 1 : name === "z" ? at - 1 : null;
      if (to === null) return;
      event.preventDefault();
      go(to);
    }

    return {
      node, others, pick, draw, offer, key,
      paint(wanted) { tool = "paints"; pick(wanted); },
      turn(yes) { on = yes; node.hidden = others.hidden = !yes; draw(); },
    };
  };

  // A file as a data URI; what is too large to send is drawn smaller first.
  async function dataUri(file) {
    let blob = file;
    if (file.size > LARGEST) {
      const image = await createImageBitmap(file), share = SIDE / Math.min(image.width, image.height);
      const canvas = el("canvas", { width: Math.round(image.width * share), height: Math.round(image.height * share) });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    }
    return new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = failed;
      reader.readAsDataURL(blob);
    });
  }
})();
