// Frames as a file: GIF, video or one PNG. Made here, where the frames are kept already; no server is asked.
// A shot is {uris, name, words}: square pictures of one size that stand side by side, and a line about them, of which the
// name is cut if need be.
window.mmdemo.exports ??= (() => {
  const { el, load } = window.mmdemo;
  const SIDE = 256, GAP = 8, LINE = 32; // pixels; a picture is enlarged to about SIDE
  const HOLD = 1500; // ms that the last frame stays
  const FORMATS = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm"]; // any viewer plays the first

  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const loaded = (shots) => Promise.all(shots.map(({ uris }) => Promise.all(uris.map(load)))); // a list a shot
  const even = (times) => 2 * Math.max(1, Math.round(times / 2)); // video takes no odd number of pixels

  // A canvas and show(i), which draws the i-th shot on it.
  async function screen(shots) {
    const pictures = await loaded(shots);
    const size = pictures[0][0].width, side = size * even(SIDE / size), count = pictures[0].length;
    const canvas = el("canvas", { width: count * (side + GAP) + GAP, height: side + GAP + LINE });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const show = (i) => {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      pictures[i].forEach((picture, n) => context.drawImage(picture, GAP + n * (side + GAP), GAP, side, side));
      context.fillStyle = "#333";
      context.font = "16px system-ui, sans-serif";
      context.fillText(line(context, shots[i], canvas.width - 2 * GAP), GAP, side + GAP + 22);
    };
    return { canvas, context, show };
  }

  function line(context, { name, words }, width) {
    const letters = [...name], wide = () => context.measureText(letters.join("") + words).width > width;
    if (wide()) letters.push("…");
    while (letters.length > 1 && wide()) letters.splice(-2, 1);
    return letters.join("") + words;
  }

  // Some of the shots, one a column, above one another what stands side by side in a film.
  async function png(shots) {
    const pictures = await loaded(shots);
    const size = pictures[0][0].width, side = size * even(SIDE / 2 / size);
    const canvas = el("canvas", { width: shots.length * (side + GAP) + GAP, height: pictures[0].length * (side + GAP) + GAP });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    pictures.forEach((column, x) => column.forEach((picture, y) =>
      context.drawImage(picture, GAP + x * (side + GAP), GAP + y * (side + GAP), side, side)));
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  // As long as the film: a browser records what is shown while it is shown.
  async function video(shots, ms) {
    const { canvas, show } = await screen(shots);
    const type = FORMATS.find((format) => MediaRecorder.isTypeSupported(format));
    const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: type, videoBitsPerSecond: 4e6 });
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    const ended = new Promise((done) => { recorder.onstop = done; });
    recorder.start();
    for (let i = 0; i < shots.length; i++) {
      show(i);
      await wait(ms);
    }
    for (let held = 0; held < HOLD; held += 100) { // a still canvas sends nothing, and the film would end early
      show(shots.length - 1);
      await wait(100);
    }
    recorder.stop();
    await ended;
    return new Blob(parts, { type: type.split(";")[0] });
  }

  // GIF89a, each frame with its own colours.
  async function gif(shots, ms) {
    const { canvas, context, show } = await screen(shots), { width, height } = canvas;
    const bytes = [...ascii("GIF89a"), ...word(width), ...word(height), 0x70, 0, 0];
    bytes.push(0x21, 0xff, 11, ...ascii("NETSCAPE2.0"), 3, 1, 0, 0, 0); // again and again
    for (let i = 0; i < shots.length; i++) {
      show(i);
      const rgba = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
      const { palette, indices } = reduced(rgba);
      bytes.push(0x21, 0xf9, 4, 0, ...word(Math.round((i === shots.length - 1 ? HOLD : ms) / 10)), 0, 0);
      bytes.push(0x2c, 0, 0, 0, 0, ...word(width), ...word(height), 0x87, ...palette, 8);
      pack(indices, bytes);
      await wait(0); // the page stays alive
    }
    return new Blob([new Uint8Array([...bytes, 0x3b])], { type: "image/gif" });
  }

  const ascii = (text) => [...text].map((letter) => letter.charCodeAt(0));
  const word = (n) => [n & 255, n >> 8];

  // 256 colours that stand for all: as they are if there are no more, else by median cut (Heckbert, 1982).
  function reduced(pixels) {
    let boxes = [...new Set(pixels)].map((colour) => [colour]);
    if (boxes.length > 256) {
      boxes = [widest(boxes.flat())];
      while (boxes.length < 256) {
        const { colours, shift } = boxes.sort((a, b) => a.width - b.width).pop();
        colours.sort((a, b) => (a >> shift & 255) - (b >> shift & 255));
        boxes.push(widest(colours.splice(colours.length >> 1)), widest(colours));
      }
      boxes = boxes.map(({ colours }) => colours);
    }
    const mean = (box, shift) => Math.round(box.reduce((sum, colour) => sum + (colour >> shift & 255), 0) / box.length);
    const palette = new Array(768).fill(0), place = new Map();
    boxes.forEach((box, i) => {
      [0, 8, 16].forEach((shift, channel) => { palette[3 * i + channel] = mean(box, shift); });
      box.forEach((colour) => place.set(colour, i));
    });
    return { palette, indices: Uint8Array.from(pixels, (colour) => place.get(colour)) };
  }

  // Colours, and the channel in which they differ most.
  function widest(colours) {
    const width = (shift) => {
      let low = 255, high = 0;
      for (const colour of colours) { low = Math.min(low, colour >> shift & 255); high = Math.max(high, colour >> shift & 255); }
      return high - low;
    };
    const shift = [0, 8, 16].sort((a, b) => width(b) - width(a))[0];
    return { colours, shift, width: width(shift) };
  }

  // LZW as GIF has it: codes of 9 to 12 bits, the lowest bits first, in blocks of at most 255 bytes.
  function pack(indices, bytes) {
    const CLEAR = 256, END = 257, FULL = 4096;
    let table = new Map(), next = END + 1, bits = 9, held = 0, count = 0, block = [];
    const flush = () => { bytes.push(block.length, ...block); block = []; };
    const put = (code) => {
      held |= code << count;
      for (count += bits; count >= 8; count -= 8, held >>>= 8) if (block.push(held & 255) === 255) flush();
    };
    put(CLEAR);
    let prefix = indices[0];
    for (let i = 1; i < indices.length; i++) {
      const key = prefix << 8 | indices[i], known = table.get(key);
      if (known !== undefined) { prefix = known; continue; }
      put(prefix);
      prefix = indices[i];
      if (next === FULL) {
        put(CLEAR);
        table = new Map(), next = END + 1, bits = 9;
      } else {
        if (next === 1 << bits) bits += 1; // the reader's table is one entry behind
        table.set(key, next++);
      }
    }
    put(prefix);
    put(END);
    if (count) block.push(held & 255);
    if (block.length) flush();
    bytes.push(0);
  }

  function save(blob, name) {
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: `${name}.${blob.type.split("/")[1]}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  const canRecord = () => Boolean(window.MediaRecorder && FORMATS.some((format) => MediaRecorder.isTypeSupported(format)));

  return { canRecord, gif, png, save, video };
})();
