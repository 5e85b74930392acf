// Shows the catalogue in the page's data block. Texts enter the document through textContent only.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 0.01 || size >= 1e5) ? value.toExponential(1) : value.toFixed(size < 100 ? 2 : 0);
    return text.replace("-", "−");
  };
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  // ---- the units -------------------------------------------------------------------------------------------------------------------
  const units = new Map(); // "layer4:17" -> unit
  for (const layer of page.layers) {
    for (const unit of layer.units) {
      unit.layer = layer;
      unit.id = `${layer.name}:${unit.index}`;
      unit.words = plain(`${unit.id} ${unit.text}`);
      units.set(unit.id, unit);
    }
  }
  const described = [...units.values()].filter((unit) => unit.status === "ok" || unit.status === "failed");
  const withCard = new Set(described);
  const link = (unit) => `#${encodeURIComponent(unit.id).replaceAll("%3A", ":").replaceAll("%40", "@")}`;

  const strip = (unit) => {
    const sheet = unit.layer.sheet;
    const frame = make("span", "strip");
    const rows = unit.activations.length >= 2 * sheet.across ? 2 : 1;
    if (rows === 2) frame.classList.add("two");
    frame.style.aspectRatio = `${sheet.across * sheet.width} / ${rows * sheet.height}`;
    const image = make("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = "";
    image.width = sheet.across * sheet.width;
    image.height = Math.ceil(Math.min(unit.activations.length, sheet.most) / sheet.across) * sheet.height;
    image.src = unit.picture;
    frame.append(image);
    return frame;
  };

  const card = (unit) => {
    const made = make("a", `card ${unit.status}`);
    made.href = link(unit);
    made.tabIndex = -1;
    if (unit.picture) made.append(strip(unit));
    made.append(make("span", "description", unit.text || unit.reason || "no description"));
    const label = make("span", "label");
    label.append(make("span", "", unit.id), make("span", "", unit.score === null ? "" : number(unit.score)));
    made.append(label);
    unit.card = made;
    return made;
  };

  const STATES = { dead: "never activated on the probe", sparse: "active on too few images", invalid: "no finite activations" };
  const aside = (layer) => {
    const left = layer.units.filter((unit) => unit.status in STATES);
    if (!left.length) return null;
    const box = make("details", "aside");
    box.append(make("summary", "", `${plural(left.length, "unit")} not described`));
    for (const state of Object.keys(STATES)) {
      const those = left.filter((unit) => unit.status === state);
      if (!those.length) continue;
      const line = make("p", "", `${those.length} ${state}, ${STATES[state]}: `);
      for (const unit of those) {
        const to = make("a", "", unit.index);
        to.href = link(unit);
        line.append(to);
      }
      box.append(line);
    }
    return box;
  };

  const section = (layer) => {
    const made = make("section", "layer");
    made.id = `layer-${layer.name}`;
    const head = make("h2", "", layer.name);
    layer.shown = make("small");
    head.append(layer.shown);
    layer.grid = make("div", "grid");
    layer.grid.append(...layer.units.filter((unit) => withCard.has(unit)).map(card));
    layer.aside = aside(layer);
    layer.section = made;
    made.append(head, layer.grid, ...(layer.aside ? [layer.aside] : []));
    return made;
  };

  // ---- search, sort, filter --------------------------------------------------------------------------------------------------------
  const scores = described.map((unit) => unit.score).filter((score) => score !== null);
  const bounds = { low: Math.min(...scores), high: Math.max(...scores) };
  const scored = scores.length > 0 && bounds.low < bounds.high;
  const SORTS = {
    unit: (one, other) => one.index - other.index,
    best: (one, other) => (other.score ?? -Infinity) - (one.score ?? -Infinity) || one.index - other.index,
    worst: (one, other) => (one.score ?? Infinity) - (other.score ?? Infinity) || one.index - other.index,
    text: (one, other) => one.text.localeCompare(other.text) || one.index - other.index,
  };
  let shown = []; // units in the order in which they stand on the page
  let sorted = "unit";

  const resort = () => {
    if (at("sort").value === sorted) return;
    sorted = at("sort").value;
    for (const layer of page.layers) {
      const those = layer.units.filter((unit) => unit.card).sort(SORTS[sorted]);
      layer.grid.append(...those.map((unit) => unit.card));
    }
  };

  const matches = (words, low, high) => (unit) => {
    if (!words.every((word) => unit.words.includes(word))) return false;
    if (!scored || (low <= bounds.low && high >= bounds.high)) return true;
    return unit.score !== null && unit.score >= low && unit.score <= high;
  };

  const refresh = () => {
    resort();
    const low = Number(at("low").value);
    const high = Number(at("high").value);
    const words = plain(at("search").value).split(/\s+/).filter(Boolean);
    const fits = matches(words, low, high);
    const only = at("layer").value;
    shown = [];
    for (const layer of page.layers) {
      const here = only && only !== layer.name ? [] : layer.units.filter((unit) => unit.card && fits(unit)).sort(SORTS[sorted]);
      const kept = new Set(here);
      for (const unit of layer.units) if (unit.card) unit.card.hidden = !kept.has(unit);
      const filtered = words.length > 0 || (scored && (low > bounds.low || high < bounds.high));
      layer.section.hidden = here.length === 0 && (filtered || (only !== "" && only !== layer.name));
      if (layer.aside) layer.aside.hidden = filtered;
      const of = here.length < layer.described ? `${here.length} of ` : "";
      layer.shown.textContent = [`${of}${plural(layer.described, "unit")}`, layer.shape].filter(Boolean).join(" · ");
      shown.push(...here);
    }
    at("count").textContent = shown.length === described.length ? plural(shown.length, "unit") : `${shown.length} of ${described.length}`;
    at("nothing").hidden = shown.length > 0 || described.length === 0;
    at("low-value").textContent = number(low);
    at("high-value").textContent = number(high);
    rove(shown.find((unit) => unit.card.tabIndex === 0) ?? shown[0]);
  };

  const clear = () => {
    at("search").value = "";
    at("layer").value = "";
    at("low").value = bounds.low;
    at("high").value = bounds.high;
    refresh();
  };

  // ---- the keyboard: one card is in the tab order, arrows move it ------------------------------------------------------------------
  let current = null;
  const rove = (unit) => {
    if (current) current.card.tabIndex = -1;
    current = unit ?? null;
    if (current) current.card.tabIndex = 0;
  };
  const focus = (unit) => {
    if (!unit) return;
    rove(unit);
    unit.card.focus();
    unit.card.scrollIntoView({ block: "nearest" });
  };
  const above = (unit, down) => {
    // The unit in the same column one row up or down: the first, on the nearest row that way, whose middle is closest.
    const box = unit.card.getBoundingClientRect();
    const place = shown.indexOf(unit);
    const way = down ? shown.slice(place + 1, place + 40) : shown.slice(Math.max(0, place - 40), place).reverse();
    let best = null;
    let row = null;
    for (const other of way) {
      const there = other.card.getBoundingClientRect();
      if (down ? there.top <= box.top + 1 : there.top >= box.top - 1) continue;
      row ??= there.top;
      if (Math.abs(there.top - row) > 1) break;
      const far = Math.abs(there.left - box.left);
      if (!best || far < best.far) best = { far, other };
    }
    return best?.other;
  };
  const steps = {
    ArrowRight: (unit) => shown[shown.indexOf(unit) + 1],
    ArrowLeft: (unit) => shown[shown.indexOf(unit) - 1],
    ArrowDown: (unit) => above(unit, true),
    ArrowUp: (unit) => above(unit, false),
    Home: () => shown[0],
    End: () => shown[shown.length - 1],
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input, select, textarea");
    if (at("plate").open) {
      if (event.key === "ArrowLeft") at("before").click();
      else if (event.key === "ArrowRight") at("after").click();
      else return;
      event.preventDefault();
    } else if (event.key === "/" && !(typing && event.target.type === "search")) {
      event.preventDefault();
      at("search").focus();
      at("search").select();
    } else if (event.target === at("search") && event.key === "Escape") {
      at("search").value = "";
      refresh();
    } else if (event.target === at("search") && (event.key === "Enter" || event.key === "ArrowDown")) {
      event.preventDefault();
      focus(shown[0]);
    } else if (!typing && event.key in steps && event.target.classList?.contains("card")) {
      event.preventDefault();
      focus(steps[event.key](current));
    }
  });

  // ---- starting --------------------------------------------------------------------------------------------------------------------
  const contents = () => {
    for (const layer of page.layers) {
      layer.described = layer.units.filter((unit) => withCard.has(unit)).length;
      const to = make("a", "", layer.name);
      to.href = `#${encodeURIComponent(layer.name).replaceAll("%40", "@")}`;
      to.append(make("small", "", layer.described));
      at("contents").append(to);
      const option = make("option", "", layer.name);
      option.value = layer.name;
      at("layer").append(option);
    }
  };
  const theme = () => {
    const kept = () => { try { return localStorage.getItem("milan-theme"); } catch { return null; } };
    const set = (name) => { if (name) document.documentElement.dataset.theme = name; };
    set(kept());
    at("theme").addEventListener("click", () => {
      const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      set(dark === "dark" ? "light" : "dark");
      try { localStorage.setItem("milan-theme", document.documentElement.dataset.theme); } catch { /* private windows store nothing */ }
    });
  };

  contents();
  at("units").append(...page.layers.map(section));
  at("range").hidden = !scored;
  for (const id of ["low", "high"]) {
    at(id).min = bounds.low;
    at(id).max = bounds.high;
    at(id).value = bounds[id];
    at(id).addEventListener("input", () => {
      if (Number(at("low").value) > Number(at("high").value)) at(id).value = at(id === "low" ? "high" : "low").value;
      refresh();
    });
  }
  for (const id of ["search", "layer", "sort"]) at(id).addEventListener("input", refresh);
  for (const id of ["reset", "clear"]) at(id).addEventListener("click", clear);
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", () => at("more").setAttribute("aria-expanded", at("filters").classList.toggle("open")));
  theme();
  refresh();
  milanPlate({ page, units, at, make, number, focus, shown: () => shown });
})();
