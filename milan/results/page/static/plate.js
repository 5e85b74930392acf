// The plate: one unit opened, reached by its link (#layer4:17). It is loaded before page.js, which starts it.
"use strict";
const milanPlate = ({ page, units, at, make, number, focus, link, details, shown }) => {
  const plate = at("plate");
  let open = null;

  const drawn = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  const exemplars = (view) => {
    if (!view) return [];
    const list = make("ol", "exemplars");
    view.images.forEach((image, place) => {
      const item = make("li");
      const tile = make("canvas", "exemplar");
      tile.role = "img";
      tile.ariaLabel = `exemplar ${place + 1}, image ${image}, activation ${number(view.activations[place])}`;
      tile.title = `image ${image} of the probe`;
      tile.width = view.width;
      tile.height = view.height;
      milanPictures.whenNear(tile, () => milanPictures.single(tile, view, place));
      item.append(tile, make("small", "", number(view.activations[place])));
      list.append(item);
    });
    return [list, make("p", "legend", "Strongest first, each with its peak activation. Highlighted: where the activation exceeds the unit’s threshold.")];
  };

  const histogram = (unit) => {
    if (!unit.histogram) return [];
    const { counts, low, high } = unit.histogram;
    const [width, height] = [400, 92];
    const step = width / counts.length;
    const tallest = Math.log1p(Math.max(...counts));
    const from = Math.min(...(unit.exemplars?.activations ?? []));
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height + 1}`, role: "img", "aria-label": "Histogram of peak activations" });
    counts.forEach((count, bin) => {
      const tall = tallest ? (height * Math.log1p(count)) / tallest : 0;
      const reaches = low + ((bin + 1) * (high - low)) / counts.length > from;
      svg.append(drawn("rect", { class: reaches ? "shown" : "bins", x: bin * step, y: height - tall, width: step - 1, height: tall }));
    });
    svg.append(drawn("line", { class: "base", x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 }));
    if (unit.threshold !== null && unit.threshold >= low && unit.threshold <= high) {
      const x = (width * (unit.threshold - low)) / (high - low || 1);
      svg.append(drawn("line", { class: "mark", x1: x, x2: x, y1: 0, y2: height }));
    }
    const scale = make("div", "scale");
    scale.append(make("span", "", number(low)), make("span", "", number(high)));
    const total = counts.reduce((sum, count) => sum + count, 0);
    const legend = `Peak activation in ${total.toLocaleString("en")} images, counts on a log scale. Coloured: from the weakest exemplar on. ` +
      `Dashed: the threshold, ${number(unit.threshold)}.`;
    return [make("h3", "", "Activations"), svg, scale, make("p", "legend", legend)];
  };

  // Shares of classes over the range of the activation, as stacked areas (Figure 3 of Linear Explanations).
  const ranges = (unit) => {
    if (!unit.ranges) return [];
    const { edges, classes, shares, fewest } = unit.ranges;
    const [width, height] = [600, 190];
    const low = edges[0];
    const along = (value) => (width * (value - low)) / (edges[edges.length - 1] - low || 1);
    const middles = edges.slice(1).map((edge, place) => along((edge + edges[place]) / 2));
    const stops = [0, ...middles, width]; // level from the outer ranges' middles on
    const level = (row) => [row[0], ...row, row[row.length - 1]];
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Share of each class by activation" });
    const legend = make("ul", "classes");
    const area = (kind, name, from, to, share) => {
      const down = stops.map((x, place) => `${x.toFixed(1)},${(height * (1 - from[place])).toFixed(1)}`).reverse();
      const up = stops.map((x, place) => `${x.toFixed(1)},${(height * (1 - to[place])).toFixed(1)}`);
      const shape = drawn("polygon", { class: kind, points: [...up, ...down].join(" ") });
      const title = drawn("title", {});
      title.textContent = name;
      shape.append(title);
      svg.append(shape);
      const entry = make("li", "", name);
      entry.prepend(make("i", kind));
      entry.append(make("small", "", `${Math.round(100 * share)}%`));
      legend.append(entry);
    };
    let base = stops.map(() => 0);
    shares.forEach((row, place) => {
      const top = level(row).map((share, stop) => Math.min(1, base[stop] + share / 100));
      area(`class-${place}`, classes[place], base, top, row[row.length - 1] / 100);
      base = top;
    });
    area("class-rest", "all other classes", base, stops.map(() => 1), 1 - base[base.length - 1]);
    const scale = make("div", "scale");
    scale.append(make("span", "", number(low)), make("span", "", number(edges[edges.length - 1])));
    const text = `Share of each class among images of similar mean activation, from weak to strong: ${middles.length} ranges of at least ` +
      `${fewest} images. Percentages: in the strongest range.`;
    return [make("h3", "", "Classes by activation"), svg, scale, legend, make("p", "legend", text)];
  };

  // Weights to the right and left of one zero line.
  const concepts = (unit) => {
    if (!unit.concepts?.length) return [];
    const weights = unit.concepts.map(([, weight]) => weight);
    const low = Math.min(0, ...weights);
    const wide = Math.max(0, ...weights) - low || 1;
    const table = make("table", "weights");
    for (const [name, weight] of unit.concepts) {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      const cell = row.insertCell();
      cell.className = "bar-cell";
      const axis = make("span", "axis");
      const bar = make("span", weight < 0 ? "weight minus" : "weight");
      bar.style.left = `${(100 * (Math.min(0, weight) - low)) / wide}%`;
      bar.style.width = `${(100 * Math.abs(weight)) / wide}%`;
      const zero = make("span", "zero");
      zero.style.left = `${(-100 * low) / wide}%`;
      axis.append(bar, zero);
      cell.append(axis);
      row.insertCell().textContent = weight > 0 ? `+${number(weight)}` : number(weight);
    }
    const start = unit.bias ? [make("p", "legend", `Bias: ${number(unit.bias)}.`)] : [];
    return [make("h3", "", "Concepts and their weights"), table, ...start];
  };

  const candidates = (unit) => {
    if (!unit.candidates?.length) return [];
    const parts = [...new Set(unit.candidates.flatMap((candidate) => Object.keys(candidate)))].filter((name) => name !== "text" && name !== "score");
    const columns = parts.some((name) => unit.candidates.every((each) => each[name] === each.score)) ? parts : ["score", ...parts];
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const name of ["candidate", ...columns]) {
      const cell = make("th", "", name === "pmi" ? "PMI" : name.replaceAll("_", " "));
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const candidate of unit.candidates) {
      const row = body.insertRow();
      if (candidate.text === unit.text) row.className = "chosen";
      row.insertCell().textContent = candidate.text;
      for (const name of columns) row.insertCell().textContent = name === "length" ? candidate[name] : number(candidate[name]);
    }
    const more = unit.more ? [make("p", "legend", `${unit.more} more in descriptions.csv beside this page.`)] : [];
    return [make("h3", "", "Candidates"), table, ...more];
  };

  const WHY = {
    dead: "Not described: dead. It was never active on the probe.",
    sparse: "Not described: sparse. It was active on too few images.",
    invalid: "Not described: invalid. It has no finite activations.",
    failed: "Not described: the describer failed.",
  };

  // The evidence for a description, from the details of the unit; empty until they are loaded.
  const evidence = (unit, found) => {
    const whole = found && { ...unit, ...found };
    at("plate-exemplars").replaceChildren(...(whole ? exemplars(whole.exemplars) : []));
    at("plate-ranges").replaceChildren(...(whole ? ranges(whole) : []));
    at("plate-reasons").replaceChildren(...(whole ? milanReasons({ unit: whole, make, number }) : []));
    at("plate-neighbours").replaceChildren(...(whole ? milanNeighbours({ unit: whole, page, units, link, details, make, number }) : []));
    at("plate-histogram").replaceChildren(...(whole ? histogram(whole) : []));
    at("plate-concepts").replaceChildren(...(whole ? concepts(whole) : []));
    at("plate-candidates").replaceChildren(...(whole ? candidates(whole) : []));
  };

  const fill = async (unit) => {
    plate.setAttribute("aria-busy", "true");
    at("plate-unit").textContent = unit.id;
    at("plate-text").textContent = unit.text || WHY[unit.status] || "Not described.";
    const score = unit.score === null ? [] : [`score ${number(unit.score)}`];
    at("plate-facts").textContent = [...score, unit.layer.shape, page.describer, unit.reason].filter(Boolean).join(" · ");
    const place = shown().indexOf(unit);
    at("before").disabled = place <= 0;
    at("after").disabled = place < 0 || place === shown().length - 1;
    const found = await details(unit);
    if (open !== unit) return;
    evidence(unit, found);
    plate.scrollTop = 0;
    plate.setAttribute("aria-busy", "false");
  };

  const show = (unit) => {
    open = unit;
    if (!plate.open) {
      evidence(unit, null);
      plate.showModal();
    }
    fill(unit);
  };

  const turn = (by) => {
    const next = shown()[shown().indexOf(open) + by];
    if (!next) return;
    history.replaceState(null, "", link(next));
    show(next);
  };

  const follow = () => {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { /* a stray % is part of the name */ }
    const layer = page.layers.find((each) => each.name === name);
    if (units.has(name)) return show(units.get(name));
    if (plate.open) plate.close();
    if (layer) layer.section.scrollIntoView();
    return undefined;
  };

  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  at("close").addEventListener("click", () => plate.close());
  plate.addEventListener("click", (event) => { if (event.target === plate) plate.close(); });
  plate.addEventListener("close", () => {
    if (units.has(open?.id)) history.replaceState(null, "", location.href.split("#")[0]);
    if (shown().includes(open)) focus(open);
    open = null;
  });
  addEventListener("hashchange", follow);
  follow();
};
