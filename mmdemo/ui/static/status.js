// One line that says what is going on; a screen reader reads it out.
const { el, listen } = window.mmdemo;
const line = element.firstElementChild;
line.setAttribute("role", "status");
line.setAttribute("aria-live", "polite");
listen(props, watch, ({ text = "", ends = false }) => {
  if (ends && !line.classList.contains("mm-busy")) return; // what it would end is over and has been answered
  line.classList.toggle("mm-busy", text.split("\n")[0].endsWith("…")); // a notice below it may end so too
  line.replaceChildren(el("span", {}, text));
});
