// How a describer arrived at a description: the images it captioned, the images it generated, the texts it read. Loaded before plate.js.
"use strict";
const milanReasons = ({ unit, make, number }) => {
  const reason = unit.reasoning;
  if (!reason) return [];

  // One picture of a sheet of so many rows.
  const tile = (file, place, rows, label) => {
    const found = make("div", "exemplar");
    if (file) {
      found.style.backgroundImage = `url("${file}")`;
      found.style.backgroundSize = `${100 * reason.across}% ${100 * rows}%`;
      const x = (100 * (place % reason.across)) / (reason.across - 1);
      const y = rows > 1 ? (100 * Math.floor(place / reason.across)) / (rows - 1) : 0;
      found.style.backgroundPosition = `${x}% ${y}%`;
    }
    found.style.aspectRatio = "1";
    found.role = "img";
    found.ariaLabel = label;
    found.title = label;
    return found;
  };

  const seen = () => {
    const list = make("ol", "seen");
    const rows = Math.ceil(reason.seen.length / reason.across);
    reason.seen.forEach((each, place) => {
      const item = make("li");
      const what = `${each.part ? "part of image" : "image"} ${each.image}, activation ${number(each.activation)}`;
      const text = make("div");
      text.append(make("span", "caption", each.caption || "no caption"));
      if (each.label && each.label !== each.caption) text.append(make("span", "short", each.label));
      text.append(make("small", "", what));
      item.append(...(reason.files.seen ? [tile(reason.files.seen, place, rows, what)] : []), text);
      list.append(item);
    });
    return [make("h3", "", "Images and their captions"), list,
      make("p", "legend", "The images with the largest activation and the parts of them that activate the unit, each with its caption and the shortened caption.")];
  };

  const painted = () => {
    const list = make("ol", "painted");
    reason.painted.forEach((each, row) => {
      const item = make("li", each.text === unit.text ? "chosen" : "");
      const strip = make("div", "strip-of-ten");
      each.order.forEach((picture, place) => {
        const rank = String(each.ranks[picture]); // whole, or halves where some share theirs
        const label = `picture ${picture + 1} of ${each.text}: rank ${rank}, activation ${number(each.activations[picture])}`;
        const cell = make("div");
        if (reason.files.painted) cell.append(tile(reason.files.painted, row * reason.across + place, reason.painted.length, label));
        cell.append(make("small", "", rank));
        strip.append(cell);
      });
      item.append(make("span", "caption", each.text), strip);
      list.append(item);
    });
    return [make("h3", "", "Candidates and their generated images"), list,
      make("p", "legend", "The generated images of each candidate, largest activation first; below each image its rank among all of them.")];
  };

  const pairs = () => {
    const table = make("table", "pairs");
    for (const [text, value] of [...reason.pairs].reverse()) {
      const row = table.insertRow();
      row.insertCell().textContent = text;
      row.insertCell().textContent = value;
    }
    return [make("h3", "", "Texts that the language model read"), table, make("p", "legend", "Strongest first; integers up to 10.")];
  };

  return [...(reason.seen.length ? seen() : []), ...(reason.painted.length ? painted() : []), ...(reason.pairs.length ? pairs() : [])];
};
