// Before anything is painted: light or dark, as the reader chose on any page; and a memory that may not be there.
const memory = {
  key: "efisher_teach",
  read() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) ?? {};
    } catch {
      return {}; // a private window, or a browser that lets files keep nothing
    }
  },
  write(change) {
    try {
      localStorage.setItem(this.key, JSON.stringify({ ...this.read(), ...change }));
    } catch {
      // then the page works, and forgets
    }
  },
};
document.documentElement.dataset.look = memory.read().look ?? "";
// Without its menu: else every formula is a stop for Tab.
window.MathJax = { tex: { inlineMath: [["$", "$"]], tags: "none" }, options: { enableMenu: false, skipHtmlTags: ["script", "pre", "code"] } };
