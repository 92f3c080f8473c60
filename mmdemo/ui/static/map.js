// The codes on a plane: a dot a code. The dots are drawn once; the chosen one's ring and the one pointed at are elements.
window.mmdemo.codeMap ??= ({ points, counts, colours, shares }, drawSwatch, choose) => {
  const { el } = window.mmdemo;
  const MARGIN = 0.03, NEAR = 14; // share of the width around the dots; pixels within which a dot is meant
  const canvas = el("canvas", { "aria-hidden": "true" }), picture = el("canvas", { "aria-hidden": "true" }), words = el("span");
  const tip = el("div", { class: "mm-tip", role: "status", hidden: true }, picture, words);
  const picked = el("div", { class: "mm-ring mm-ring-picked" }), over = el("div", { class: "mm-ring", hidden: true });
  const node = el("div", { class: "mm-map", tabindex: 0, role: "application",
    "aria-label": "Map of the codes. Arrows go to the next code that way, Enter chooses it." }, canvas, picked, over, tip);

  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [low, high] = [[Math.min(...xs), Math.min(...ys)], [Math.max(...xs), Math.max(...ys)]];
  const wide = high[0] - low[0] || 1, tall = high[1] - low[1], shape = Math.max(0.5, Math.min(1, tall / wide));
  const unit = Math.max(wide, tall / shape) / (1 - 2 * MARGIN), most = Math.max(...counts, 1);
  node.style.aspectRatio = `1 / ${shape}`;
  // In shares of the map's width, both ways, so that distances are true.
  const place = ([x, y]) => [0.5 + (x - (low[0] + high[0]) / 2) / unit, shape / 2 - (y - (low[1] + high[1]) / 2) / unit];
  const spots = points.map(place);
  const radius = (code) => Math.min(10, 230 / Math.sqrt(points.length)) * (0.35 + 0.9 * Math.sqrt(counts[code] / most));
  let chosen = 0, at = null;

  function draw() {
    const width = node.clientWidth, ratio = window.devicePixelRatio || 1;
    if (!width) return; // in a tab that is not shown
    canvas.width = width * ratio;
    canvas.height = width * shape * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.strokeStyle = "#fff6";
    context.lineWidth = 0.75;
    for (const code of counts.map((_, code) => code).sort((a, b) => counts[b] - counts[a])) { // the small ones on top
      context.fillStyle = colours[code];
      context.beginPath();
      context.arc(spots[code][0] * width, spots[code][1] * width, radius(code), 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  function ring(one, code) {
    const [x, y] = spots[code];
    one.style.cssText = `left: ${x * 100}%; top: ${y / shape * 100}%; --radius: ${radius(code) + 3}px`;
  }

  function point(code) {
    at = code;
    over.hidden = tip.hidden = code === null;
    if (code === null) return;
    const [x, y] = spots[code];
    ring(over, code);
    drawSwatch(code, picture);
    words.textContent = `Code ${code}, ${shares[code]}`;
    tip.style.cssText = `left: ${x * 100}%; top: ${y / shape * 100}%`;
    tip.classList.toggle("mm-left", x > 0.6);
    tip.classList.toggle("mm-below", y / shape < 0.3);
  }

  // The code whose dot is nearest to the pointer, or none.
  function under(event) {
    const box = node.getBoundingClientRect(), x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.width;
    let best = null, least = Infinity;
    spots.forEach(([px, py], code) => {
      const distance = Math.hypot(px - x, py - y) * box.width - radius(code);
      if (distance < least) [best, least] = [code, distance];
    });
    return least < NEAR ? best : null;
  }

  // The nearest code in a direction; what lies aside counts double.
  function next(from, dx, dy) {
    const [x, y] = spots[from];
    let best = from, least = Infinity;
    spots.forEach(([px, py], code) => {
      const along = (px - x) * dx + (py - y) * dy, aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (along > 1e-6 && along + 2 * aside < least) [best, least] = [code, along + 2 * aside];
    });
    return best;
  }

  node.addEventListener("pointermove", (event) => point(under(event)));
  node.addEventListener("pointerleave", () => point(null));
  node.addEventListener("blur", () => point(null));
  node.addEventListener("click", (event) => { const code = under(event); if (code !== null) choose(code); });
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") return event.preventDefault(), choose(at ?? chosen);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    point(next(at ?? chosen, ...way));
  });
  node.mark = (code) => ring(picked, chosen = code);
  new ResizeObserver(draw).observe(node);
  return node;
};
