// Exercises on the page: an answer is checked by Python in a worker. Nothing of it is loaded before the first check.
(() => {
  "use strict";
  const SECONDS = 30; // for one check, as in a notebook for one call
  const MARKS = { right: "✓", "not yet": "…", wrong: "✗", stopped: "✗" };

  /** The worker's program: it loads Python once, and then judges what it is sent. It stands alone. */
  function work() {
    let check;
    let missing = "";
    // From a disk a browser starts classic workers only. Pyodide imports modules in these, too, if it sees no difference.
    self.importScripts = () => {
      throw new TypeError("modules only");
    };
    async function start({ core, numpy, pinned, sources }) {
      const ask = self.fetch.bind(self);
      // Every file has the bytes that are pinned, or it is not used.
      self.fetch = (request) => {
        const address = String(request.url ?? request);
        const integrity = pinned[address.slice(address.lastIndexOf("/") + 1)];
        if (!integrity) throw new Error(`${address} is not pinned`);
        return ask(address, { integrity }).catch((error) => {
          missing ||= `${address} did not come, or is another file than it should be`;
          throw error;
        });
      };
      const load = async (name) => {
        const code = await (await self.fetch(core + name)).text();
        return import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
      };
      const { loadPyodide } = await load("pyodide.mjs");
      const { default: createPyodideModule } = await load("pyodide.asm.mjs");
      const python = await loadPyodide({ indexURL: core, packageBaseUrl: numpy, createPyodideModule });
      for (const [name, text] of Object.entries(sources)) {
        const path = `/page/${name}`;
        python.FS.mkdirTree(path.slice(0, path.lastIndexOf("/")));
        python.FS.writeFile(path, text);
      }
      python.runPython("import sys; sys.path.insert(0, '/page')");
      await python.loadPackage("numpy", { messageCallback() {}, errorCallback() {} });
      check = python.pyimport("on_page").check;
    }
    self.onmessage = async ({ data }) => {
      try {
        if (data.sources) await start(data);
        self.postMessage(data.sources ? { ready: true } : { verdict: JSON.parse(check(data.name, data.code)) });
      } catch (error) {
        self.postMessage({ trouble: missing || String(error.message ?? error) });
      }
    };
  }

  function script(source) {
    return new Promise((done, fail) => {
      const node = make("script", { src: source });
      node.onload = done;
      node.onerror = () => fail(new Error(`${source} did not come`));
      document.head.append(node);
    });
  }

  /** Send the worker a message; what it answers. Any trouble ends it: the next check starts another. */
  function send(worker, message, seconds = Infinity) {
    return new Promise((done, fail) => {
      const timer = seconds < Infinity && setTimeout(() => fail(new DOMException("", "TimeoutError")), seconds * 1000);
      worker.onerror = (event) => fail(new Error(event.message || "the browser starts no worker here"));
      worker.onmessage = ({ data }) => {
        clearTimeout(timer);
        if (data.trouble) fail(new Error(data.trouble));
        else done(data);
      };
      worker.postMessage(message);
    });
  }

  let worker = null;
  async function python() {
    if (worker) return worker;
    if (!window.lessons) await script(`${base}lessons.js`);
    const program = new Blob([`(${work})()`], { type: "text/javascript" });
    const fresh = new Worker(URL.createObjectURL(program));
    try {
      await send(fresh, window.lessons);
    } catch (error) {
      fresh.terminate();
      throw error;
    }
    return (worker = fresh);
  }

  async function judge(at, name, code) {
    try {
      return (await send(at, { name, code }, SECONDS)).verdict;
    } catch (error) {
      at.terminate();
      worker = null;
      if (error.name !== "TimeoutError") throw error;
      return { state: "stopped", says: `It did not end within ${SECONDS} seconds.`, shows: "" };
    }
  }

  const base = document.currentScript.src.replace(/[^/]*$/, "");
  let turn = Promise.resolve(); // one check after the other

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** A sentence with its code between backticks. */
  function sentence(text) {
    return text.split("`").map((part, place) => (place % 2 ? make("code", {}, part) : part));
  }

  /** Enter keeps the indentation, and deepens it after a colon. Tab goes on to the button, as everywhere. */
  function keys(event) {
    const { value, selectionStart } = event.target;
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      event.target.form.requestSubmit();
      return;
    }
    const line = value.slice(value.lastIndexOf("\n", selectionStart - 1) + 1, selectionStart);
    const deeper = line.trimEnd().endsWith(":") ? "    " : "";
    document.execCommand("insertText", false, `\n${line.match(/^ */)[0]}${deeper}`);
  }

  function mount(place) {
    const { name, stub, hints } = JSON.parse(place.dataset.about);
    if (!name) return; // it cannot be checked here
    const { href } = place.querySelector("a");
    const answers = () => memory.read().answers ?? {};
    const id = `answer-${name}`;
    const code = make("textarea", { id, spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off" });
    const [check, again, more] = ["Check", "Start again", ""].map((text) => make("button", { type: "button" }, text));
    const text = make("div", { class: "ef-said", "aria-live": "polite", tabindex: "-1" });
    const said = make("div", { class: "ef-card" }, text, more);
    const note = document.querySelector(".ef-note") ? "" : make("p", { class: "ef-note" }, ...sentence("Ctrl + Enter checks, too. The first check loads Python, about 15 MB, from cdn.jsdelivr.net. `jnp` is NumPy here."));
    const form = make("form", { class: "ef-exercise" }, make("label", { for: id }, "Your answer: ", make("code", {}, name)), code, check, " ", again, note, said);
    check.type = "submit";
    let hinted = 0;

    const fit = () => (code.rows = Math.max(3, code.value.split("\n").length));
    const show = (state, ...nodes) => {
      said.hidden = false;
      said.dataset.state = state;
      text.replaceChildren(...nodes);
      more.hidden = state in MARKS ? state === "right" || hinted === hints.length : true;
      more.textContent = `hint ${hinted + 1} of ${hints.length}`;
    };
    const keep = () => memory.write({ answers: { ...answers(), [name]: code.value } });
    more.addEventListener("click", () => {
      const hint = make("p", {}, make("em", {}, `Hint ${hinted + 1}:`), " ", ...sentence(hints[hinted]));
      hinted += 1;
      show(said.dataset.state, ...text.childNodes, hint);
      if (more.hidden) text.focus();
    });
    again.addEventListener("click", () => {
      code.value = stub;
      said.hidden = true;
      keep();
      fit();
      code.focus();
    });
    code.addEventListener("keydown", keys);
    code.addEventListener("input", () => {
      keep();
      fit();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (check.ariaDisabled === "true") return;
      check.ariaDisabled = "true";
      show("", make("p", {}, "Loading Python …"));
      turn = turn.then(async () => {
        try {
          const at = await python();
          show("", make("p", {}, "Checking …"));
          const { state, says, shows } = await judge(at, name, code.value);
          const first = make("p", {}, make("strong", {}, `${MARKS[state]} ${name}`), ": ", ...sentence(says));
          const shown = hints.slice(0, hinted).map((hint, at) => make("p", {}, make("em", {}, `Hint ${at + 1}:`), " ", ...sentence(hint)));
          show(state, first, ...(shows ? [make("pre", {}, shows)] : []), ...shown);
        } catch (error) {
          const real = make("a", { href }, "run it for real");
          show("none", make("p", {}, `Nothing was checked: ${error.message}. The rest of the page does without; to have your answer checked, `, real, "."));
        }
        check.ariaDisabled = "false";
      });
    });
    code.value = answers()[name] ?? stub;
    fit();
    said.hidden = true;
    const cell = place.closest(".code_cell");
    cell?.querySelector(".input")?.setAttribute("hidden", "");
    place.replaceChildren(form);
  }

  for (const place of document.querySelectorAll(".ef-place")) mount(place);
})();
