// Draws exemplars: each image dimmed outside the region in which it activates the unit, and the region outlined. See exemplar_views.py.
"use strict";
const milanPictures = (() => {
  const DIMMED = 191 << 24; // black of this opacity leaves a quarter of the brightness
  const OUTLINE = (255 << 24) | (92 << 16) | (214 << 8) | 255; // #ffd65c, as bytes from the last to the first
  const MOST = 600; // images that are kept
  const block = document.getElementById("images");
  const inlined = block ? JSON.parse(block.textContent) : {};

  const images = new Map();
  const image = (address) => {
    let found = images.get(address);
    if (!found) {
      const element = new Image();
      element.src = inlined[address] ?? address.split("/").map(encodeURIComponent).join("/");
      found = element.decode().then(() => element, () => null);
    }
    images.delete(address);
    images.set(address, found);
    if (images.size > MOST) images.delete(images.keys().next().value);
    return found;
  };

  // The distance to the threshold that a signed byte stands for; see map_encoding.py.
  const RANGE = 1e4;
  const distances = Float32Array.from({ length: 256 }, (_, code) => {
    const signed = code < 128 ? code : code - 256;
    return (Math.sign(signed) * Math.expm1((Math.abs(signed) / 127) * Math.log1p(RANGE))) / RANGE;
  });

  // The maps of all pictures of a view, positive within the region; null for pictures without regions.
  const unpacked = new WeakMap();
  const unpack = async (view) => {
    if (!view.maps) return null;
    try {
      const bytes = Uint8Array.from(atob(view.maps), (sign) => sign.charCodeAt(0));
      const stream = new DecompressionStream("deflate-raw");
      const writer = stream.writable.getWriter();
      const written = Promise.all([writer.write(bytes), writer.close()]);
      const [found] = await Promise.all([new Response(stream.readable).arrayBuffer(), written]);
      return new Uint8Array(found);
    } catch {
      return null; // an old browser shows images without regions
    }
  };
  const levels = (view) => {
    if (!unpacked.has(view)) unpacked.set(view, unpack(view));
    return unpacked.get(view);
  };

  // For each pixel of a side, the cells on both sides of it and the weight of the second; pixels and cells have half-pixel centres.
  const steps = (cells, pixels) => {
    const found = { first: new Int32Array(pixels), second: new Int32Array(pixels), weight: new Float32Array(pixels) };
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const at = Math.max(0, ((pixel + 0.5) * cells) / pixels - 0.5);
      const cell = Math.min(Math.floor(at), cells - 1);
      found.first[pixel] = cell;
      found.second[pixel] = Math.min(cell + 1, cells - 1);
      found.weight[pixel] = at - cell;
    }
    return found;
  };

  // 1 for pixels in which a map, upsampled bilinearly, is positive. A frame of zeros one pixel wide surrounds them.
  const region = (view, maps, place) => {
    const [rows, columns] = view.grid;
    const { width, height } = view;
    const start = place * rows * columns;
    const inside = new Uint8Array((width + 2) * (height + 2));
    const across = steps(columns, width);
    const down = steps(rows, height);
    const line = new Float32Array(columns);
    for (let y = 0; y < height; y += 1) {
      const upper = start + down.first[y] * columns;
      const lower = start + down.second[y] * columns;
      const share = down.weight[y];
      for (let x = 0; x < columns; x += 1) line[x] = distances[maps[upper + x]] * (1 - share) + distances[maps[lower + x]] * share;
      const row = (y + 1) * (width + 2) + 1;
      for (let x = 0; x < width; x += 1) {
        const weight = across.weight[x];
        if (line[across.first[x]] * (1 - weight) + line[across.second[x]] * weight > 0) inside[row + x] = 1;
      }
    }
    return inside;
  };

  const cover = (inside, width, height) => {
    const found = new ImageData(width, height);
    const pixels = new Int32Array(found.data.buffer);
    const wide = width + 2;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const at = (y + 1) * wide + x + 1;
        if (inside[at]) continue;
        const beside = inside[at - 1] | inside[at + 1] | inside[at - wide] | inside[at + wide]
          | inside[at - wide - 1] | inside[at - wide + 1] | inside[at + wide - 1] | inside[at + wide + 1];
        pixels[y * width + x] = beside ? OUTLINE : DIMMED;
      }
    }
    return found;
  };

  const sheet = document.createElement("canvas");
  const sheetPen = sheet.getContext("2d", { willReadFrequently: true }); // pixels are put, not drawn
  const draw = (pen, view, maps, place, picture, [x, y, width, height]) => {
    pen.drawImage(picture, x, y, width, height);
    if (!maps) return;
    const inside = region(view, maps, place);
    if (sheet.width !== view.width || sheet.height !== view.height) [sheet.width, sheet.height] = [view.width, view.height];
    sheetPen.putImageData(cover(inside, view.width, view.height), 0, 0);
    pen.drawImage(sheet, x, y, width, height);
  };

  // The pictures of views in rows, each view from a new row on; at most so many rows.
  const arrange = (views, across, most) => {
    const tiles = [];
    let row = 0;
    for (const view of views) {
      view.images.forEach((name, place) => tiles.push({ view, place, row: row + Math.floor(place / across), column: place % across }));
      row += Math.ceil(view.images.length / across);
    }
    return { tiles: tiles.filter((tile) => tile.row < most), rows: Math.min(row, most) };
  };

  const paint = async (canvas, { tiles, across, rows, width, height }) => {
    canvas.width = across * width;
    canvas.height = rows * height;
    const pen = canvas.getContext("2d", { alpha: false });
    await Promise.all(tiles.map(async ({ view, place, row, column }) => {
      const [picture, maps] = await Promise.all([image(`${view.folder}/${view.images[place]}.webp`), levels(view)]);
      if (picture) draw(pen, view, maps, place, picture, [column * width, row * height, width, height]);
    }));
    canvas.dataset.painted = "true";
  };

  // Draws the first pictures of views into a canvas, in rows.
  const grid = (canvas, views, across, most) => {
    const { tiles, rows } = arrange(views, across, most);
    const { width, height } = views[0];
    return paint(canvas, { tiles, across, rows, width, height });
  };
  // Draws one picture of a view.
  const single = (canvas, view, place) =>
    paint(canvas, { tiles: [{ view, place, row: 0, column: 0 }], across: 1, rows: 1, width: view.width, height: view.height });

  const actions = new WeakMap();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      actions.get(target)();
    }
  }, { rootMargin: "800px" });
  const whenNear = (element, action) => {
    actions.set(element, action);
    observer.observe(element);
  };

  // Draws the canvases of a page whose elements name their pictures.
  const fill = ({ pictures, across, most = Infinity }) => {
    for (const canvas of document.querySelectorAll("canvas[data-pictures]")) {
      const views = pictures[canvas.dataset.pictures];
      const { rows } = arrange(views, across, most);
      canvas.width = across * views[0].width; // its shape, before it is drawn
      canvas.height = rows * views[0].height;
      whenNear(canvas, () => grid(canvas, views, across, most));
    }
  };

  return { fill, grid, single, whenNear };
})();
