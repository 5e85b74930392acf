// Draws the map of units on a canvas, from the page's data block. Texts enter the document through textContent only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const canvas = at("map");
  const ink = canvas.getContext("2d");
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const plural = (count) => `${count.toLocaleString("en")} unit${count === 1 ? "" : "s"}`;

  // ---- units as columns: the place of a unit is its number in all of them -----------------------------------------
  const total = data.layers.reduce((sum, layer) => sum + layer.units.length, 0);
  const x = new Float32Array(total);
  const y = new Float32Array(total);
  const layerOf = new Uint16Array(total);
  const within = new Uint32Array(total); // place in its layer's columns
  let filled = 0;
  data.layers.forEach((layer, number) => {
    layer.units.forEach((_, place) => {
      x[filled] = layer.x[place];
      y[filled] = layer.y[place];
      layerOf[filled] = number;
      within[filled++] = place;
    });
    layer.on = true;
  });
  const words = data.texts.map(plain);
  const textOf = (unit) => data.layers[layerOf[unit]].texts[within[unit]];
  const idOf = (unit) => `${data.layers[layerOf[unit]].name}:${data.layers[layerOf[unit]].units[within[unit]]}`;
  const linkOf = (unit) => `index.html#${encodeURIComponent(idOf(unit)).replaceAll("%3A", ":").replaceAll("%40", "@")}`;

  // ---- colours: one hue for each layer, in the order of depth ------------------------------------------------------
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const colour = (number) => {
    const share = data.layers.length > 1 ? number / (data.layers.length - 1) : 0;
    const light = (dark() ? 0.66 : 0.48) + 0.14 * share;
    return `oklch(${light.toFixed(3)} 0.15 ${Math.round(20 + 290 * share)})`;
  };

  // ---- what is shown -----------------------------------------------------------------------------------------------
  let zoom = 1;
  let centre = { x: data.side / 2, y: data.side / 2 };
  let fits = null; // which texts have the words of the search; null without a search
  let current = -1;
  let queued = false;
  let size = { width: 1, height: 1 };

  const scale = () => (zoom * (Math.min(size.width, size.height) - 48)) / data.side;
  const toScreen = (unit) => ({ x: size.width / 2 + (x[unit] - centre.x) * scale(), y: size.height / 2 + (y[unit] - centre.y) * scale() });
  // Smaller dots for more units and on small screens, larger ones as the map is zoomed in.
  const radius = () => {
    const usual = Math.min(3.4, Math.max(1.1, 100 / Math.sqrt(total))) * Math.min(1, 0.4 + Math.min(size.width, size.height) / 1000);
    return Math.min(9, usual * Math.sqrt(Math.max(1, zoom)));
  };
  const fitsSearch = (unit) => !fits || fits[textOf(unit)];
  const isShown = (unit) => data.layers[layerOf[unit]].on && fitsSearch(unit);

  const drawPoints = (matching) => {
    const each = scale();
    const dot = matching && fits ? Math.max(3, 1.35 * radius()) : radius();
    const [left, top] = [size.width / 2 - centre.x * each, size.height / 2 - centre.y * each];
    ink.globalAlpha = matching ? (total > 5000 && !fits ? 0.75 : 0.9) : 0.13;
    let start = 0;
    data.layers.forEach((layer, number) => {
      const end = start + layer.units.length;
      if (layer.on) {
        ink.fillStyle = colour(number);
        ink.beginPath();
        for (let unit = start; unit < end; unit++) {
          if (fitsSearch(unit) !== matching) continue;
          const [a, b] = [left + x[unit] * each, top + y[unit] * each];
          if (a < -dot || b < -dot || a > size.width + dot || b > size.height + dot) continue;
          if (dot < 2) ink.rect(a - dot, b - dot, 2 * dot, 2 * dot); // faster, and as small looks the same
          else {
            ink.moveTo(a + dot, b);
            ink.arc(a, b, dot, 0, 2 * Math.PI);
          }
        }
        ink.fill();
      }
      start = end;
    });
    ink.globalAlpha = 1;
  };

  const drawLabels = (style) => {
    const each = scale();
    ink.font = `italic 15px ${style.getPropertyValue("--serif")}`;
    ink.textAlign = "center";
    ink.textBaseline = "middle";
    ink.lineJoin = "round";
    const taken = [];
    for (const [a, b, , label] of [...data.clusters].sort((one, other) => other[2] - one[2])) {
      const wide = ink.measureText(label).width / 2 + 4;
      const px = Math.min(Math.max(size.width / 2 + (a - centre.x) * each, wide), size.width - wide);
      const py = size.height / 2 + (b - centre.y) * each;
      if (py < 8 || py > size.height - 8 || Math.abs(size.width / 2 + (a - centre.x) * each - px) > 60) continue;
      if (taken.some((box) => Math.abs(box.x - px) < box.wide + wide && Math.abs(box.y - py) < 19)) continue;
      taken.push({ x: px, y: py, wide });
      ink.strokeStyle = style.getPropertyValue("--paper");
      ink.lineWidth = 4;
      ink.strokeText(label, px, py);
      ink.fillStyle = style.getPropertyValue("--ink");
      ink.fillText(label, px, py);
    }
  };

  const draw = () => {
    queued = false;
    // A probe resolves light-dark(), which a canvas does not.
    const style = { getPropertyValue: (name) => (name === "--serif" ? getComputedStyle(document.documentElement).getPropertyValue(name)
      : name === "--paper" ? getComputedStyle(document.body).backgroundColor : getComputedStyle(document.body).color) };
    ink.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    ink.clearRect(0, 0, size.width, size.height);
    if (fits) drawPoints(false);
    drawPoints(true);
    drawLabels(style);
    if (current < 0) return;
    const place = toScreen(current);
    ink.strokeStyle = style.getPropertyValue("--ink");
    ink.lineWidth = 2;
    ink.fillStyle = colour(layerOf[current]);
    ink.beginPath();
    ink.arc(place.x, place.y, radius() + 3, 0, 2 * Math.PI);
    ink.fill();
    ink.stroke();
  };
  const redraw = () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(draw);
  };

  // ---- the card of the current unit --------------------------------------------------------------------------------
  const placeTip = () => {
    const tip = at("tip");
    if (current < 0 || matchMedia("(max-width: 640px)").matches) {
      tip.style.left = tip.style.top = "";
      return;
    }
    const place = toScreen(current);
    const [wide, tall] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${place.x + wide + 24 < size.width ? place.x + 16 : Math.max(4, place.x - wide - 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(place.y - tall / 3, size.height - tall - 4))}px`;
  };
  // The exemplars of a unit, from the data of the page.
  const showExemplars = async (unit) => {
    at("tip-strip").hidden = true;
    const page = await milanLoad("layers");
    const layer = page?.layers.find((each) => each.name === data.layers[layerOf[unit]].name);
    const list = layer?.strip && await milanLoad(layer.list);
    const place = list ? list.index.indexOf(data.layers[layerOf[unit]].units[within[unit]]) : -1;
    const block = place < 0 ? null : await milanLoad(layer.blocks[Math.floor(place / page.block)]);
    const view = block?.[place % page.block]?.exemplars;
    if (!view || unit !== current) return;
    const { across, rows, width, height } = layer.strip;
    at("tip-strip").hidden = false;
    at("tip-strip").classList.toggle("two", rows === 2);
    at("tip-strip").style.aspectRatio = `${across * width} / ${rows * height}`;
    await milanPictures.grid(at("tip-picture"), [view], across, rows);
    placeTip();
  };
  const select = (unit, spoken = false) => {
    if (unit === current) return;
    current = unit;
    at("tip").hidden = unit < 0;
    canvas.classList.toggle("on-unit", unit >= 0);
    if (unit >= 0) {
      showExemplars(unit);
      at("tip-text").textContent = data.texts[textOf(unit)] || "no description";
      at("tip-unit").textContent = idOf(unit);
      at("tip-link").href = linkOf(unit);
      at("tip-link").tabIndex = -1;
      if (spoken) at("spoken").textContent = `${idOf(unit)}: ${data.texts[textOf(unit)] || "no description"}`;
      placeTip();
    }
    redraw();
  };
  const open = (unit) => { if (unit >= 0) location.href = linkOf(unit); };

  // ---- finding units near a place ----------------------------------------------------------------------------------
  const nearest = (px, py, most) => {
    let [best, least] = [-1, most * most];
    const each = scale();
    const [mx, my] = [centre.x + (px - size.width / 2) / each, centre.y + (py - size.height / 2) / each];
    least /= each * each;
    for (let unit = 0; unit < total; unit++) {
      const far = (x[unit] - mx) ** 2 + (y[unit] - my) ** 2;
      if (far < least && isShown(unit)) [best, least] = [unit, far];
    }
    return best;
  };
  // The closest unit within 45 degrees of a direction; a unit at the same place comes by its number.
  const toward = (dx, dy) => {
    let [best, least] = [-1, Infinity];
    for (let unit = 0; unit < total; unit++) {
      const [a, b] = [x[unit] - x[current], y[unit] - y[current]];
      const along = a * dx + b * dy;
      if (along <= 0 || Math.abs(a * dy - b * dx) > along) continue;
      const far = a * a + b * b;
      if (far < least && isShown(unit)) [best, least] = [unit, far];
    }
    return best;
  };
  const keepInView = () => {
    if (current < 0) return;
    const place = toScreen(current);
    const margin = 40;
    if (place.x < margin || place.x > size.width - margin) centre.x = x[current];
    if (place.y < margin || place.y > size.height - margin) centre.y = y[current];
  };

  // ---- zoom and pan ------------------------------------------------------------------------------------------------
  const zoomAt = (factor, px = size.width / 2, py = size.height / 2) => {
    const before = scale();
    zoom = Math.min(60, Math.max(0.6, zoom * factor));
    const after = scale();
    centre.x += (px - size.width / 2) * (1 / before - 1 / after);
    centre.y += (py - size.height / 2) * (1 / before - 1 / after);
    placeTip();
    redraw();
  };
  const pan = (dx, dy) => {
    centre.x -= dx / scale();
    centre.y -= dy / scale();
    placeTip();
    redraw();
  };
  const whole = () => {
    zoom = 1;
    centre = { x: data.side / 2, y: data.side / 2 };
    placeTip();
    redraw();
  };

  const fingers = new Map();
  let moved = 0;
  const spread = () => {
    const [one, other] = [...fingers.values()];
    return { far: Math.hypot(one.x - other.x, one.y - other.y) || 1, x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 };
  };
  const here = (event) => ({ x: event.offsetX, y: event.offsetY });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, here(event));
    moved = fingers.size > 1 ? Infinity : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = here(event);
    if (!fingers.has(event.pointerId)) {
      if (event.pointerType === "mouse") select(nearest(now.x, now.y, 14));
      return;
    }
    const last = fingers.get(event.pointerId);
    const before = fingers.size === 2 ? spread() : null;
    fingers.set(event.pointerId, now);
    moved += Math.hypot(now.x - last.x, now.y - last.y);
    if (before) {
      const after = spread();
      zoomAt(after.far / before.far, after.x, after.y);
      pan(after.x - before.x, after.y - before.y);
    } else if (moved > 4) pan(now.x - last.x, now.y - last.y);
  });
  const lift = (event) => {
    const tapped = fingers.delete(event.pointerId) && moved <= 4 && event.type === "pointerup";
    if (!tapped) return;
    const unit = nearest(event.offsetX, event.offsetY, event.pointerType === "mouse" ? 14 : 26);
    if (event.pointerType === "mouse") open(unit);
    // Without hovering the first tap shows a unit, the second opens it.
    else if (unit >= 0 && unit === current) open(unit);
    else select(unit, true);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && !fingers.size) select(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
  }, { passive: false });

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      const next = current < 0 ? nearest(size.width / 2, size.height / 2, Infinity) : toward(...ARROWS[event.key]);
      if (next >= 0) select(next, true);
      keepInView();
      placeTip();
      redraw();
    } else if (event.key === "Enter") open(current);
    else if (event.key === "Escape") select(-1);
    else if (event.key === "+" || event.key === "=" || event.key === "-") zoomAt(event.key === "-" ? 1 / 1.4 : 1.4, ...(current < 0 ? [] : Object.values(toScreen(current))));
    else if (event.key === "0") whole();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target === at("search")) return;
    event.preventDefault();
    at("search").focus();
  });

  // ---- layers, search, theme ---------------------------------------------------------------------------------------
  const count = () => {
    let shown = 0;
    for (let unit = 0; unit < total; unit++) shown += isShown(unit);
    at("count").textContent = shown === total ? plural(total) : `${shown.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  };
  const refresh = () => {
    const wanted = plain(at("search").value).split(/\s+/).filter(Boolean);
    fits = wanted.length ? words.map((text) => wanted.every((word) => text.includes(word))) : null;
    if (current >= 0 && !isShown(current)) select(-1);
    count();
    redraw();
  };
  data.layers.forEach((layer, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.title = `Show or hide ${layer.name}; double-click shows it alone`;
    layer.dot = document.createElement("i");
    const size = document.createElement("small");
    size.textContent = layer.units.length.toLocaleString("en");
    button.append(layer.dot, layer.name, size);
    const press = () => data.layers.forEach((each) => each.button.setAttribute("aria-pressed", each.on));
    button.addEventListener("click", (event) => {
      if (event.detail === 2) {
        const alone = data.layers.every((each, place) => each.on === (place === number));
        data.layers.forEach((each, place) => { each.on = alone || place === number; });
      } else if (event.detail < 2) layer.on = !layer.on;
      press();
      refresh();
    });
    layer.button = button;
    at("layers").append(button);
  });
  const paint = () => {
    data.layers.forEach((layer, number) => { layer.dot.style.background = colour(number); });
    redraw();
  };
  const kept = () => { try { return localStorage.getItem("milan-theme"); } catch { return null; } };
  if (kept()) document.documentElement.dataset.theme = kept();
  at("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("milan-theme", document.documentElement.dataset.theme); } catch { /* private windows store nothing */ }
    paint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  at("search").addEventListener("input", refresh);
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("closer").addEventListener("click", () => zoomAt(1.5));
  at("farther").addEventListener("click", () => zoomAt(1 / 1.5));
  at("whole").addEventListener("click", whole);
  new ResizeObserver(() => {
    size = { width: canvas.clientWidth, height: canvas.clientHeight };
    canvas.width = Math.round(size.width * devicePixelRatio);
    canvas.height = Math.round(size.height * devicePixelRatio);
    placeTip();
    draw();
  }).observe(canvas);
  paint();
  refresh();
})();
