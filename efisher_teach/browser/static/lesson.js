// The browser's half of a lesson's card: what the kernel says, and a form for a guess or a button for a hint.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  // Without this on the very node that has the focus, JupyterLab takes the arrow keys for itself.
  if (tag === "input" || tag === "button") node.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function frontEnd() {
  if (location.protocol === "vscode-webview:") return "VS Code";
  if (/googleusercontent|colab/.test(location.hostname)) return "Colab";
  if (document.querySelector("#jp-main-dock-panel, .jp-LabShell")) return "JupyterLab";
  if (document.body.dataset.notebook) return "Notebook";
  if (document.querySelector('[id*="voila"]')) return "Voilà";
  return "this page";
}

function slider(label, unit, low, high, step, value) {
  const input = make("input", { type: "range", min: low, max: high, step, "aria-label": label });
  input.value = value;
  const output = make("output", {});
  const say = () => (output.textContent = `${Number(input.value)} ${unit}`.trim());
  input.addEventListener("input", say);
  say();
  return [make("label", { class: "ef-ask-range" }, make("span", {}, label), input, output), input];
}

let count = 0;

function question(form, send) {
  const node = make("form", { class: "ef-ask" });
  const fields = make("fieldset", {}, make("legend", {}, "Your guess"));
  const name = `ef-guess-${count++}`;
  let read;
  if (form.options) {
    form.options.forEach((option, place) => {
      const radio = make("input", { type: "radio", name, value: place + 1, required: "" });
      fields.append(make("label", {}, radio, make("span", {}, option)));
    });
    read = () => Number(new FormData(node).get(name));
  } else {
    const [label, input] = slider("your guess", form.unit, form.low, form.high, form.step, (form.low + form.high) / 2);
    fields.append(label);
    read = () => input.valueAsNumber;
  }
  const [sureLabel, sure] = slider("how sure are you?", "%", form.sure, 100, 1, Math.round((form.sure + 100) / 2));
  node.append(fields, sureLabel, make("button", { type: "submit" }, form.button));
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ guess: read(), sure: sure.valueAsNumber });
  });
  return node;
}

function render({ model, el }) {
  const root = make("div", { class: "ef-card" });
  const text = make("div", { class: "ef-said", "aria-live": "polite", tabindex: "-1" });
  root.append(text);
  el.append(root);
  const send = (message) => model.send(message);
  let form = null;

  const say = () => {
    text.innerHTML = model.get("html"); // made by the kernel, which escapes what is not its own
    root.dataset.state = model.get("state");
  };
  const ask = () => {
    const hadFocus = form?.contains(document.activeElement);
    form?.remove();
    const asked = model.get("form");
    form = null;
    if (asked.sure !== undefined) form = question(asked, send);
    else if (asked.button) {
      form = make("button", { type: "button" }, asked.button);
      form.addEventListener("click", () => send({ more: true }));
    }
    if (form) root.append(form);
    if (hadFocus) (form?.matches("button") ? form : text).focus();
  };
  const watched = { "change:html": say, "change:state": say, "change:form": ask };
  for (const [event, react] of Object.entries(watched)) model.on(event, react);
  say();
  ask();
  model.set("seen", { "front end": frontEnd() });
  model.save_changes();
  return () => {
    for (const [event, react] of Object.entries(watched)) model.off(event, react);
  };
}

/** Questions on a page without a kernel: their answers, and the figures that they keep closed, open after a guess. */
function mountQuestions(page) {
  for (const place of page.querySelectorAll(".ef-question")) {
    const about = JSON.parse(place.dataset.about);
    const gates = [...page.querySelectorAll(".ef-page")].filter((figure) => figure.dataset.gate === about.name);
    const closed = gates.map((figure) => {
      figure.hidden = true;
      const note = make("p", { class: "ef-closed" }, "This figure opens when you have made your guess, in the card above.");
      figure.after(note);
      return note;
    });
    const root = make("div", { class: "ef-card" });
    const text = make("div", { class: "ef-said", "aria-live": "polite", tabindex: "-1" }, make("p", {}, about.asks));
    const form = about.options.length ? { ...about, button: "That is my guess" } : { ...about, options: undefined, button: "That is my guess" };
    const node = question(form, ({ guess }) => {
      const right = about.options.length ? guess === about.answer : Math.abs(guess - about.answer) <= about.within;
      const said = about.options.length ? about.options[guess - 1] : `${guess} ${about.unit}`.trim();
      const verdict = `${right ? "✓" : "✗"} Your guess, “${said}”, is ${right ? "right" : "not what happens"}.`;
      text.append(make("p", {}, make("strong", {}, verdict)), make("p", {}, about.because));
      root.dataset.state = right ? "right" : "wrong";
      node.remove();
      text.focus();
      for (const figure of gates) figure.hidden = false;
      for (const note of closed) note.remove();
    });
    root.append(text, node);
    place.replaceChildren(root);
  }
}

export default { render };
