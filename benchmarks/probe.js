// Notes every input, and in the task after each frame whether the picture is another than after the one before.
(root) => {
  const canvas = root.matches(".ef-explorer") && root.querySelector("canvas");
  const pixels = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let hash = 0;
    for (const word of new Uint32Array(data.buffer)) hash = (Math.imul(hash, 31) + word) | 0;
    return hash;
  };
  let shown, drawn, image, frame;
  const changed = () => { // undefined, or whether the picture behind the canvas is another
    const last = { drawn, image };
    const found = root.querySelector("img");
    if (!canvas) {
      if (found && found !== image) (image = found).decode().then(() => (image.ready = true), () => {});
      return image?.ready && shown !== (shown = image.src) ? true : undefined;
    }
    const { state, serial } = root.dataset; // set when all is drawn
    if (shown === (shown = `${serial}: ${state}`)) return undefined;
    [drawn, image] = [pixels(), found];
    return drawn !== last.drawn || image !== last.image ? image !== last.image : undefined;
  };
  const inputs = [], changes = [];
  const note = (event) => inputs.push(event.timeStamp);
  const kinds = ["pointermove", "keydown", "change", "click"];
  for (const kind of kinds) window.addEventListener(kind, note, true);
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => { // the task after the frame: what it drew is handed over
    const done = performance.now();
    const fresh = changed();
    if (fresh !== undefined) changes.push({ done, fresh });
  };
  const turn = () => {
    port2.postMessage(0);
    frame = requestAnimationFrame(turn);
  };
  turn();
  window.probe = {
    begin: () => (inputs.length = changes.length = 0),
    answer: (patience) => new Promise((resolve) => {
      const start = performance.now();
      const look = () => {
        const now = performance.now();
        const change = changes.find(({ done }) => done > inputs[0]);
        if (change && now - changes.at(-1).done > 40) resolve([change.done - inputs[0], change.fresh]);
        else if (now - start > patience) resolve(null);
        else setTimeout(look, 10);
      };
      look();
    }),
    stop: () => {
      cancelAnimationFrame(frame);
      for (const kind of kinds) window.removeEventListener(kind, note, true);
    },
  };
}
