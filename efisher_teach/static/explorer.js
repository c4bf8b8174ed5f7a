// The browser's half of the explorer: it draws what moves over matplotlib's picture, from one packed table.
//
// A reply holds everything: the picture, the table, the looks of the layers, the words. `open` unpacks it; `Figure`
// shows it. The browser knows no axes and no scales: every point is a figure pixel already, in sixteenths.

/** Unpack a reply: the picture as an image, the table as numbers, each layer with its own part of it. */
async function open(reply) {
  const stream = new Blob([reply.table]).stream().pipeThrough(new DecompressionStream("deflate"));
  const counts = new Int16Array(await new Response(stream).arrayBuffer());
  const layers = reply.layers.map((layer) => {
    const width = 2 * layer.points;
    const states = layer.shape.reduce((product, size) => product * size, 1);
    const table = counts.subarray(layer.offset, layer.offset + states * width);
    for (let i = width; i < table.length; i++) table[i] += table[i - width]; // states are packed as differences
    return { ...layer, table };
  });
  const picture = new Image();
  picture.src = URL.createObjectURL(new Blob([reply.picture], { type: "image/png" }));
  picture.alt = "";
  await picture.decode();
  return { ...reply, layers, picture };
}

/** The place of the value of an axis that is nearest. */
function nearest(values, value) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (Math.abs(values[i] - value) < Math.abs(values[best] - value)) best = i;
  return best;
}

/** The points of a layer in a state, [x0, y0, x1, y1, …] in CSS pixels. */
function points(scene, layer, state) {
  let row = 0;
  layer.axes.forEach((axis, i) => (row = row * layer.shape[i] + state[axis]));
  const width = 2 * layer.points;
  return Array.from(layer.table.subarray(row * width, (row + 1) * width), (count) => count / scene.steps);
}

function trace(context, xy, start, end) {
  context.moveTo(xy[2 * start], xy[2 * start + 1]);
  for (let i = start + 1; i < end; i++) context.lineTo(xy[2 * i], xy[2 * i + 1]);
}

/** How each kind of layer is drawn; widths, dashes, joins and heads as matplotlib has them. */
const draw = {
  line(context, layer, xy) {
    context.strokeStyle = layer.color;
    context.lineWidth = layer.width;
    context.lineJoin = "round";
    context.lineCap = layer.dashes.length ? "butt" : "round";
    context.setLineDash(layer.dashes);
    context.beginPath();
    trace(context, xy, 0, xy.length / 2);
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
      context.stroke();
    }
  },

  polygons(context, layer, xy) {
    context.fillStyle = layer.color;
    for (let i = 0; i < xy.length / 2; i += layer.corners) {
      context.beginPath();
      trace(context, xy, i, i + layer.corners);
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
function say(scene, state) {
  return scene.words
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

/** One view: a figure, a slider an axis, the words. `moved(name, value)` is called when the reader moves. */
class Figure {
  constructor(parent, moved) {
    this.moved = moved;
    this.root = element("div", "ef-explorer", parent, { role: "group" });
    this.paper = element("div", "ef-figure", this.root, { role: "img" });
    this.canvas = element("canvas", "", this.paper);
    this.sliders = element("div", "", this.root);
    this.words = element("p", "ef-words", this.root);
    this.error = element("p", "ef-error", this.root, { role: "alert" });
    this.live = element("div", "ef-live", this.root, { "aria-live": "polite" });
    this.state = [];
    this.resized = new ResizeObserver(() => this.paint());
    this.resized.observe(this.paper);
    this.drag();
  }

  close() {
    this.resized.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.speaking);
    if (this.scene) URL.revokeObjectURL(this.scene.picture.src);
  }

  /** Show an opened reply, whole, at the given values of its axes. */
  show(scene, values) {
    const old = this.scene;
    this.scene = scene;
    this.root.setAttribute("aria-label", scene.title);
    Object.assign(this.paper.style, { width: `${scene.size[0]}px`, aspectRatio: `${scene.size[0]} / ${scene.size[1]}` });
    this.paper.querySelector("img")?.remove();
    this.paper.prepend(scene.picture);
    if (old) URL.revokeObjectURL(old.picture.src);
    this.error.textContent = scene.error;
    const names = scene.axes.map((axis) => axis.name + axis.said.length).join();
    if (names !== this.names) this.build(scene.axes);
    this.names = names;
    this.state = scene.axes.map((axis) => nearest(axis.values, values[axis.name]));
    this.paint();
    this.root.dataset.serial = scene.serial;
  }

  build(axes) {
    this.sliders.replaceChildren();
    this.inputs = axes.map((axis, i) => {
      const row = element("label", "ef-axis", this.sliders);
      element("span", "", row).textContent = axis.label;
      const input = element("input", "", row, {
        type: "range", min: 0, max: axis.values.length - 1, step: 1, "aria-label": axis.label,
        "data-axis": axis.name, "data-lm-suppress-shortcuts": "true", // else JupyterLab takes the arrow keys
      }); // prettier-ignore
      const said = element("output", "", row);
      input.addEventListener("input", () => this.set(i, Number(input.value)));
      return { input, said };
    });
  }

  /** The reader moved axis i. */
  set(i, place) {
    if (place === this.state[i]) return;
    this.state[i] = place;
    this.schedule();
    this.moved(this.scene.axes[i].name, this.scene.axes[i].values[place]);
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

  schedule() {
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const { scene, state, canvas } = this;
    if (!scene) return;
    const ratio = (this.paper.clientWidth * devicePixelRatio) / scene.size[0];
    const [width, height] = scene.size.map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(width / scene.size[0], 0, 0, height / scene.size[1], 0, 0);
    for (const layer of scene.layers) {
      context.save();
      context.beginPath();
      context.rect(...layer.clip);
      context.clip();
      draw[layer.kind](context, layer, points(scene, layer, state));
      context.restore();
    }
    this.inputs.forEach(({ input, said }, i) => {
      const text = scene.axes[i].said[state[i]];
      if (input.valueAsNumber !== state[i]) input.value = state[i];
      said.textContent = text;
      input.setAttribute("aria-valuetext", text);
    });
    const words = say(scene, state);
    this.words.textContent = words;
    this.paper.setAttribute("aria-label", `${scene.title}. ${words}`);
    clearTimeout(this.speaking); // a screen reader hears where the reader stops, not every place on the way
    this.speaking = setTimeout(() => (this.live.textContent = words), 500);
    this.root.dataset.state = state.join();
  }

  busy(serial) {
    this.root.classList.toggle("ef-busy", serial > (this.scene?.serial ?? 0));
  }

  /** Drag the handle: the axis takes the place whose point is nearest to the pointer. */
  drag() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = this.scene.size[0] / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    const handle = () => {
      const layer = this.scene?.handle && this.scene.layers.find(({ name }) => name === this.scene.handle.points);
      return layer && { layer, axis: this.scene.axes.findIndex(({ name }) => name === this.scene.handle.axis) };
    };
    const near = (event) => {
      const held = handle();
      if (!held) return false;
      const [x, y] = at(event);
      const [px, py] = points(this.scene, held.layer, this.state);
      return Math.hypot(px - x, py - y) < (event.pointerType === "touch" ? 28 : 16);
    };
    let pointer; // the one that holds the handle; to capture says less, as every touch is captured where it starts
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || !near(event)) return;
      event.preventDefault();
      pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("ef-grabbing");
    });
    canvas.addEventListener("pointermove", (event) => {
      const held = handle();
      if (event.pointerId !== pointer || !held) return canvas.classList.toggle("ef-grab", near(event));
      const { layer, axis } = held;
      const [x, y] = at(event);
      const state = [...this.state];
      let best = state[axis];
      let least = Infinity;
      for (let place = 0; place < this.scene.axes[axis].values.length; place++) {
        state[axis] = place;
        const [px, py] = points(this.scene, layer, state);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) [best, least] = [place, distance];
      }
      this.set(axis, best);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId === pointer) pointer = undefined;
        canvas.classList.remove("ef-grabbing");
      });
    }
    // A touch that starts on the handle drags it; any other scrolls the page.
    canvas.addEventListener("touchstart", (event) => {
      const touch = event.touches[0];
      if (near({ clientX: touch.clientX, clientY: touch.clientY, pointerType: "touch" })) event.preventDefault();
    }, { passive: false }); // prettier-ignore
  }
}

/** anywidget's entry: a model gives replies and follows the axes. */
function render({ model, el }) {
  const figure = new Figure(el, (name, value) => {
    model.set(name, value);
    model.save_changes();
  });
  const listening = [];
  const listen = (name, callback) => {
    model.on(`change:${name}`, callback);
    listening.push([`change:${name}`, callback]);
  };
  let latest = 0;
  const receive = async () => {
    const reply = model.get("_reply");
    latest = reply.serial;
    const scene = await open(reply);
    if (scene.serial !== latest) return; // a newer one came while this was unpacked
    figure.show(scene, Object.fromEntries(scene.axes.map(({ name }) => [name, model.get(name)])));
    figure.busy(model.get("_busy"));
  };
  listen("_reply", receive);
  listen("_busy", () => figure.busy(model.get("_busy")));
  for (const { name } of model.get("_reply").axes) listen(name, () => figure.follow(name, model.get(name)));
  receive();
  return () => {
    for (const [event, callback] of listening) model.off(event, callback);
    figure.close();
  };
}

export default { render };
