// Shows the catalogue in the page's data (see page_data.py). Texts enter the document through textContent only.
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
  let described = 0;
  for (const layer of page.layers) {
    Object.assign(layer, { all: [], shown: [], count: layer.described, cards: new Map() });
    described += layer.described;
  }
  const read = (layer, list) => {
    list.index.forEach((index, place) => {
      const id = `${layer.name}:${index}`;
      const unit = { layer, place, index, id, status: list.status[place], text: list.text[place], score: list.score[place] };
      unit.reason = list.reasons[place] ?? "";
      layer.all.push(unit);
      units.set(id, unit);
    });
    layer.withCard = layer.all.filter((unit) => unit.status === "ok" || unit.status === "failed");
  };
  const link = (unit) => `#${encodeURIComponent(unit.id).replaceAll("%3A", ":").replaceAll("%40", "@")}`;
  const details = async (unit) => {
    const found = await milanLoad(unit.layer.blocks[Math.floor(unit.place / page.block)]);
    return found?.[unit.place % page.block] ?? null;
  };

  const strip = (unit) => {
    const { across, rows, width, height } = unit.layer.strip;
    const frame = make("span", rows === 2 ? "strip two" : "strip");
    frame.style.aspectRatio = `${across * width} / ${rows * height}`;
    const canvas = make("canvas");
    frame.append(canvas);
    // A moment later: cards that are scrolled past are not drawn.
    setTimeout(async () => {
      const found = frame.isConnected ? await details(unit) : null;
      if (found?.exemplars && frame.isConnected) milanPictures.grid(canvas, [found.exemplars], across, rows);
    }, 30);
    return frame;
  };

  const card = (unit) => {
    const made = make("a", `card ${unit.status}`);
    made.href = link(unit);
    made.tabIndex = unit === current ? 0 : -1;
    made.unit = unit;
    if (unit.layer.strip) made.append(strip(unit));
    made.append(make("span", "description", unit.text || unit.reason || "no description"));
    const label = make("span", "label");
    label.append(make("span", "", unit.id), make("span", "", unit.score === null ? "" : number(unit.score)));
    made.append(label);
    return made;
  };

  const STATES = { dead: "never activated on the probe", sparse: "active on too few images", invalid: "no finite activations" };
  const aside = (layer) => {
    const left = layer.all.filter((unit) => unit.status in STATES);
    if (!left.length) return;
    layer.aside = make("details", "aside");
    layer.aside.append(make("summary", "", `${plural(left.length, "unit")} not described`));
    for (const state of Object.keys(STATES)) {
      const those = left.filter((unit) => unit.status === state);
      if (!those.length) continue;
      const line = make("p", "", `${those.length} ${state}, ${STATES[state]}: `);
      for (const unit of those) {
        const to = make("a", "", unit.index);
        to.href = link(unit);
        line.append(to);
      }
      layer.aside.append(line);
    }
    layer.section.append(layer.aside);
  };

  const section = (layer) => {
    layer.section = make("section", "layer");
    layer.section.id = `layer-${layer.name}`;
    const head = make("h2", "", layer.name);
    layer.heading = make("small", "", [plural(layer.described, "unit"), layer.shape].filter(Boolean).join(" · "));
    head.append(layer.heading);
    layer.grid = make("div", "grid");
    layer.section.append(head, layer.grid);
    return layer.section;
  };

  // ---- search, sort, filter --------------------------------------------------------------------------------------------------------
  const bounds = { low: page.low, high: page.high };
  const scored = bounds.low !== null && bounds.low < bounds.high;
  const { compare } = new Intl.Collator();
  const SORTS = {
    unit: null, // as listed
    best: (one, other) => (other.score ?? -Infinity) - (one.score ?? -Infinity) || one.index - other.index,
    worst: (one, other) => (one.score ?? Infinity) - (other.score ?? Infinity) || one.index - other.index,
    text: (one, other) => compare(one.text, other.text) || one.index - other.index,
  };
  let shown = []; // units in the order in which they stand on the page
  let sorted = "unit";

  const resort = () => {
    if (at("sort").value === sorted) return;
    sorted = at("sort").value;
    const byUnit = (one, other) => one.place - other.place;
    for (const layer of page.layers) layer.withCard.sort(SORTS[sorted] ?? byUnit);
  };

  const matches = (words, low, high) => (unit) => {
    if (words.length) {
      unit.words ??= plain(`${unit.id} ${unit.text}`);
      if (!words.every((word) => unit.words.includes(word))) return false;
    }
    if (!scored || (low <= bounds.low && high >= bounds.high)) return true;
    return unit.score !== null && unit.score >= low && unit.score <= high;
  };

  const refresh = () => {
    resort();
    const low = Number(at("low").value);
    const high = Number(at("high").value);
    const words = plain(at("search").value).split(/\s+/).filter(Boolean);
    const narrowed = scored && (low > bounds.low || high < bounds.high);
    const filtered = words.length > 0 || narrowed;
    const fits = matches(words, low, high);
    const only = at("layer").value;
    for (const layer of page.layers) {
      const away = only !== "" && only !== layer.name;
      layer.shown = away ? [] : filtered ? layer.withCard.filter(fits) : layer.withCard;
      layer.count = layer.shown.length;
      layer.section.hidden = layer.count === 0 && (filtered || away);
      if (layer.aside) layer.aside.hidden = filtered;
      const of = layer.count < layer.described ? `${layer.count} of ` : "";
      layer.heading.textContent = [`${of}${plural(layer.described, "unit")}`, layer.shape].filter(Boolean).join(" · ");
    }
    shown = page.layers.flatMap((layer) => layer.shown);
    at("count").textContent = shown.length === described ? plural(shown.length, "unit") : `${shown.length} of ${described}`;
    at("nothing").hidden = shown.length > 0 || described === 0;
    at("low-value").textContent = number(low);
    at("high-value").textContent = number(high);
    if (!current || !current.layer.shown.includes(current)) current = shown[0] ?? null;
    layout();
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
    const set = (other, index) => { const held = other?.layer.cards.get(other); if (held) held.tabIndex = index; };
    set(current, -1);
    current = unit;
    set(current, 0);
  };
  const focus = (unit) => {
    if (!unit) return;
    rove(unit);
    grid.reveal(unit)?.focus({ preventScroll: true });
  };
  const steps = {
    ArrowRight: (unit) => shown[shown.indexOf(unit) + 1],
    ArrowLeft: (unit) => shown[shown.indexOf(unit) - 1],
    ArrowDown: (unit) => grid.beside(unit, 1),
    ArrowUp: (unit) => grid.beside(unit, -1),
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
      focus(steps[event.key](event.target.unit));
    }
  });
  // The tab order has a card that is there, also when the current one was scrolled away.
  addEventListener("scrollend", () => {
    if (!current || current.layer.cards.has(current)) return;
    const near = [...document.querySelectorAll(".card")].find((each) => each.getBoundingClientRect().top >= 0);
    if (near) rove(near.unit);
  });

  // ---- starting --------------------------------------------------------------------------------------------------------------------
  const contents = () => {
    for (const layer of page.layers) {
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

  const layout = () => {
    const hidden = grid.layout();
    at("rest").hidden = hidden === 0;
    at("rest").textContent = `${plural(hidden, "unit")} more than a page can show: choose a layer, or search.`;
  };
  const start = async () => {
    const lists = await Promise.all(page.layers.map((layer) => milanLoad(layer.list)));
    const lost = lists.includes(null);
    at("lost").hidden = !lost;
    page.layers.forEach((layer, number) => {
      read(layer, lists[number] ?? { index: [], status: [], text: [], score: [], reasons: {} });
      aside(layer);
    });
    refresh();
    at("units").setAttribute("aria-busy", "false");
    milanPlate({ page, units, at, make, number, focus, link, details, shown: () => shown });
  };

  contents();
  at("units").append(...page.layers.map(section));
  at("range").hidden = !scored;
  for (const id of ["low", "high"]) {
    at(id).min = bounds.low ?? 0;
    at(id).max = bounds.high ?? 0;
    at(id).value = bounds[id] ?? 0;
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
  const grid = milanGrid({ layers: page.layers, main: at("units"), makeCard: card });
  layout(); // with room for all cards, before their texts are there
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    layout();
  });
  start();
})();
