// A table of pictures that fills up cell by cell; each can be watched being denoised.
const { el, listen, pixels, pngLink } = window.mmdemo;
const root = element.firstElementChild;
const box = el("div", { class: "mm-cells-box" }), foot = el("div", { class: "mm-foot" });
root.append(box, foot);
const heading = (text) => el("span", { dir: "auto" }, text);
const LONG = 40; // characters from which a row's heading stands over its pictures, where it can be read whole
let turn, places;

listen(props, watch, (message) => {
  foot.replaceChildren();
  if (!message.columns) return turn = undefined, box.replaceChildren();
  if (message.turn !== turn) start(message);
  for (const cell of message.cells) {
    const name = `${message.down} ${message.rows[cell.row]}, ${message.across} ${message.columns[cell.column]}`;
    places[cell.row][cell.column].replaceChildren(
      el("button", { type: "button", title: `${name}: watch it being denoised`, "aria-label": `${name}, ${cell.time}: watch it being denoised`,
        onclick: () => trigger("replay", cell.again) }, pixels(cell.picture, ""), el("span", {}, cell.time)));
  }
  if (message.png) {
    foot.append(
      el("p", { class: "mm-help" }, "Choose a picture to watch it being denoised."),
      pngLink(message.png, message.file));
  }
});

// The headings, and an empty place for every picture.
function start(message) {
  turn = message.turn;
  places = message.rows.map(() => message.columns.map(() => el("td", {}, el("div", { class: "mm-empty" }))));
  const told = message.rows.some((text) => text.length > LONG), wide = { colspan: message.columns.length };
  const aside = (...cells) => told ? [] : cells;
  const across = el("tr", {}, ...aside(el("td")), el("th", { class: "mm-axis", scope: "colgroup", ...wide }, message.across));
  const columns = el("tr", {}, ...aside(el("th", { class: "mm-axis" }, message.down)), ...message.columns.map((text) => el("th", { scope: "col", title: text }, heading(text))));
  const name = (text, scope, more) => el("th", { scope, title: text, ...more }, heading(text));
  const rows = message.rows.map((text, row) => told
    ? el("tbody", {}, el("tr", {}, name(text, "rowgroup", wide)), el("tr", {}, ...places[row]))
    : el("tbody", {}, el("tr", {}, name(text, "row"), ...places[row])));
  const down = told ? [el("tr", {}, el("th", { class: "mm-axis", ...wide }, message.down))] : [];
  box.replaceChildren(el("table", { class: `mm-cells${told ? " mm-told" : ""}`, style: `--columns: ${message.columns.length}` },
    el("thead", {}, across, columns, ...down), ...rows));
}
