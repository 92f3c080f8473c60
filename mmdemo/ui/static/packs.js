// One card a pack: native radio buttons, so that keyboards and screen readers know them. The value is the chosen name.
// After them what is on its way from the Hub. The server is asked about that only as long as there is some.
const { el, pixels, store, answerTo } = window.mmdemo;
const root = element.firstElementChild;
const SEARCHED = 6; // so many packs are seen at a glance
const EVERY = 1000; // milliseconds
let list = { cards: [], awaited: [] };
let following = false;
let engaged = false; // whether the person has begun something that another pack would disturb

const search = el("input", { type: "search", class: "mm-search", placeholder: "Search packs", "aria-label": "Search packs", oninput: () => sift() });
const none = el("p", { class: "mm-help", role: "status" });
const group = el("fieldset", { class: "mm-cards" });
const title = el("h2", {}), source = el("p", { class: "mm-help" }), text = el("div", { class: "mm-text" });
const reader = el("dialog", { class: "mm-reader", onclick: ({ target }) => { if (target === reader) reader.close(); } },
  el("div", {}, el("header", {}, el("div", {}, title, source), el("button", { type: "button", class: "mm-button", onclick: () => reader.close() }, "Close")), text));
const repo = el("input", { type: "text", placeholder: "owner/name", "aria-label": "A repository on the Hugging Face Hub", spellcheck: "false", autocapitalize: "off" });
const trouble = el("p", { class: "mm-trouble", role: "alert" });
const field = el("form", { class: "mm-pull", onsubmit: (event) => { event.preventDefault(); pull(repo.value.trim()); } },
  repo, el("button", { class: "mm-button" }, "Fetch from the Hub"));
root.replaceChildren(el("div", { class: "mm-tools" }, search, ...(server.pull ? [field] : [])), trouble, group, none, reader);

function show(next) {
  const came = list.awaited.map(({ name }) => name).find((name) => next.cards.some((card) => card.name === name));
  const focused = group.contains(document.activeElement) ? document.activeElement.value : null;
  list = next;
  group.replaceChildren(el("legend", {}, "Pack"), ...list.cards.map(card), ...list.awaited.map(awaited));
  if (came && !engaged) choose(came);
  mark();
  sift();
  if (focused) [...group.querySelectorAll("[type=radio]")].find((radio) => radio.value === focused)?.focus();
  follow();
}

const card = ({ name, line, origin, source, cover }, i) => el("label", { class: "mm-pack", "data-text": `${name} ${line} ${origin} ${source}` },
  el("input", { type: "radio", name: "mm-pack", value: name, "aria-label": name, "aria-describedby": `mm-pack-${i}`,
    onchange: () => { engaged = true; choose(name); } }),
  pixels(cover, ""),
  el("span", {}, el("b", {}, name), el("small", { id: `mm-pack-${i}` }, line, el("span", { title: source }, origin)), " ",
    el("button", { type: "button", class: "mm-link", "aria-label": `Model card of ${name}`, onclick: () => read(list.cards[i]) }, "Card")));

const awaited = ({ name, share, problem }) => el("div", { class: "mm-pack mm-awaited", "data-text": name, "data-name": name },
  el("span", {}, el("b", {}, name), ...(share === undefined
    ? [el("small", {}, problem), " ", el("button", { type: "button", class: "mm-link", "aria-label": `Try again to fetch ${name}`, onclick: () => again(name) }, "Try again")]
    : [el("progress", { value: share, "aria-label": `Fetching ${name}` }), el("small", {}, fetched(share))])));

const fetched = (share) => `being fetched: ${Math.round(100 * share)} %`;

function choose(name) {
  props.value = name;
  mark();
}

function mark() {
  for (const radio of group.querySelectorAll("[type=radio]")) {
    radio.checked = radio.value === props.value;
    const card = radio.parentElement, row = card.parentElement;
    if (!radio.checked) continue;
    // Not scrollIntoView, which would move the page too.
    if (card.offsetLeft < row.scrollLeft || card.offsetLeft + card.offsetWidth > row.scrollLeft + row.clientWidth)
      row.scrollTo({ left: card.offsetLeft - 24, behavior: "smooth" });
  }
}

// Leaves those in which every word is found. The chosen one may be hidden: it stays chosen.
function sift() {
  const all = [...group.querySelectorAll(".mm-pack")];
  search.hidden = all.length <= SEARCHED;
  const words = search.hidden ? [] : search.value.toLowerCase().split(/\s+/);
  for (const one of all) one.hidden = !words.every((word) => one.dataset.text.toLowerCase().includes(word));
  none.textContent = all.length && all.every((one) => one.hidden) ? `No pack is found by “${search.value.trim()}”.` : "";
}

// Until all that is on its way has come, or does not come.
async function follow() {
  if (following) return;
  following = true;
  for (let wait = EVERY; element.isConnected; ) {
    const coming = list.awaited.filter(({ share }) => share !== undefined);
    if (!coming.length) break;
    await new Promise((done) => setTimeout(done, wait));
    const shares = await answerTo(() => server.fetching());
    wait = shares.error ? 10 * EVERY : EVERY;
    if (shares.error) continue;
    if (coming.every(({ name }) => name in shares)) progress(shares);
    else await ask(() => server.listing());
  }
  following = false;
}

function progress(shares) {
  for (const one of group.querySelectorAll(".mm-awaited:has(progress)")) {
    one.querySelector("progress").value = shares[one.dataset.name];
    one.querySelector("small").textContent = fetched(shares[one.dataset.name]);
  }
}

async function ask(question) {
  const answer = await answerTo(question);
  if (!answer.error) show(answer);
  return answer.error ?? "";
}

async function again(name) {
  engaged = false;
  trouble.textContent = await ask(() => server.try_again(name));
}

async function pull(name) {
  engaged = false;
  trouble.textContent = await ask(() => server.pull(name));
  if (trouble.textContent) return;
  repo.value = "";
  if (list.cards.some((card) => card.name === name)) choose(name);
}

async function read({ name, source: from }) {
  const answer = await answerTo(() => server.model_card(name));
  title.textContent = name;
  source.textContent = from;
  // The one place where HTML is taken: Python made it of markdown, and let none of the writer's own through.
  if (answer.error) text.textContent = answer.error;
  else text.innerHTML = answer.html;
  reader.showModal();
  text.scrollTop = 0;
}

const heard = () => { if (props.cards) show(JSON.parse(props.cards)); };
for (const kind of ["pointerdown", "keydown"])
  document.addEventListener(kind, ({ target }) => { engaged ||= !root.contains(target); });
watch("cards", heard);
watch("value", mark);
heard();
// A code is to be shown in the Codebook tab, which shows another pack if that was chosen while a picture was on its way.
store.on("wanted", ({ pack }) => { if (props.value !== pack) choose(pack); }, root);
