// A data set as it fills: how many of each class there are, and all of them, cut out of one sheet.
const { el, listen, load, exports } = window.mmdemo;
const FEWEST = 8, MOST = 16; // pictures in a row
const LONG = 14; // characters of a label that stands above its pictures
const root = element.firstElementChild;
const set = el("div", { class: "mm-classes" }), foot = el("div", { class: "mm-foot" });
root.append(set, foot);
let latest;

// Pictures of a sheet by their places on it, in rows of at most `most`; those that are not there yet are left empty.
function drawn(sheet, across, places, there, most, what) {
  const size = sheet ? sheet.width / across : 1, columns = Math.min(most, places.length) || 1, rows = Math.ceil(places.length / columns);
  const canvas = el("canvas", { role: "img", "aria-label": what, width: columns * size, height: rows * size });
  canvas.style.width = `${100 * columns / most}%`;
  const context = canvas.getContext("2d");
  places.forEach((i, n) => {
    if (i < there) context.drawImage(sheet, (i % across) * size, Math.floor(i / across) * size, size, size,
      (n % columns) * size, Math.floor(n / columns) * size, size, size);
  });
  return canvas;
}

listen(props, watch, async (message) => {
  latest = message;
  if (!message.labels) return set.replaceChildren(), foot.replaceChildren();
  const [sheet, variants] = await Promise.all([message.sheet, message.variants].map((uri) => uri && load(uri)));
  if (latest !== message) return; // a newer one came while this was decoded
  const { order, on_sheet, done, columns } = message;
  const places = message.labels.map(() => []);
  order.forEach((label, i) => places[label].push(i));
  const most = Math.max(FEWEST, Math.min(MOST, Math.max(...places.map((some) => some.length))));
  set.classList.toggle("mm-long", message.labels.some((label) => label.length > LONG));
  set.replaceChildren(...message.labels.map((label, k) => {
    const all = places[k].length, there = places[k].filter((i) => i < done);
    const count = there.length < all ? `${there.length} of ${all}` : `${all}`;
    const room = message.zip ? there : places[k]; // no more are coming
    return el("section", { class: "mm-class" },
      el("h4", { dir: "auto", title: label }, label),
      el("div", {},
        drawn(sheet, columns, room, on_sheet, most, `${label}: ${count} pictures`),
        ...(variants ? [drawn(variants, columns, room, done, most, `${label}: their variants`)] : [])),
      el("span", {}, count));
  }));
  foot.replaceChildren();
  if (message.zip) {
    const blob = () => new Blob([Uint8Array.from(atob(message.zip), (one) => one.charCodeAt(0))], { type: "application/zip" });
    foot.append(
      el("p", { class: "mm-help" }, `Pictures such as ${message.example}, and a metadata.jsonl with what each was drawn by. `
        + "Unpacked, it is a folder for “train … --dataset”."),
      el("button", { type: "button", class: "mm-button", onclick: () => exports.save(blob(), message.file) }, "Download zip"));
  }
});
