// The browser's half of the explorer: it draws what moves over matplotlib's picture, from one packed table.
//
// A reply holds everything: pictures, tables, the looks of the layers, the words. `unpack` unpacks one form of it (wide
// or narrow); `Figure` shows it. The browser knows no axes and no scales: every point is a figure pixel already, in
// eighths. `render` is anywidget's entry, with a kernel; `mount` shows the same figure on a page without one.

/** What zlib packed. */
function inflate(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}

/** A picture as an image. */
async function decodePicture(bytes) {
  const picture = new Image();
  picture.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  picture.alt = "";
  await picture.decode();
  URL.revokeObjectURL(picture.src);
  return picture;
}

/** Whether two pictures are the same, byte by byte. */
function sameBytes(one, other) {
  const [bytes, others] = [one, other].map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength));
  return bytes.length === others.length && bytes.every((byte, i) => byte === others[i]);
}

/**
 * Unpack a form of a reply: the picture as an image, the table as numbers, each layer with its own part of it. The
 * image of the form that was open last serves again where the picture is the same.
 */
async function unpack(form, steps, last) {
  const [packed, drawn] = await Promise.all([form.table, form.picture]); // on a page they may have to be loaded
  const decoding = last && sameBytes(last.bytes, drawn) ? last.picture : decodePicture(drawn);
  const [inflated, picture] = await Promise.all([inflate(packed).arrayBuffer(), decoding]);
  const bytes = new Uint8Array(inflated); // all low bytes, then all high ones
  const high = bytes.length / 2;
  const layers = form.layers.map((layer) => {
    const stride = layer.points * layer.space;
    const table = new Int16Array(layer.shape.reduce((product, size) => product * size, stride));
    let from = layer.offset;
    for (let k = 0; k < stride; k++) {
      for (let at = k; at < table.length; at += stride, from++) table[at] = bytes[from] | (bytes[high + from] << 8);
    }
    sum(table, layer.shape);
    return { ...layer, table, stride, steps };
  });
  return { size: form.size, layers, picture, bytes: drawn };
}

/** Undo differences: along every axis, each place holds what it adds to the one before. */
function sum(table, shape) {
  let block = table.length;
  for (const size of shape) {
    const stride = block / size;
    for (let start = 0; start < table.length; start += block)
      for (let i = start + stride; i < start + block; i++) table[i] += table[i - stride];
    block = stride;
  }
}

/** The place of the value of an axis that is nearest. */
function nearest(values, value) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (Math.abs(values[i] - value) < Math.abs(values[best] - value)) best = i;
  return best;
}

/** The points of a layer in a state, [x0, y0, x1, y1, …] in CSS pixels; those in space are turned as `turned` says. */
function points(layer, state, turned) {
  let row = 0;
  for (let i = 0; i < layer.axes.length; i++) row = row * layer.shape[i] + state[layer.axes[i]];
  const start = row * layer.stride;
  const xy = new Float64Array(2 * layer.points);
  if (layer.space === 2) {
    for (let i = 0; i < xy.length; i++) xy[i] = layer.table[start + i] / layer.steps;
    return xy;
  }
  const [ca, sa, ce, se] = turned;
  for (let i = 0; i < layer.points; i++) {
    const [x, y, z] = [0, 1, 2].map((k) => layer.table[start + 3 * i + k] / layer.steps);
    const near = ca * x + sa * y;
    xy[2 * i] = layer.center[0] + ca * y - sa * x;
    xy[2 * i + 1] = layer.center[1] - (ce * z - se * near);
    if (layer.rim && ce * near + se * z < -layer.rim) xy[2 * i] = NaN; // behind: not drawn
  }
  return xy;
}

function trace(context, xy, start, end) {
  let down = false;
  for (let i = start; i < end; i++) {
    if (Number.isNaN(xy[2 * i])) down = false;
    else if (down) context.lineTo(xy[2 * i], xy[2 * i + 1]);
    else context.moveTo(xy[2 * i], xy[2 * i + 1]), (down = true);
  }
}

/** The same, cut at the edge of the figure: there matplotlib begins its dashes anew, and so must we. */
function traceInside(context, xy, start, end, [width, height]) {
  const [low, high] = [[-0.5, -0.5], [width + 0.5, height + 0.5]];
  let down = false;
  for (let i = start; i < end - 1; i++) {
    const [from, to] = [xy.subarray(2 * i, 2 * i + 2), xy.subarray(2 * i + 2, 2 * i + 4)];
    let [enter, leave] = [0, 1];
    for (const k of [0, 1]) {
      const way = to[k] - from[k];
      const [one, other] = [(low[k] - from[k]) / way, (high[k] - from[k]) / way];
      if (way) [enter, leave] = [Math.max(enter, Math.min(one, other)), Math.min(leave, Math.max(one, other))];
      else if (from[k] < low[k] || from[k] > high[k]) leave = -1;
    }
    if (!(enter < leave)) {
      down = false;
      continue;
    }
    const at = (part) => [from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1])];
    if (!down || enter > 0) context.moveTo(...at(enter));
    context.lineTo(...at(leave));
    down = leave === 1;
  }
}

/** How each kind of layer is drawn; widths, dashes, joins and heads as matplotlib has them. */
const draw = {
  line(context, layer, xy, size) {
    context.strokeStyle = layer.color;
    context.lineWidth = layer.width;
    context.lineJoin = "round";
    context.lineCap = layer.dashes.length ? "butt" : "round";
    context.setLineDash(layer.dashes);
    context.beginPath();
    const follow = layer.dashes.length ? traceInside : trace;
    for (let i = 0; i < layer.points; i += layer.piece) follow(context, xy, i, i + layer.piece, size);
    context.stroke();
  },

  dots(context, layer, xy) {
    context.fillStyle = layer.color;
    context.strokeStyle = layer.edge;
    context.lineWidth = layer.edge_width;
    for (let i = 0; i < xy.length; i += 2) {
      context.beginPath();
      context.arc(xy[i], xy[i + 1], layer.radius, 0, 2 * Math.PI);
      context.fill();
      if (layer.edge_width) context.stroke();
    }
  },

  polygons(context, layer, xy) {
    context.fillStyle = layer.color;
    for (let i = 0; i < layer.points; i += layer.piece) {
      context.beginPath();
      trace(context, xy, i, i + layer.piece);
      context.fill();
    }
  },

  arrow(context, layer, [x0, y0, x1, y1]) {
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (!length) return;
    const [dx, dy] = [(x0 - x1) / length, (y0 - y1) / length];
    const [along, across] = layer.head;
    // The outline of the head is as wide as the line: pull the tip back, so that its corner is where the arrow ends.
    const back = (layer.width * Math.hypot(along, across)) / (2 * across);
    const [x, y] = [x1 + back * dx, y1 + back * dy];
    context.strokeStyle = context.fillStyle = layer.color;
    context.lineWidth = layer.width;
    context.lineJoin = context.lineCap = "round";
    context.beginPath();
    trace(context, [x0, y0, x, y], 0, 2);
    context.stroke();
    context.beginPath();
    trace(context, [x + along * dx - across * dy, y + along * dy + across * dx, x, y,
                    x + along * dx + across * dy, y + along * dy - across * dx], 0, 3); // prettier-ignore
    context.closePath();
    context.fill();
    context.stroke();
  },
};

/** The part of the sentence that belongs to a state. */
function say(words, state) {
  return words
    .map((part) => {
      if (typeof part === "string") return part;
      return part.said[part.axes.reduce((index, axis) => index[state[axis]], part.index)];
    })
    .join("");
}

function element(tag, className, parent, attributes = {}) {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

const longest = (texts) => texts.reduce((one, other) => (other.length > one.length ? other : one), "");

/** Give a node a text that changes, and room for the longest, so that it moves nothing else; gives the text's node. */
function steady(node, text) {
  node.classList.add("ef-steady");
  node.dataset.longest = text;
  node.replaceChildren();
  return element("span", "", node);
}

function button(text, label, parent, pressed, className = "") {
  const node = element("button", className, parent, { type: "button", "aria-label": label, title: label });
  node.textContent = text;
  node.addEventListener("click", pressed);
  return node;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const NARROW = 600; // CSS pixels: less is a phone, or half a screen
const BESIDE = 336; // what the controls take beside the figure
const LEGIBLE = 0.8; // of its size: a figure that is smaller has texts of less than 11 pixels
const THUMB = 16; // the width of what is dragged of a slider, in Chromium
const SLOW = 12; // milliseconds between two words of a mouse: what a faster one moves would be painted in vain
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * One view: a figure, a slider an axis, the words, and a bar of buttons. The host is told what happens:
 * `moved(name, value)`, `wantForm(form)`, `wantRatio(ratio)`, `reset()`, and, where there is a kernel, `send(message)`.
 */
class Figure {
  constructor(parent, host) {
    this.host = host;
    this.root = element("div", "ef-explorer", parent, { role: "group" });
    this.sheet = element("div", "ef-sheet", this.root); // an image has no buttons in it: grips lie beside the figure
    this.paper = element("div", "ef-figure", this.sheet, { role: "img", "aria-label": "a figure, not drawn yet" });
    this.canvas = element("canvas", "", this.paper);
    this.grips = element("div", "ef-grips", this.sheet);
    this.side = element("div", "ef-side", this.root);
    this.hands = element("div", "ef-hands", this.side); // all that moves the figure: on a phone it stays in view
    this.sliders = element("div", "ef-sliders", this.hands);
    this.views = element("div", "ef-views", this.side);
    this.working = element("div", "ef-progress", this.side, { hidden: "" });
    this.progress = element("progress", "", this.working, { max: 1, "aria-label": "computing" });
    if (host.send) button("Cancel", "stop computing", this.working, () => host.send({ cancel: true }));
    this.words = element("p", "ef-words", this.side);
    this.error = element("p", "ef-error", this.side, { role: "alert" });
    this.tools = element("div", "ef-tools", this.side);
    this.spoken = element("div", "ef-live", this.root, { "aria-live": "polite" });
    this.state = [];
    this.heard = 0; // when a mouse said last where it is
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.root);
    this.resized.observe(this.paper); // whose width follows the height of the window too
    this.closing = new AbortController();
    this.root.addEventListener("pointerdown", () => (this.held = true));
    for (const end of ["pointerup", "pointercancel"])
      addEventListener(end, () => (this.held = false), { capture: true, signal: this.closing.signal });
    this.listenToPointer();
  }

  close() {
    this.closing.abort();
    this.held = false;
    this.resized.disconnect();
    this.stop();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.speaking);
  }

  /** Put controls above the sliders; gives a function that sets all of them to the places given. */
  addControls(controls, pick) {
    if (!controls.length) return () => {};
    const rows = element("div", "ef-controls", this.hands);
    this.sliders.before(rows);
    return buildControls(rows, controls, pick);
  }

  /** Put the controls where there is room for them, "under" the thumb on a phone; and give the form that has room. */
  fitting(reply) {
    this.width = this.root.clientWidth || this.width; // 0 while JupyterLab keeps a cell out of view
    const width = this.width;
    const roomy = width >= LEGIBLE * reply.forms.wide.size[0] + BESIDE;
    this.root.dataset.controls = roomy ? "beside" : width && width < NARROW ? "under" : "below";
    const narrow = reply.narrow && width && width < NARROW;
    if (narrow && !reply.forms.narrow) this.host.wantForm("narrow");
    this.host.wantRatio(devicePixelRatio > 1 ? 2 : 1);
    return narrow && reply.forms.narrow ? "narrow" : "wide";
  }

  /** Show a reply, whole, at the given values of its axes. The last one wins, however long each takes to unpack. */
  async show(reply, values) {
    const form = this.fitting(reply);
    const unpacking = unpack(reply.forms[form], reply.steps, this.shown);
    this.latest = reply;
    const [unpacked, sentence] = await Promise.all([unpacking, inflate(reply.words).json()]);
    if (this.latest !== reply) return;
    this.unpacking = { [form]: unpacking };
    this.scene = reply;
    this.sentence = sentence;
    this.said = steady(this.words, sentence.map((part) => part.said ? longest(part.said) : part).join(""));
    this.root.setAttribute("aria-label", reply.title);
    this.error.textContent = reply.error;
    const controls = JSON.stringify([reply.axes.map((axis) => [axis.name, axis.label, axis.said.length]), reply.handles, reply.presets]);
    if (controls !== this.builtFor) this.build(reply);
    this.builtFor = controls;
    this.state = reply.axes.map((axis) => nearest(axis.values, values()[axis.name] ?? axis.start));
    this.display(form, unpacked);
    this.root.dataset.serial = reply.serial;
  }

  /** Use a form's picture and layers. */
  display(form, unpacked) {
    this.form = form;
    this.shown = unpacked;
    const [width, height] = unpacked.size;
    this.sheet.style.setProperty("--ef-width", `${width}px`);
    this.sheet.style.setProperty("--ef-aspect", width / height);
    if (unpacked.picture.parentNode !== this.paper) {
      this.paper.querySelector("img")?.remove();
      this.paper.prepend(unpacked.picture);
    }
    this.paint();
  }

  /** The room changed. */
  async fit() {
    const { scene } = this;
    if (!scene) return;
    const form = this.fitting(scene);
    if (form === this.form) return this.paint();
    const unpacked = await (this.unpacking[form] ??= unpack(scene.forms[form], scene.steps));
    if (this.scene === scene && this.fitting(scene) === form && this.form !== form) this.display(form, unpacked);
  }

  /** Sliders, grips and buttons of a scene. */
  build(scene) {
    this.stop();
    this.sliders.replaceChildren();
    this.inputs = scene.axes.map((axis, i) => {
      const row = element("div", "ef-axis", this.sliders);
      element("span", "", row, { "aria-hidden": "true" }).textContent = axis.label;
      const said = steady(element("output", "", row), longest(axis.said));
      const input = element("input", "", row, {
        type: "range", min: 0, max: axis.values.length - 1, step: 1, "aria-label": axis.label,
        "data-axis": axis.name, "data-lm-suppress-shortcuts": "true", // else JupyterLab takes the arrow keys
      }); // prettier-ignore
      const play = axis.play ? button("▶", `play ${axis.label}`, row, () => this.play(i)) : undefined;
      input.addEventListener("input", () => this.moveTo(i, Number(input.value)));
      input.addEventListener("pointerrawupdate", (event) => this.foresee(i, event));
      return { input, said, play };
    });
    this.grips.replaceChildren();
    const grip = (label, move) => {
      const node = element("button", "ef-grip", this.grips, {
        type: "button", "aria-label": `${label}: arrow keys`, "data-lm-suppress-shortcuts": "true",
      }); // prettier-ignore
      node.addEventListener("keydown", (event) => {
        if (!STEP[event.key]) return;
        event.preventDefault();
        move(STEP[event.key]);
      });
      return node;
    };
    this.handleGrips = scene.handles.map((handle) => grip(handle.label, (direction) => this.nudge(handle, direction)));
    if (scene.orbit) {
      const { azimuth, elevation } = scene.orbit;
      grip("turn the figure", ([x, y]) => (this.moveTo(azimuth, this.state[azimuth] - x), this.moveTo(elevation, this.state[elevation] + y)));
    }
    this.views.replaceChildren();
    if (scene.presets.length) {
      const turn = (by) => this.preset(((this.chosenPreset ?? (by > 0 ? -1 : 0)) + by + scene.presets.length) % scene.presets.length);
      button("‹", "the view before", this.views, () => turn(-1));
      button("›", "the next view", this.views, () => turn(1));
      this.presetText = element("span", "ef-preset", this.views, { "aria-live": "polite" });
      this.presetText.textContent = `${scene.presets.length} views`;
    }
    this.chosenPreset = undefined;
    this.tools.replaceChildren();
    button("Reset", "back to the first state", this.tools, () => this.reset());
    button("Copy state", "copy a line of Python that restores this state", this.tools, () => this.copy());
    for (const kind of this.host.send ? ["PNG", "SVG", "PDF"] : ["PNG"])
      button(kind, `save as ${kind}`, this.tools, () => (this.host.send ? this.host.send({ save: kind.toLowerCase() }) : this.save()));
    this.copied = element("input", "ef-copied", this.tools, { readonly: "", hidden: "", "aria-label": "a line of Python that restores this state" });
  }

  /** The reader moved axis i: what plays or glides stops. */
  moveTo(i, place) {
    this.stop();
    this.set(i, Math.min(Math.max(place, 0), this.scene.axes[i].values.length - 1));
  }

  /**
   * A mouse drags slider i, and the browser, which will let the slider follow in the next frame, tells so at once: paint
   * what the frame will show. Where the slider goes is for the browser to say: what was foreseen wrongly is never seen.
   */
  foresee(i, { target, pointerType, clientX, timeStamp }) {
    const slow = timeStamp - this.heard > SLOW;
    this.heard = timeStamp;
    if (pointerType !== "mouse" || !slow || !target.matches(":active")) return;
    const { left, width } = target.getBoundingClientRect();
    this.moveTo(i, Math.round(((clientX - left - THUMB / 2) / (width - THUMB)) * target.max));
  }

  set(i, place) {
    if (place === this.state[i]) return;
    this.state[i] = place;
    this.schedule();
    this.host.moved(this.scene.axes[i].name, this.scene.axes[i].values[place]);
  }

  /** A value came from elsewhere: Python, or a linked slider. */
  follow(name, value) {
    const i = this.scene?.axes.findIndex((axis) => axis.name === name) ?? -1;
    if (i < 0) return;
    const place = nearest(this.scene.axes[i].values, value);
    if (place === this.state[i]) return;
    this.state[i] = place;
    this.schedule();
  }

  /** Paint as soon as this task is done, so that the next frame finds it ready; what follows before then waits for it. */
  schedule() {
    this.stale = true;
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = undefined;
      if (this.stale) this.paint();
    });
    queueMicrotask(() => this.paint());
  }

  paint() {
    this.stale = false;
    const { scene, shown, state, canvas } = this;
    if (!scene) return;
    const ratio = (this.paper.clientWidth * devicePixelRatio) / shown.size[0];
    const [width, height] = shown.size.map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.drawMoving(canvas.getContext("2d"), width, height);
    this.inputs.forEach(({ input, said }, i) => {
      const text = scene.axes[i].said[state[i]];
      if (input.valueAsNumber !== state[i]) input.value = state[i];
      said.textContent = text;
      input.setAttribute("aria-valuetext", text);
    });
    scene.handles.forEach((handle, i) => {
      const [x, y] = this.handleAt(handle, state);
      Object.assign(this.handleGrips[i].style, { left: `${(100 * x) / shown.size[0]}%`, top: `${(100 * y) / shown.size[1]}%` });
    });
    const words = say(this.sentence, state);
    this.said.textContent = words;
    this.paper.setAttribute("aria-label", `${scene.title}${scene.title.endsWith("?") ? "" : "."} ${words}`);
    clearTimeout(this.speaking); // a screen reader hears where the reader stops, not every place on the way
    this.speaking = setTimeout(() => (this.spoken.textContent = words), 500);
    this.root.dataset.state = state.join();
  }

  /** Draw what moves. */
  drawMoving(context, width, height) {
    const { shown, state } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(width / shown.size[0], 0, 0, height / shown.size[1], 0, 0);
    const turned = this.turned(state);
    for (const layer of shown.layers) {
      context.save();
      context.beginPath();
      context.rect(...layer.clip);
      context.clip();
      draw[layer.kind](context, layer, points(layer, state, turned), shown.size);
      context.restore();
    }
  }

  /** Cosine and sine of azimuth and elevation. */
  turned(state) {
    const { orbit, axes } = this.scene;
    if (!orbit) return undefined;
    const angles = [orbit.azimuth, orbit.elevation].map((axis) => (axes[axis].values[state[axis]] * Math.PI) / 180);
    return angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
  }

  /** Where a handle is in a state. */
  handleAt(handle, state) {
    return points(this.shown.layers.find(({ name }) => name === handle.points), state, this.turned(state));
  }

  busy(serial, fraction) {
    const busy = serial > (this.scene?.serial ?? 0);
    this.root.classList.toggle("ef-busy", busy);
    this.working.hidden = !busy || fraction < 0;
    if (fraction >= 0) this.progress.value = fraction;
  }

  /** Take a step in every frame, of what the seconds since now are told, until it says that it has arrived. */
  animate(step) {
    const began = performance.now();
    const turn = () => {
      if (step((performance.now() - began) / 1000)) this.stop();
      else this.moving = requestAnimationFrame(turn);
    };
    turn();
  }

  stop() {
    cancelAnimationFrame(this.moving);
    const play = this.inputs?.[this.playing]?.play;
    if (play) (play.textContent = "▶"), play.setAttribute("aria-pressed", "false");
    this.playing = undefined;
  }

  /** Run an axis from where it stands to its end; or stop. Who wants little motion gets one picture a second. */
  play(i) {
    const playing = this.playing === i;
    this.stop();
    if (playing) return;
    const { play, values } = this.scene.axes[i];
    const last = values.length - 1;
    const start = this.state[i] === last ? 0 : this.state[i];
    this.playing = i;
    this.inputs[i].play.textContent = "⏸";
    this.inputs[i].play.setAttribute("aria-pressed", "true");
    this.animate((seconds) => {
      const place = Math.min(last, start + Math.round(((calm() ? Math.floor(seconds) : seconds) / play) * last));
      this.set(i, place);
      return place === last;
    });
  }

  /** Go to other places, in a third of a second; at once for who wants little motion. */
  glide(goal) {
    this.stop();
    const start = [...this.state];
    this.animate((seconds) => {
      const part = calm() ? 1 : Math.min(1, seconds / 0.35);
      goal.forEach((place, i) => this.set(i, Math.round(start[i] + (place - start[i]) * part * (2 - part))));
      return part === 1;
    });
  }

  preset(i) {
    const { axes, presets } = this.scene;
    const { name, state, says, asks } = presets[i];
    this.chosenPreset = i;
    this.glide(axes.map((axis) => nearest(axis.values, state[axis.name] ?? axis.start)));
    this.presetText.replaceChildren();
    element("b", "", this.presetText).textContent = `${i + 1} of ${presets.length}: ${name}. `;
    this.presetText.append(says);
    if (asks) element("i", "", this.presetText).textContent = ` ${asks}`;
  }

  reset() {
    this.glide(this.scene.axes.map((axis) => nearest(axis.values, axis.start)));
    this.host.reset();
  }

  /** A line of Python that restores the state: into the clipboard, and to be seen. */
  copy() {
    const { axes, controls } = this.scene;
    const state = axes.map(({ name, values }, i) => `${name}=${values[this.state[i]]}`);
    const line = `explorer.restore(${[...state, ...controls.map(({ name, code }) => `${name}=${code}`)].join(", ")})`;
    this.copied.hidden = false;
    this.copied.value = line;
    this.copied.select();
    navigator.clipboard?.writeText(line).catch(() => {}); // without the right to: it is selected, ready for Ctrl+C
  }

  /** Without a kernel: the picture as it is seen. */
  save() {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = this.shown.size.map((side) => 2 * side);
    const context = sheet.getContext("2d");
    const ink = document.createElement("canvas");
    Object.assign(ink, { width: sheet.width, height: sheet.height });
    this.drawMoving(ink.getContext("2d"), sheet.width, sheet.height);
    context.drawImage(this.shown.picture, 0, 0, sheet.width, sheet.height);
    context.drawImage(ink, 0, 0);
    sheet.toBlob((blob) => download(blob, "figure.png"));
  }

  /** The handle's point moves one place to where a key points. */
  nudge(handle, [dx, dy]) {
    const [x, y] = this.handleAt(handle, this.state);
    let best;
    let most = 0;
    for (const axis of handle.axes) {
      for (const by of [-1, 1]) {
        const state = [...this.state];
        state[axis] += by;
        if (!(state[axis] in this.scene.axes[axis].values)) continue;
        const [px, py] = this.handleAt(handle, state);
        const gain = ((px - x) * dx + (py - y) * dy) / (Math.hypot(px - x, py - y) || 1);
        if (gain > most + 1e-9) [best, most] = [[axis, state[axis]], gain];
      }
    }
    if (best) this.moveTo(...best);
  }

  /** Drag a handle: its axes take the places whose point is nearest to the pointer. Elsewhere, a drag turns a solid. */
  listenToPointer() {
    const { canvas } = this;
    const where = (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = this.shown.size[0] / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    const near = (event) => {
      if (!this.scene) return undefined;
      const [x, y] = where(event);
      const reach = event.pointerType === "touch" ? 28 : 16;
      const distance = (handle) => {
        const [px, py] = this.handleAt(handle, this.state);
        return Math.hypot(px - x, py - y);
      };
      const handle = this.scene.handles.toSorted((one, other) => distance(one) - distance(other))[0];
      if (handle && distance(handle) < reach) return { handle };
      const solid = this.scene.orbit && this.shown.layers.find(({ space }) => space === 3);
      if (!solid) return undefined;
      const [left, top, width, height] = solid.clip;
      const inside = x > left && x < left + width && y > top && y < top + height;
      return inside ? { from: [x, y], state: [...this.state] } : undefined;
    };
    let grasp; // what the pointer holds
    let pointer; // the one that holds it; to capture says less, as every touch is captured where it starts
    canvas.addEventListener("pointerdown", (event) => {
      grasp = event.button ? undefined : near(event);
      if (!grasp) return;
      event.preventDefault();
      pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("ef-grabbing");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer || !this.scene) return canvas.classList.toggle("ef-grab", Boolean(near(event)));
      const [x, y] = where(event);
      if (grasp.handle) return this.drag(grasp.handle, x, y);
      const { azimuth, elevation } = this.scene.orbit;
      const turn = (axis, pixels) => {
        const { values } = this.scene.axes[axis];
        const [low, high] = [values[0], values.at(-1)];
        let value = values[grasp.state[axis]] + 0.6 * pixels;
        if (axis === azimuth) value = low + ((((value - low) % (high - low)) + (high - low)) % (high - low));
        this.moveTo(axis, nearest(values, value));
      };
      turn(azimuth, grasp.from[0] - x);
      turn(elevation, y - grasp.from[1]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId === pointer) pointer = undefined;
        canvas.classList.remove("ef-grabbing");
      });
    }
    // A touch that starts on what can be dragged drags it; any other scrolls the page.
    canvas.addEventListener("touchstart", (event) => {
      const touch = event.touches[0];
      if (near({ clientX: touch.clientX, clientY: touch.clientY, pointerType: "touch" })) event.preventDefault();
    }, { passive: false }); // prettier-ignore
  }

  /** Among all places of a handle's axes, take those whose point is nearest. */
  drag(handle, x, y) {
    const { axes } = this.scene;
    const state = [...this.state];
    let best;
    let least = Infinity;
    const search = ([axis, ...rest]) => {
      if (axis === undefined) {
        const [px, py] = this.handleAt(handle, state);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) [best, least] = [[...state], distance];
        return;
      }
      for (state[axis] = 0; state[axis] < axes[axis].values.length; state[axis]++) search(rest);
    };
    search(handle.axes);
    for (const axis of handle.axes) this.moveTo(axis, best[axis]);
  }
}

const HERE = (globalThis.efisherTeachWindow ??= Math.random()); // the same for all explorers of a window

/** anywidget's entry: a model gives replies and follows the axes. */
function render({ model, el }) {
  const save = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  let waiting; // on the way the kernel hears five times a second where the reader is, and always where they stop
  let hand = {}; // where the reader holds axes, until they have let go and the kernel has heard it
  let untold = false;
  let told; // when it was told last
  let answered; // the last of these that it has heard
  let missed = {}; // what another window did meanwhile, and a hand here has not let through
  const tellKernel = () => {
    waiting = clearTimeout(waiting);
    if (untold) {
      told = performance.now();
      model.set("hand", { by: HERE, at: told, moved: hand });
      model.save_changes();
      missed = {};
    }
    untold = false;
    if (figure.held) return (waiting = setTimeout(tellKernel, 200));
    hand = {};
    for (const name in missed) followElsewhere(name, missed[name]);
    missed = {};
  };
  let attributes = {}; // of the model
  /**
   * Follow a hand in another window. No link hears of it: it would answer, and two windows would never come to rest. Nor
   * does the kernel, which knows: after `set` it would be told with this window's next word, when it may know better.
   */
  const followElsewhere = (name, value) => {
    attributes[name] = value;
    figure.follow(name, value);
  };
  const figure = new Figure(el, {
    moved(name, value) {
      hand = { ...hand, [name]: value };
      untold = true;
      model.set(name, value);
      waiting ??= setTimeout(tellKernel, 200);
    },
    wantForm: (form) => model.get("form") !== form && save("form", form),
    wantRatio: (ratio) => model.get("ratio") < ratio && save("ratio", ratio),
    reset: () => model.send({ reset: true }),
    send(message) {
      tellKernel();
      if (message.save) files += 1;
      model.send(message);
    },
  });
  let files = 0; // that this view has asked for: every view of the model hears the answer
  const listening = [];
  const listen = (event, callback) => {
    model.on(event, callback);
    listening.push([event, callback]);
  };
  const values = () => Object.fromEntries(model.get("reply").axes.map(({ name }) => [name, model.get(name)]));
  const busy = () => figure.busy(model.get("awaited"), model.get("progress"));
  const controls = () => model.get("reply").controls.filter(({ choices }) => choices); // none where ipywidgets show them
  let next; // places of controls that the kernel has not been asked for, as it still answers
  let asking = false;
  const setControls = figure.addControls(controls(), (i, place) => {
    next = { ...next, [controls()[i].name]: place };
    setControls(controls().map(({ name, chosen }) => next[name] ?? chosen));
    if (!asking) ask();
  });
  const ask = () => {
    asking = Boolean(next);
    if (asking) model.send({ controls: next });
    else setControls(controls().map(({ chosen }) => chosen));
    next = undefined;
  };
  const receive = () => {
    if (!asking) ask();
    return figure.show(model.get("reply"), values).then(busy);
  };
  listen("change:reply", receive);
  listen("change:awaited", busy);
  listen("change:progress", busy);
  listen("msg:custom", ({ file, kind, by, at, now, set }, [bytes] = []) => {
    if (set) ask();
    if (at === told) answered = at;
    if (by === HERE && answered === told && !untold && !figure.held) for (const name in now) followElsewhere(name, now[name]);
    if (!file) return;
    if (files) download(new Blob([bytes], { type: kind }), file);
    files = Math.max(0, files - 1);
  });
  for (const { name } of model.get("reply").axes) {
    listen(`change:${name}`, () => {
      const value = model.get(name);
      if (figure.held && value !== (hand[name] ?? value)) missed[name] = value;
      else figure.follow(name, value);
    });
  }
  listen("change:hand", (source) => {
    attributes = source?.attributes ?? {};
    const { by, moved } = model.get("hand");
    if (by === HERE) return;
    for (const name in moved) name in hand ? (missed[name] = moved[name]) : followElsewhere(name, moved[name]);
  });
  /** Name the thumbs of ipywidgets' sliders beside the figure: they have no name of their own. */
  const nameThumbs = () => {
    const rows = el.closest(".ef-panel")?.firstElementChild.children ?? []; // ipywidgets puts each in when it is ready
    model.get("reply").controls.forEach(({ label }, i) => {
      for (const thumb of rows[i]?.querySelectorAll(".noUi-handle") ?? []) thumb.setAttribute("aria-label", label);
    });
  };
  const changing = new MutationObserver(nameThumbs);
  const placed = new ResizeObserver(() => {
    const panel = el.closest(".ef-panel");
    if (panel) changing.observe(panel, { childList: true, subtree: true });
    nameThumbs();
  });
  placed.observe(figure.root);
  receive();
  return () => {
    for (const [event, callback] of listening) model.off(event, callback);
    changing.disconnect();
    placed.disconnect();
    tellKernel();
    figure.close();
  };
}

/** What a file beside the page holds: a script, as `fetch` is forbidden where pages come from a disk. */
function loadPart(source) {
  const script = element("script", "", document.head, { src: source });
  return new Promise((done, fail) => {
    script.addEventListener("load", () => done(script.part));
    script.addEventListener("error", () => fail(new Error(`${source}, a part of this page, is not beside it.`)));
  }).finally(() => script.remove());
}

/** A text of a page, or the files that have it in pieces. */
const whole = async (part) => (typeof part === "string" ? part : (await Promise.all(part.map(loadPart))).join(""));
const unpackBytes = async (part) => Uint8Array.from(atob(await whole(part)), (letter) => letter.charCodeAt(0));

/** A list or a slider for each control that has choices; gives a function that sets all to the places given. */
function buildControls(parent, controls, pick) {
  const rows = controls.map(({ label, choices, is_list }, i) => {
    const row = element("div", "ef-control", parent);
    element("span", "", row, { "aria-hidden": "true" }).textContent = label;
    if (is_list) {
      const list = element("select", "", row, { "aria-label": label });
      for (const { said } of choices) element("option", "", list).textContent = said;
      list.addEventListener("change", () => pick(i, list.selectedIndex));
      return (place) => (list.selectedIndex = place);
    }
    const said = steady(element("output", "", row), longest(choices.map((choice) => choice.said)));
    const input = element("input", "", row, { type: "range", min: 0, max: choices.length - 1, step: 1, "aria-label": label });
    input.addEventListener("input", () => pick(i, input.valueAsNumber));
    return (place) => {
      input.value = place;
      said.textContent = choices[place].said;
      input.setAttribute("aria-valuetext", choices[place].said);
    };
  });
  return (places) => rows.forEach((set, i) => set(places[i]));
}

/**
 * A figure on a page without a kernel: what was bytes is base64, and controls choose among states that were computed
 * beforehand (states.py says how they are written). What stands in `parent` stays until the figure is there, and where
 * it cannot come: old browsers, or a policy that forbids what it needs.
 */
async function mount(parent, first) {
  const still = [...parent.children];
  const room = element("div", "ef-waits", parent);
  const controls = first.controls.filter(({ choices }) => choices);
  const start = controls.map(({ chosen }) => chosen);
  let shown = start; // the places of what is seen, and of what is asked for
  let asked = start;
  let serial = 1;
  let set = () => {};

  const prepare = async (reply) => {
    const forms = Object.entries(reply.forms).map(([name, form]) => {
      const once = (part) => {
        let bytes;
        return { get: () => (bytes ??= unpackBytes(part)) };
      };
      const parts = { table: once(form.table), picture: once(form.picture ?? first.forms[name].picture) };
      return [name, Object.defineProperties({ ...form }, parts)];
    });
    return { ...reply, forms: Object.fromEntries(forms), words: await unpackBytes(reply.words) };
  };
  const go = async (places) => {
    const mine = ++serial;
    set((asked = places));
    const key = places.join();
    figure.busy(mine, -1);
    try {
      const part = key === start.join() ? first : first.states[key];
      const state = Array.isArray(part) ? JSON.parse(await whole(part)) : part;
      if (state.error) throw new Error(state.error);
      const next = await prepare({ ...first, ...state, serial: mine });
      let live = -1;
      next.controls = first.controls.map((control) => control.choices ? { ...control, ...control.choices[places[++live]] } : control);
      if (mine !== serial) return;
      await figure.show(next, () => Object.fromEntries(figure.scene.axes.map(({ name, values }, i) => [name, values[figure.state[i]]])));
      if (mine === serial) shown = places;
    } catch (error) {
      if (mine !== serial) return;
      set((asked = shown));
      figure.error.textContent = error.message;
    }
    if (mine === serial) figure.root.classList.remove("ef-busy");
  };
  const reset = () => asked.join() !== start.join() && go(start);
  const figure = new Figure(room, { moved: () => {}, wantForm: () => {}, wantRatio: () => {}, reset });
  set = figure.addControls(controls, (i, place) => go((first.together ? asked : start).with(i, place)));
  set(start);
  if (first.note) element("p", "ef-fixed", figure.side).textContent = first.note;
  try {
    await figure.show(await prepare(first), () => first.state);
  } catch {
    figure.close();
    room.remove(); // the picture and its words stay
    return;
  }
  room.className = "";
  for (const node of still) node.remove();
}

export default { render };
