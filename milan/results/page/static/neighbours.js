// The neighbours of a unit on its plate: nearest units of its layer and of others, by exemplars, and antagonists.
"use strict";
const milanNeighbours = ({ unit, page, units, link, details, make, number }) => {
  const TITLES = ["Nearest in this layer", "Nearest in other layers", "Most exemplars in common", "Antagonists"];
  const FIELDS = 4; // numbers of one neighbour: layer, index, correlation and common exemplars in percent
  const entry = (layer, index, correlation, common) => {
    const other = units.get(`${page.layers[layer].name}:${index}`);
    if (!other) return null;
    const anchor = make("a");
    anchor.href = link(other);
    if (other.layer.strip) {
      const tile = make("canvas", "exemplar");
      [tile.width, tile.height] = [other.layer.strip.width, other.layer.strip.height];
      milanPictures.whenNear(tile, async () => {
        const found = await details(other);
        if (found?.exemplars) milanPictures.single(tile, found.exemplars, 0);
      });
      anchor.append(tile);
    }
    const facts = [other.id, correlation < -100 ? "" : `r ${number(correlation / 100)}`, common ? `${common}% of exemplars` : ""];
    const words = make("span", "words");
    words.append(make("span", "caption", other.text || other.reason || "no description"), make("small", "", facts.filter(Boolean).join(" · ")));
    anchor.append(words);
    const item = make("li");
    item.append(anchor);
    return item;
  };
  const lists = (unit.neighbours ?? []).flatMap((numbers, place) => {
    const items = [];
    for (let first = 0; first < numbers.length; first += FIELDS) items.push(entry(...numbers.slice(first, first + FIELDS)));
    const known = items.filter(Boolean);
    if (!known.length) return [];
    const list = make("div");
    const body = make("ol");
    body.append(...known);
    list.append(make("h3", "", TITLES[place]), body);
    return [list];
  });
  if (!lists.length) return [];
  const box = make("div", "neighbours");
  box.append(...lists);
  const legend = "r: correlation of mean activations over the images of the probe; antagonists have the most negative one. Exemplars: those in common as a share of both units’.";
  return [box, make("p", "legend", legend)];
};
