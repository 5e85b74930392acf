// Keeps only the cards near the window in the document. It is loaded before page.js, which starts it.
"use strict";
const milanGrid = ({ layers, main, makeCard }) => {
  const WIDTH = 236; // smallest width of a card
  const LINES = 3; // of a description, at most
  const WRAPPED = 1.15; // room that is lost at the ends of lines
  const TALLEST = 3e7; // pixels; browsers draw nothing beyond some 33 million
  let columns = 1;
  let gap = 0;

  // What a card's size depends on besides its pictures: measured on a card without any.
  const measure = () => {
    const sample = makeCard({ id: "x", text: "the quick brown fox jumps over the lazy dog", layer: {}, score: null, status: "ok" });
    sample.style.width = "max-content";
    sample.style.visibility = "hidden";
    const frame = document.createElement("div");
    frame.className = "grid";
    frame.append(sample);
    main.append(frame);
    const style = getComputedStyle(frame);
    const text = sample.querySelector(".description");
    const found = {
      gaps: [parseFloat(style.columnGap), parseFloat(style.rowGap)],
      width: frame.clientWidth,
      line: parseFloat(getComputedStyle(text).lineHeight),
      letter: text.getBoundingClientRect().width / text.textContent.length,
      height: sample.getBoundingClientRect().height,
    };
    frame.remove();
    return found;
  };

  const clear = (layer) => {
    for (const card of layer.cards.values()) card.remove();
    layer.cards.clear();
  };

  // Shows rows of cards from the first up to the last, without it, at their place in the grid.
  const place = (layer, first, last) => {
    const rows = Math.min(layer.most, Math.ceil(layer.count / columns));
    const wanted = layer.shown.slice(first * columns, Math.min(last, rows) * columns);
    const kept = new Set(wanted);
    for (const [unit, card] of layer.cards) {
      if (kept.has(unit)) continue;
      card.remove();
      layer.cards.delete(unit);
    }
    let next = layer.grid.firstChild;
    for (const unit of wanted) {
      if (!layer.cards.has(unit)) layer.cards.set(unit, makeCard(unit));
      const card = layer.cards.get(unit);
      if (card === next) next = next.nextSibling;
      else layer.grid.insertBefore(card, next);
    }
    layer.grid.style.paddingTop = `${wanted.length ? first * layer.step : 0}px`;
  };

  const update = () => {
    const boxes = layers.map((layer) => (layer.section.hidden ? null : layer.grid.getBoundingClientRect()));
    layers.forEach((layer, number) => {
      if (!boxes[number]) {
        clear(layer);
        return;
      }
      const rows = Math.min(layer.most, Math.ceil(layer.count / columns));
      const row = (y) => Math.min(rows, Math.max(0, Math.floor((y - boxes[number].top) / layer.step)));
      const [first, last] = [row(-innerHeight), row(2 * innerHeight + layer.step)];
      if (first === layer.first && last === layer.last) return;
      [layer.first, layer.last] = [first, last];
      place(layer, first, last);
    });
  };

  // To be called when the units that are shown, or the width of the page, have changed. Returns the number of units without room.
  const layout = () => {
    const sample = measure();
    gap = sample.gaps[1];
    columns = Math.max(1, Math.floor((sample.width + sample.gaps[0]) / (WIDTH + sample.gaps[0])));
    main.style.setProperty("--columns", columns);
    const width = (sample.width - (columns - 1) * sample.gaps[0]) / columns;
    let left = TALLEST;
    let hidden = 0;
    for (const layer of layers) {
      const strip = layer.strip ? (width * layer.strip.rows * layer.strip.height) / (layer.strip.across * layer.strip.width) : 0;
      const lines = Math.min(LINES, Math.max(1, Math.ceil((layer.longest * sample.letter * WRAPPED) / width)));
      const height = Math.ceil(strip + sample.height + (lines - 1) * sample.line);
      layer.step = height + gap;
      layer.most = Math.floor(left / layer.step);
      const rows = Math.min(layer.most, Math.ceil(layer.count / columns));
      hidden += Math.max(0, layer.count - rows * columns);
      left -= rows * layer.step;
      layer.grid.style.gridAutoRows = `${height}px`;
      layer.grid.style.height = `${Math.max(0, rows * layer.step - gap)}px`;
      layer.first = layer.last = -1;
    }
    update();
    return hidden;
  };

  // Scrolls as little as shows the unit, and returns its card.
  const reveal = (unit) => {
    const { layer } = unit;
    const row = Math.floor(layer.shown.indexOf(unit) / columns);
    const top = layer.grid.getBoundingClientRect().top + row * layer.step;
    const ceiling = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0;
    const below = top + layer.step - innerHeight;
    if (top < ceiling) scrollBy(0, top - ceiling);
    else if (below > 0) scrollBy(0, Math.min(below, top - ceiling));
    update();
    return layer.cards.get(unit);
  };

  // The unit in the same column one row up (-1) or down (1).
  const beside = (unit, way) => {
    const row = Math.floor(unit.layer.shown.indexOf(unit) / columns);
    const column = unit.layer.shown.indexOf(unit) % columns;
    const of = (layer, number) => layer.shown[Math.min(number * columns + column, layer.shown.length - 1)];
    const rows = (layer) => Math.ceil(layer.shown.length / columns);
    if (row + way >= 0 && row + way < rows(unit.layer)) return of(unit.layer, row + way);
    const others = way > 0 ? layers.slice(layers.indexOf(unit.layer) + 1) : layers.slice(0, layers.indexOf(unit.layer)).reverse();
    const other = others.find((layer) => layer.shown.length);
    return other && of(other, way > 0 ? 0 : rows(other) - 1);
  };

  addEventListener("scroll", update, { passive: true });
  return { layout, update, reveal, beside };
};
