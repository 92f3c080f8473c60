// How much each word of a prompt pulls at the prediction, step by step: the prompt to choose a word from, where that word
// pulls, and a curve of each. Asked step by step once a film is there. All is drawn on one scale, or a word that pulls
// nothing would look as strong as any.
window.mmdemo.pulls ??= (server, plotted) => {
  const { el, svg, pixels, answerTo } = window.mmdemo;
  let film = null, steps = [], found = [], chosen = null, wanted, more;
  let shown = null, strongest = null; // the film's frame, and the step that is shown in its place until the film moves

  const text = el("p", { class: "mm-prompt", dir: "auto" }), said = el("p", { class: "mm-help", role: "status" });
  const guess = pixels("", "The guess, and where the word pulls"), heat = el("canvas", { class: "mm-heat", "aria-hidden": "true" });
  const where = el("figcaption"), lines = svg("g"), dot = svg("path", { class: "mm-dot" });
  const { plot, cursor } = plotted("The words' pull over the steps", lines, dot);
  const node = el("section", { class: "mm-pulls", hidden: true },
    el("h3", {}, "How much each word pulls"), said, text,
    el("div", {}, el("figure", {}, el("div", { class: "mm-frame" }, guess, heat), where),
      el("figure", { class: "mm-curve" }, plot, el("figcaption", {}, "The mean change of the prediction when the word is left out, over the steps. The dot is the step of the map."))));

  // The measured step nearest to one of the film.
  function nearest(index) {
    const there = steps.filter((step) => found[step]);
    return there.reduce((a, b) => Math.abs(b - index) < Math.abs(a - index) ? b : a, there[0]);
  }

  async function ask(asked) {
    for (const step of steps) {
      said.textContent = `Leaving out each word at step ${step + 1} of ${asked.total}…`;
      const answer = await answerTo(() => server.weigh_words(asked.pack, asked.again, step));
      if (film !== asked) return; // another film came
      if (answer.error) return said.textContent = answer.error;
      found[step] = answer.words;
      more = answer.more;
      if (!answer.words.length) return said.textContent = "There is no word in it that this pack has seen.";
      // The strongest, until somebody chooses.
      if (!wanted) chosen = found.flat().reduce((a, b) => b.mean > a.mean ? b : a).start;
      if (!lines.childElementCount) write();
      draw(shown);
    }
    said.textContent = "Choose a word to see where it pulls, at the step where it pulls most."
      + (more ? ` Only the first ${found[steps[0]].length} words and commas are weighed.` : "");
    lead(chosen);
  }

  // The word, at the measured step where it pulls most.
  function lead(start) {
    const pull = (step) => found[step].find((word) => word.start === start).mean;
    chosen = start;
    strongest = steps.filter((step) => found[step]).reduce((a, b) => pull(b) > pull(a) ? b : a);
    draw(shown);
  }

  // The whole prompt, its words as buttons; places are counted in characters, as Python counts.
  function write() {
    const letters = [...film.again.label], words = found[nearest(0)];
    let at = 0;
    const part = (to) => letters.slice(at, at = to).join("");
    text.replaceChildren(...words.flatMap((word) => [part(word.start),
      el("button", { type: "button", "data-start": word.start, onclick: () => { wanted = true; lead(word.start); } }, part(word.end))]),
      part(letters.length));
    lines.replaceChildren(...words.map((word) => svg("path", { "data-start": word.start })));
  }

  function draw(frame) {
    if (frame !== shown) strongest = null;
    shown = frame;
    const step = film && frame ? strongest ?? nearest(frame.index) : undefined;
    if (step === undefined) return;
    const { index, x0 } = strongest === null ? frame : film.frames[step];
    const words = found.flat(), most = Math.max(...words.map((word) => word.mean)) || 1, wide = 100 / film.total;
    guess.src = x0;
    cursor.setAttribute("d", `M${(index + 0.5) * wide} 0v40`);
    found[step].forEach((word, i) => {
      const button = text.querySelector(`[data-start="${word.start}"]`), picked = word.start === chosen;
      button.style.setProperty("--pull", `${Math.round(60 * word.mean / most)}%`);
      button.setAttribute("aria-pressed", picked);
      button.title = `Mean change of the prediction: ${word.mean.toFixed(3)} at step ${step + 1}`;
      const line = lines.querySelector(`[data-start="${word.start}"]`);
      line.setAttribute("class", picked ? "mm-curve-line mm-chosen-line" : "mm-curve-line");
      line.setAttribute("d", steps.filter((one) => found[one]).map((one, n) =>
        `${n ? "L" : "M"}${((one + 0.5) * wide).toFixed(2)} ${(37 - 34 * found[one][i].mean / most).toFixed(2)}`).join(""));
      if (!picked) return;
      lines.append(line); // over the others
      dot.setAttribute("d", `M${((step + 0.5) * wide).toFixed(2)} ${(37 - 34 * word.mean / most).toFixed(2)}h0`); // the step of the map
      paint(word.map, Math.max(...words.flatMap(({ map }) => map.flat())) || 1);
      where.textContent = `“${button.textContent}” at step ${step + 1}: mean change of the prediction ${word.mean.toFixed(3)}. One scale for all words and steps.`;
    });
  }

  // most: what is painted in full.
  function paint(map, most) {
    [heat.width, heat.height] = [map[0].length, map.length];
    const context = heat.getContext("2d"), image = context.createImageData(heat.width, heat.height);
    map.flat().forEach((value, i) => image.data.set([219, 39, 119, Math.round(230 * value / most)], 4 * i));
    context.putImageData(image, 0, 0);
  }

  return {
    node,
    draw,
    // Another film has begun.
    open() {
      film = null;
      node.hidden = true;
    },
    // It is all there: its words are weighed at some steps.
    weigh(done, some) {
      if (!done.again || film === done) return;
      [film, steps, found, chosen, wanted, strongest] = [done, some, [], null, false, null];
      node.hidden = false;
      text.replaceChildren(film.again.label);
      lines.replaceChildren();
      dot.removeAttribute("d");
      heat.width = 0;
      where.textContent = "";
      ask(film);
    },
  };
};
