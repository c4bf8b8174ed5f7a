// Every page: figures and questions come to life, the contents show what was read, the look holds over pages.
const { mount } = (() => {
  "use strict";
  /* explorer.js */
  return { mount };
})();
const { mountQuestions } = (() => {
  "use strict";
  /* lesson.js */
  return { mountQuestions };
})();

// A figure comes to life when it comes into view. Until it can move, and where it cannot, its picture stays.
const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.tabIndex = -1;
      mount(target, JSON.parse(document.querySelector(`script[data-for="${target.id}"]`).textContent));
    }
  },
  { rootMargin: "200px" },
);
for (const figure of document.querySelectorAll(".ef-page")) {
  figure.tabIndex = 0; // else Tab leaps over what has nothing to press yet
  seen.observe(figure);
}
mountQuestions(document);

// What is too wide for the page scrolls by keys too.
new ResizeObserver(() => {
  for (const node of document.querySelectorAll("pre, table, mjx-container[display]"))
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
    else node.removeAttribute("tabindex");
}).observe(document.body);

const look = document.querySelector(".look");
const choice = look.querySelector("select");
look.hidden = false;
choice.value = document.documentElement.dataset.look;
choice.addEventListener("change", () => {
  document.documentElement.dataset.look = choice.value;
  memory.write({ look: choice.value });
});

// The drawer closes behind a link into the page itself, where Tab leaves it, and where there is room beside the text.
const contents = document.getElementById("contents");
const close = () => contents.matches(":popover-open") && contents.hidePopover();
contents.addEventListener("click", (event) => event.target.closest("a") && close());
document.addEventListener("focusin", ({ target }) => target.closest("#contents, .menu") || close());
matchMedia("(min-width: 75em)").addEventListener("change", close);

// What was read: opened, or read to its end.
const here = document.body.dataset.page;
const marks = { opened: "begun", read: "read" };
function showProgress() {
  const { pages = {}, last } = memory.read();
  for (const entry of document.querySelectorAll("li[data-page]")) {
    entry.querySelector(".progress")?.remove();
    const state = pages[entry.dataset.page];
    if (!marks[state]) continue;
    const mark = document.createElement("span");
    mark.className = "progress";
    mark.textContent = marks[state];
    entry.querySelector("a").after(" ", mark);
  }
  const start = document.querySelector(".start a");
  const to = document.querySelector(`.cards li[data-page="${CSS.escape(last ?? "")}"] a`);
  if (!start || !to) return;
  start.href = to.href;
  start.textContent = `Go on with ${to.textContent}`;
}
if (/^\d/.test(here)) {
  const note = (state) => {
    const { pages = {} } = memory.read();
    memory.write({ pages: { ...pages, [here]: pages[here] === "read" ? "read" : state }, last: here });
    showProgress();
  };
  note("opened");
  new IntersectionObserver(([{ isIntersecting }], watch) => {
    if (!isIntersecting || scrollY === 0) return;
    watch.disconnect();
    note("read");
  }).observe(document.querySelector(".way"));
}
showProgress();
